"""metaft/scaling/laws.py: the forms as their formulas say, in the units of the data."""

import jax
import numpy as np
import pytest

from metaft.errors import InputError
from metaft.scaling import laws, points

SIZES = np.geomspace(100.0, 1e5, 7)
MODELS = np.array([1e6, 4e6, 2e7, 3e6, 8e6, 1e7, 5e6])
TOKENS = np.array([1e8, 3e8, 2e8, 9e8, 1e8, 4e8, 5e8])


def formula(form, c):
    """The loss as the module's docstring writes it."""
    e = c.get('E', 0.0)
    match form:
        case 'power':
            return c['A'] * SIZES ** -c['beta'] + e
        case 'rectified':
            return c['B'] / (c['D_l'] + SIZES ** c['beta']) + e
        case 'multiplicative':
            return c['A'] * MODELS ** -c['alpha'] * SIZES ** -c['beta'] + e
        case 'rectified_multiplicative':
            return c['A'] * MODELS ** -c['alpha'] / (c['D_l'] + SIZES ** c['beta']) + e
        case 'additive':
            return c['A'] * MODELS ** -c['alpha'] + c['B'] * SIZES ** -c['beta'] + e
    powers = MODELS ** -c['alpha_model'] * TOKENS ** -c['alpha_tokens']
    return c['A'] * powers * SIZES ** -c['beta'] + e


@pytest.mark.parametrize('irreducible', [True, False])
@pytest.mark.parametrize('form', laws.FORMS)
def test_constants_in_the_units_of_the_data_give_the_centred_law(form, irreducible):
    factors = {'all_factors': ('model', 'tokens')}.get(form, ('model',))
    measured = points.make(np.ones(7), SIZES, [MODELS, TOKENS][: len(factors)], factors)
    order = np.argsort(SIZES)
    law = laws.Law(form, () if form in laws.WITHOUT_FACTORS else factors, irreducible)
    centre = laws.Centre.of(measured)
    theta_J = np.random.default_rng(0).uniform(0.1, 0.6, len(law.names))
    with jax.enable_x64(True):
        found = np.exp(laws.log_loss(law, theta_J, *centre.inputs(measured)))
    named = dict(zip(law.names, laws.constants(law, theta_J[None], centre)[0]))
    np.testing.assert_allclose(found, formula(form, named)[order], rtol=1e-12)


def test_constants_are_named_after_their_factor_where_there_are_several():
    assert laws.Law('multiplicative', ('model',)).names == ('A', 'alpha', 'beta', 'E')
    several = laws.Law('multiplicative', ('model', 'tokens'), irreducible=False)
    assert several.names == ('A_model', 'A_tokens', 'alpha_model', 'alpha_tokens', 'beta')


def test_every_start_lies_within_the_bounds_and_near_the_data():
    measured = points.make(3.0 * SIZES**-0.1, SIZES, [np.ones(7)], ['model'])
    for form in ('power', 'rectified', 'multiplicative', 'rectified_multiplicative'):
        law = laws.Law(form, () if form in laws.WITHOUT_FACTORS else ('model',))
        low_J, high_J = laws.bounds(law, measured)
        starts_UJ = laws.starts(law, measured)
        assert np.all((low_J <= starts_UJ) & (starts_UJ <= high_J))
        with jax.enable_x64(True):
            inputs = laws.Centre.of(measured).inputs(measured)
            middle = [np.exp(laws.log_loss(law, start_J, *inputs))[3] for start_J in starts_UJ]
        np.testing.assert_allclose(middle, measured.loss_I.mean(), rtol=0.05)


def test_what_is_not_a_law_is_told():
    with pytest.raises(InputError, match='allowed are power, rectified'):
        laws.Law('powr')
    with pytest.raises(InputError, match='needs a factor'):
        laws.Law('additive')
