"""Fits the Gaussian process's kernel to the training tasks: the one prior from which every task starts.

Its loss is what it is for: from contexts of a search, how far off are the final values of runs that have not begun?
The mean over contexts of the logarithm of the root mean squared error, so that easy tasks and hard ones count alike.
(By marginal likelihood, tasks on which every run ends alike would set the noise to nothing.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from metaft.surrogate import curves, episodes, process

_BATCHES, _BATCH_SIZE = 12, 8  # contexts
_FLOOR = 0.03  # of an error: about the noise of a seed
_RANGE = 2.0  # each parameter stays within a factor of e^2 of its start
_HOLD = 1e-3  # weight of a parameter's squared distance from its start
_MAX_STEPS = 30


def fit(tables: episodes.Tables, fractions_T: np.ndarray, log_weight_W: np.ndarray, seed: int) -> process.Kernel:
    """Fits a kernel by L-BFGS.

    Args:
      tables: the training tables, see `episodes.collate`.
      fractions_T: their grid.
      log_weight_W: how often each of them is drawn; -inf: never.
      seed: of the contexts.
    """
    initial, unravel = ravel_pytree(process.Kernel.initial(tables.runs.config_CE.shape[-1]))
    start = np.asarray(initial, np.float64)
    contexts = [
        _draw(jax.random.split(key, _BATCH_SIZE), tables, jnp.asarray(log_weight_W), tuple(map(float, fractions_T)))
        for key in jax.random.split(jax.random.key(seed), _BATCHES)
    ]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        kernel = unravel(jnp.asarray(x, jnp.float32))
        values, slopes = zip(*(_loss_and_slope(kernel, context) for context in contexts), strict=True)
        value, slope = np.mean(values), np.mean([ravel_pytree(s)[0] for s in slopes], axis=0, dtype=np.float64)
        return float(value + _HOLD * np.sum((x - start) ** 2)), slope + 2.0 * _HOLD * (x - start)

    bounds = np.stack([start - _RANGE, start + _RANGE], axis=1)
    options = {'maxiter': _MAX_STEPS, 'maxfun': 2 * _MAX_STEPS}
    found = minimize(loss, start, jac=True, method='L-BFGS-B', bounds=bounds, options=options)
    return jax.tree.map(np.asarray, unravel(jnp.asarray(found.x, jnp.float32)))


@functools.partial(jax.jit, static_argnums=3)
def _draw(keys, tables: episodes.Tables, log_weight_W: jax.Array, fractions: tuple[float, ...]):
    """Draws contexts: runs, what of them was observed last and when, their final values, and which of these to ask."""
    settings = episodes.unperturbed(episodes.EpisodeSettings(empty=0.0))
    log_T = jnp.log2(jnp.asarray(fractions, jnp.float32))

    def one(key):
        episode = episodes.draw(key, tables, log_weight_W, settings)
        last_C = episode.shown.last_C
        rows = jnp.where(last_C >= 0, jnp.arange(len(last_C)), -1)
        is_asked_C = (last_C < 0) & (episode.measured_C == len(fractions))
        last_C = jnp.maximum(last_C, 0)
        return episode.runs, rows, curves.at(episode.y_CT, last_C), log_T[last_C], episode.y_CT[:, -1], is_asked_C

    return jax.lax.map(one, keys)


@jax.jit
def _loss_and_slope(kernel: process.Kernel, contexts) -> tuple[jax.Array, process.Kernel]:
    return jax.value_and_grad(lambda kernel: jnp.mean(jax.vmap(_error, (None, 0))(kernel, contexts)))(kernel)


def _error(kernel: process.Kernel, context) -> jax.Array:
    runs, rows, y_C, log_budget_C, final_C, is_asked_C = context
    known_CF = process.posterior(kernel, runs, rows, y_C, log_budget_C, jnp.float32(0.0))
    square_C = jnp.where(is_asked_C, (known_CF[:, curves.NUM_RESAMPLED - 1] - final_C) ** 2, 0.0)
    mean_square = jnp.sum(square_C) / jnp.maximum(jnp.sum(is_asked_C.astype(jnp.float32)), 1.0)
    return 0.5 * jnp.log(mean_square + _FLOOR**2)
