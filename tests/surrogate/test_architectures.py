"""What every architecture keeps to: order and padding are nothing, a curve that is not shown is not seen, it trains."""

import numpy as np
import pytest

from metaft.surrogate import architectures, curves
from metaft.surrogate.network import Architecture
from tests.surrogate import networks
from tests.surrogate.networks import C, E, T, Z, assert_close, predict


@pytest.fixture(scope='module', params=architectures.ARCHITECTURES)
def network(request):
    return networks.caller(Architecture(E, Z, **networks.SIZES, name=request.param))


@pytest.fixture(scope='module')
def runs():
    return networks.draw_runs()


def test_the_order_of_the_context_does_not_matter(network, runs):
    assert_close(predict(network, runs, np.random.default_rng(1).permutation(C)), predict(network, runs, np.arange(C)))


def test_padding_and_runs_without_observations_are_nothing(network, runs):
    started = np.flatnonzero(runs[1].is_seen_CT.any(axis=1))
    assert 0 < len(started) < C
    padded = np.concatenate([started, np.full(5, -1)])
    assert_close(predict(network, runs, padded), predict(network, runs, np.arange(C)))
    assert_close(predict(network, runs, padded), predict(network, runs, started))


def test_an_own_curve_that_is_not_shown_does_not_reach_its_query_directly(network, runs):
    alone = predict(network, runs, np.full(4, -1), shown=False)
    never = predict(network, (runs[0], runs[1]._replace(is_seen_CT=np.zeros((C, T), bool))), np.full(4, -1))
    assert_close(alone, never)


def test_outputs_are_distributions(network, runs):
    output = predict(network, runs, np.arange(C))
    assert output.value.mean.shape == (C, T, networks.SIZES['num_components'])
    assert output.rate_mean_CT.shape == output.rate_sd_CT.shape == (C, T)
    np.testing.assert_allclose(np.exp(output.value.log_weight).sum(axis=2), 1.0, rtol=1e-5)
    assert (output.value.sd > 0).all() and (output.rate_sd_CT > 0).all()


@pytest.mark.parametrize(('name', 'sees_others'), [('deep_set', True), ('attention', True), ('independent', False)])
def test_only_the_independent_curve_does_not_hear_of_the_others(name, sees_others, runs):
    network = networks.caller(Architecture(E, Z, **networks.SIZES, name=name))
    other_y_CT = runs[1].y_CT.copy()
    other_y_CT[1:] += 1.0
    changed = runs[0], runs[1]._replace(y_CT=other_y_CT, rate_CT=runs[1].rate_CT + (np.arange(C) > 0)[:, None])
    before, after = (predict(network, each, np.arange(C)) for each in (runs, changed))
    moved = np.abs(after.value.mean[0] - before.value.mean[0]).max()
    assert (moved > 1e-3) if sees_others else (moved < 1e-5)
    assert sees_others or np.abs(after.rate_mean_CT[0] - before.rate_mean_CT[0]).max() < 1e-5


def test_raised_features_are_the_features_of_raised_curves(runs):
    so_far = runs[1]
    raised = so_far._replace(y_CT=so_far.y_CT + 2.0, rate_CT=so_far.rate_CT - 3.0)
    wanted = curves.features(raised, networks.FRACTIONS_T)
    found = curves.raise_levels(curves.features(so_far, networks.FRACTIONS_T), 2.0, -3.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
