"""A query is not its own neighbour, and levels pass through."""

import jax.numpy as jnp
import numpy as np
import pytest

from metaft.surrogate.context import observe
from metaft.surrogate.network import Architecture
from tests.surrogate import networks
from tests.surrogate.networks import FRACTIONS_T, C, E, Z, predict

ARCHITECTURE = Architecture(E, Z, **networks.SIZES)


@pytest.fixture(scope='module')
def network():
    return networks.caller(ARCHITECTURE)


@pytest.fixture(scope='module')
def runs():
    return networks.draw_runs()


def test_a_query_is_left_out_of_its_own_kernel_pool(network, runs):
    elements_CD = np.zeros((C, ARCHITECTURE.width), np.float32)
    influence = np.abs(network(_pooled, *runs, elements_CD) - network(_pooled, *runs, elements_CD + 1.0)).max(axis=1)
    assert influence[3] == 0.0
    assert (np.delete(influence, 3) > 0.0).all()


def _pooled(net, runs, curves_so_far, elements_CD):
    """The kernel pool of all queries where run 3 is the only element."""
    rows_C = jnp.arange(C, dtype=jnp.int32)
    is_own_shown_C = jnp.zeros(C, bool)
    context, query = observe(networks.KERNEL, runs, curves_so_far, FRACTIONS_T, rows_C, rows_C, is_own_shown_C)
    context = context._replace(row_O=rows_C)
    return net.pool(query, context, elements_CD, (rows_C == 3).astype(jnp.float32))


def test_a_level_that_all_curves_share_moves_the_prediction(network, runs):
    """Far more is learned about shapes than about levels: with many runs a shift passes through almost unchanged."""
    shifted = runs[1]._replace(y_CT=runs[1].y_CT + 0.5)
    everything = np.arange(C)
    mean = lambda output: np.sum(np.exp(output.value.log_weight) * output.value.mean, axis=-1)
    moved = mean(predict(network, (runs[0], shifted), everything)) - mean(predict(network, runs, everything))
    assert 0.3 < np.median(moved) < 0.7
