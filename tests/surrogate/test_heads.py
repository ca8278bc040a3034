"""The law is the law: its exponents, its anchor, and what only it may read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.errors import ModelError
from metaft.surrogate import architectures, heads
from metaft.surrogate.context import Query, Task
from metaft.surrogate.network import Architecture
from tests.surrogate import networks
from tests.surrogate.networks import C, E, Z, assert_close, predict

LOG_BUDGET_CT = np.array([[-6.0, -4.0, -2.0, 0.0, 2.0]], np.float32)


def query(last_y=None, last_log_budget=-6.0):
    """Returns one query, whose curve ends as told."""
    ones_C = jnp.ones(1)
    has, last_y = (0.0, 0.0) if last_y is None else (1.0, last_y)
    return Query(
        None, None, None, jnp.zeros(1, jnp.int32), last_y * ones_C, 0.0 * ones_C, last_log_budget * ones_C, has * ones_C
    )


def law(query, log_examples=0.0, log_parameters=0.0, floor=-3.0):
    """Returns E + A t^-gamma D^-beta X^-alpha relative to the reference loss, with gamma .5, beta .2 and alpha .1."""
    softplus_inverse = np.log(np.expm1(0.5 * np.log(2.0)))
    coefficients = [jnp.full((1,), value) for value in (floor, 0.0, softplus_inverse, 0.2 / 0.2, 0.1 / 0.2)]
    task = Task(jnp.zeros(3), jnp.float32(log_examples), jnp.float32(log_parameters))
    y_CT, _ = heads.HEADS['law'].curve(coefficients, query, task, jnp.asarray(LOG_BUDGET_CT))
    return np.exp(2.0 * np.asarray(y_CT)[0])


def test_the_law_is_a_joint_power_law_with_a_floor():
    steps_T = 2.0 ** (LOG_BUDGET_CT[0] + 6.0)
    for examples, parameters in ((1.0, 1.0), (100.0, 1.0), (0.01, 1e4)):
        found_T = law(query(), np.log(examples), np.log(parameters))
        wanted_T = np.exp(-3.0) + steps_T**-0.5 * examples**-0.2 * parameters**-0.1
        np.testing.assert_allclose(found_T, wanted_T, rtol=1e-5)


def test_the_law_goes_through_the_last_observation():
    found_T = law(query(last_y=-0.7, last_log_budget=-2.0))
    np.testing.assert_allclose(found_T[2], np.exp(-1.4), rtol=1e-6)
    free_T = law(query())
    np.testing.assert_allclose(found_T / free_T, found_T[2] / free_T[2], rtol=1e-5)


@pytest.fixture(scope='module', params=heads.HEADS)
def network(request):
    unread = (1,) if request.param.startswith('law') else ()
    return networks.caller(Architecture(E, Z, **networks.SIZES, head=request.param, unread=unread))


def test_every_head_gives_distributions_that_the_order_does_not_change(network):
    runs = networks.draw_runs()
    output = predict(network, runs, np.arange(C))
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(output))
    assert_close(predict(network, runs, np.arange(C)[::-1]), output)


@pytest.mark.parametrize('name', architectures.ARCHITECTURES)
def test_sizes_reach_a_law_through_its_exponents_only(name):
    network = networks.caller(Architecture(E, Z, **networks.SIZES, name=name, head='law', unread=(1,)))
    mean = lambda **changed: np.asarray(
        predict(network, networks.draw_runs(), np.arange(C), task=networks.TASK._replace(**changed)).value.mean
    )
    features_Z = np.ones(Z, np.float32)
    np.testing.assert_array_equal(mean(features_Z=np.array([1, 9, 1, 1], np.float32)), mean(features_Z=features_Z))
    assert np.abs(mean(features_Z=np.array([9, 1, 1, 1], np.float32)) - mean(features_Z=features_Z)).max() > 1e-3
    assert np.abs(mean(log_examples=np.float32(3.0)) - mean(log_examples=np.float32(0.0))).max() > 1e-3


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match='anchored, law'):
        heads.check('bent')
