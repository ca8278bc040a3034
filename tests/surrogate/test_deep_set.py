"""The order of the context does not matter, padding is nothing, and a query is not its own neighbour."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft.surrogate import curves, deep_set, memory, training
from metaft.surrogate.context import observe

C, E, Z, T = 12, 5 + memory.SIZE, 4, 6
FRACTIONS_T = 2.0 ** np.arange(-5, 1)
ARCHITECTURE = deep_set.Architecture(E, Z, width=16, trunk_width=24, num_kernels=2, kernel_size=3, num_components=3)


@pytest.fixture(scope='module')
def network():
    """Calls a function of a network and arrays, compiled: eager JAX compiles every operation on its own."""
    params = training.initialise(ARCHITECTURE, seed=0, num_members=1)
    graph = training.build(ARCHITECTURE)

    @functools.partial(jax.jit, static_argnums=0)
    def call(function, *arrays):
        return function(nnx.merge(graph, jax.tree.map(lambda x: x[0], params)), *arrays)

    return call


@pytest.fixture(scope='module')
def runs():
    rng = np.random.default_rng(0)
    is_seen_CT = np.arange(T)[None, :] < rng.integers(0, T + 1, (C, 1))
    y_CT, rate_CT = rng.normal(size=(2, C, T)).astype(np.float32)
    return rng.normal(size=(C, E)).astype(np.float32), curves.Curves(y_CT, rate_CT, is_seen_CT)


def predict(network, runs, context_rows, shown=True):
    return network(_predict, *runs, np.asarray(context_rows, np.int32), np.full(C, shown))


def _predict(net, config_CE, curves_so_far, context_rows, is_own_shown_C):
    rows_C = jnp.arange(C, dtype=jnp.int32)
    context, query = observe(config_CE, curves_so_far, FRACTIONS_T, context_rows, rows_C, is_own_shown_C)
    log_budget_CT = jnp.broadcast_to(jnp.log2(jnp.asarray(FRACTIONS_T, jnp.float32))[None, :], (C, T))
    return net(context, query, jnp.ones((Z,)), log_budget_CT)


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_the_order_of_the_context_does_not_matter(network, runs):
    assert_close(predict(network, runs, np.random.default_rng(1).permutation(C)), predict(network, runs, np.arange(C)))


def test_padding_and_runs_without_observations_are_nothing(network, runs):
    started = np.flatnonzero(runs[1].is_seen_CT.any(axis=1))
    assert 0 < len(started) < C
    padded = np.concatenate([started, np.full(5, -1)])
    assert_close(predict(network, runs, padded), predict(network, runs, np.arange(C)))
    assert_close(predict(network, runs, padded), predict(network, runs, started))


def test_a_query_is_left_out_of_its_own_kernel_pool(network, runs):
    elements_CD = np.zeros((C, ARCHITECTURE.width), np.float32)
    influence = np.abs(network(_pooled, *runs, elements_CD) - network(_pooled, *runs, elements_CD + 1.0)).max(axis=1)
    assert influence[3] == 0.0
    assert (np.delete(influence, 3) > 0.0).all()


def _pooled(net, config_CE, curves_so_far, elements_CD):
    """The kernel pool of all queries where run 3 is the only element."""
    rows_C = jnp.arange(C, dtype=jnp.int32)
    is_own_shown_C = jnp.zeros(C, bool)
    context, query = observe(config_CE, curves_so_far, FRACTIONS_T, rows_C, rows_C, is_own_shown_C)
    context = context._replace(row_O=rows_C)
    return net.pool(query, context, elements_CD, (rows_C == 3).astype(jnp.float32))


def test_an_own_curve_that_is_not_shown_does_not_reach_its_query_directly(network, runs):
    alone = predict(network, runs, np.full(4, -1), shown=False)
    never = predict(network, (runs[0], runs[1]._replace(is_seen_CT=np.zeros((C, T), bool))), np.full(4, -1))
    assert_close(alone, never)


def test_a_level_that_all_curves_share_moves_the_prediction(network, runs):
    """Far more is learned about shapes than about levels: with many runs a shift passes through almost unchanged."""
    shifted = runs[1]._replace(y_CT=runs[1].y_CT + 0.5)
    everything = np.arange(C)
    mean = lambda output: np.sum(np.exp(output.value.log_weight) * output.value.mean, axis=-1)
    moved = mean(predict(network, (runs[0], shifted), everything)) - mean(predict(network, runs, everything))
    assert 0.3 < np.median(moved) < 0.7
