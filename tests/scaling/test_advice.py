"""metaft/scaling/advice.py and archive.py: the best option, what more buys, crossings, and fits that come back."""

import json

import numpy as np
import pytest

from experiments import program
from metaft.errors import DataError
from metaft.report import scaling_text
from metaft.scaling import advice, archive, comparison, fitting, points
from metaft.scaling.laws import Law

SIZES = np.geomspace(100.0, 1e5, 8)
MODELS = [1e6, 4e6, 16e6]
TRUTH = {'lora': (14.0, 0.12), 'full': (60.0, 0.3)}  # A and beta; alpha .2 and E .5 in common


def law_of(method, model, examples):
    a, beta = TRUTH[method]
    return a * (model / 1e6) ** -0.2 * examples**-beta + 0.5


@pytest.fixture(scope='module')
def fits():
    rng = np.random.default_rng(0)
    models, sizes = map(np.ravel, np.meshgrid(MODELS, SIZES))
    found = {}
    for method in TRUTH:
        loss = law_of(method, models, sizes) * np.exp(0.003 * rng.normal(size=len(sizes)))
        measured = points.make(loss, sizes, [models], ['model_size'])
        found[method] = fitting.fit(Law('multiplicative', ('model_size',)), measured, num_draws=60)
    return found


def test_the_best_option_and_what_more_buys_are_the_laws(fits):
    answer = advice.advise(fits, 1000.0, 'model_size')
    assert (answer.choice.group, answer.choice.size) == ('lora', 16e6)
    for option in answer.options:
        wanted = law_of(option.group, option.size, 1000.0)
        assert option.loss.value == pytest.approx(wanted, rel=0.01) and option.loss.low < wanted < option.loss.high
        twice = law_of(option.group, option.size, 2000.0) - wanted
        assert option.twice_the_data.change.value == pytest.approx(twice, rel=0.1)
        assert option.twice_the_data.cost_ratio == 2.0 and not option.extrapolated
    larger = {(o.group, o.size): o.next_size for o in answer.options}
    assert larger['lora', 1e6].to == 4e6 and larger['lora', 1e6].cost_ratio == 4.0
    assert larger['lora', 16e6].to == 32e6 and '2 times the largest measured' in larger['lora', 16e6].extrapolated[0]
    cost = {(o.group, o.size): o.cost for o in answer.options}
    assert cost['lora', 1e6] == 1.0 and cost['full', 1e6] == 1.5 and cost['full', 4e6] == 6.0
    assert sum(o.best_probability for o in answer.options) == pytest.approx(1.0)


def test_crossings_are_those_of_the_closed_form(fits):
    answer = advice.advise(fits, 1000.0, 'model_size')
    wanted = (60.0 / 14.0) ** (1 / 0.18)  # alpha and E are equal, so the same at every size
    assert [c.value for c in answer.crossings] == MODELS
    for crossing in answer.crossings:
        assert crossing.found.data_size == pytest.approx(wanted, rel=0.1) and not crossing.extrapolated


def test_what_is_outside_of_the_measured_range_is_named(fits):
    answer = advice.advise(fits, 20.0, 'model_size')
    assert all('20 examples is 0.2 of the smallest measured, 100' in o.extrapolated for o in answer.options)
    text = scaling_text.markdown(answer)
    assert 'extrapolated: 20 examples' in text and '24 points of 24 measurements' in text and 'nan' not in text


def test_alternatives_that_are_not_clearly_worse_are_found():
    sizes = np.repeat(SIZES, 3)
    noisy = lambda seed: np.exp(0.02 * np.random.default_rng(seed).normal(size=len(sizes)))
    fits = {
        method: fitting.fit(Law('power'), points.make((5 * sizes**-0.2 + 0.5) * noisy(seed), sizes), num_draws=60)
        for seed, method in enumerate(('full', 'lora'))
    }
    answer = advice.advise(fits, 3000.0)
    assert answer.cheapest_alike.group == 'lora' and answer.choice.size is None
    assert len(answer.crossings) == 1 and answer.crossings[0].factor is None


def test_a_fit_comes_back_from_its_record(fits, tmp_path):
    program.write_json(tmp_path / 'laws.json', [archive.to_record(*item) for item in fits.items()])
    for group, fit in archive.read(tmp_path):
        at = fit.points
        np.testing.assert_allclose(fitting.predict(fit, at), fitting.predict(fits[group], at), rtol=1e-12)
        np.testing.assert_array_equal(fit.draws_UJ, fits[group].draws_UJ)
        assert (fit.dof, fit.noise) == (fits[group].dof, pytest.approx(fits[group].noise))
        assert comparison.constants(fit) == pytest.approx(comparison.constants(fits[group]))


def test_laws_that_are_missing_or_broken_are_told(tmp_path):
    with pytest.raises(DataError, match=r'holds no laws.json; make it with scaling_fit'):
        archive.read(tmp_path)
    (tmp_path / 'laws.json').write_text(json.dumps([{'group': 'a', 'form': 'power'}]))
    with pytest.raises(DataError, match=r"cannot be read \(KeyError: 'factors'\); run scaling_fit again"):
        archive.read(tmp_path)


def test_a_factor_that_one_group_does_not_vary_is_left_out_of_its_law_and_named():
    models, sizes, ranks = map(np.ravel, np.meshgrid([1.0, 4.0], SIZES[::2], [1.0, 8.0]))
    loss = 5 * models**-0.2 * sizes**-0.2 * ranks**-0.01 + 0.5
    everything = points.make(loss, sizes, [models, ranks], ['model_size', 'adapter_size'])
    groups = {'lora': everything, 'full': everything.where(everything.factors_IX[:, 1] == 1.0)}
    found = comparison.fit_form('multiplicative', True, groups, num_draws=20)
    assert found.fits['full'].law.factors == ('model_size',)
    assert found.constant_factors == {'full': ('adapter_size',)} and not found.refused
