"""Small networks and drawn runs for tests of architectures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metaft.surrogate import curves, process, training
from metaft.surrogate.context import Task, observe
from metaft.surrogate.memory import Recall
from metaft.surrogate.network import Architecture

C, Z, T, V = 12, 4, 6, 3
PLAIN_E = 5  # features of a configuration, without what is known of it
E = PLAIN_E + process.SIZE
KERNEL = process.Kernel.initial(PLAIN_E)
FRACTIONS_T = 2.0 ** np.arange(-5, 1)
SIZES = dict(width=16, trunk_width=24, num_kernels=2, kernel_size=3, num_components=3)
TASK = Task(np.ones(Z, np.float32), np.float32(0.5), np.float32(-0.5))


def caller(architecture: Architecture):
    """Returns a function that calls a function of a network and arrays, compiled: eager JAX compiles each operation."""
    params = training.initialise(architecture, seed=0, num_members=1)
    graph = training.build(architecture)

    @functools.partial(jax.jit, static_argnums=0)
    def call(function, *arrays):
        return function(nnx.merge(graph, jax.tree.map(lambda x: x[0], params)), *arrays)

    return call


def draw_runs(seed: int = 0) -> tuple[process.Runs, curves.Curves]:
    """Returns encoded configurations, what V tasks remember of them, and curves so far; some are not started."""
    rng = np.random.default_rng(seed)
    is_seen_CT = np.arange(T)[None, :] < rng.integers(0, T + 1, (C, 1))
    y_CT, rate_CT = rng.normal(size=(2, C, T)).astype(np.float32)
    recall = Recall(rng.normal(size=(C, V, curves.NUM_RESAMPLED)).astype(np.float32), rng.random((C, V), np.float32))
    runs = process.Runs(rng.normal(size=(C, PLAIN_E)).astype(np.float32), recall)
    return runs, curves.Curves(y_CT, rate_CT, is_seen_CT)


def predict(network, runs, context_rows, shown=True, task=TASK):
    """Asks about all runs, with the given ones as context."""
    return network(_predict, *runs, np.asarray(context_rows, np.int32), np.full(C, shown), task)


def _predict(net, runs, curves_so_far, context_rows, is_own_shown_C, task):
    rows_C = jnp.arange(C, dtype=jnp.int32)
    context, query = observe(KERNEL, runs, curves_so_far, FRACTIONS_T, context_rows, rows_C, is_own_shown_C)
    log_budget_CT = jnp.broadcast_to(jnp.log2(jnp.asarray(FRACTIONS_T, jnp.float32))[None, :], (C, T))
    return net(context, query, task, log_budget_CT)


def assert_close(found, wanted):
    """Compares two pytrees of arrays."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
