"""A learning curve so far, in whatever grid it was measured, as a fixed number of features.

The number U of resampled budgets is the surrogate's own, so that one network reads 13 budgets or 52.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_RESAMPLED_U = 2.0 ** np.arange(-6.0, 0.5, 0.5)  # fractions of a full run: 1/64 ... 1, two an octave
NUM_FEATURES = 2 * len(_RESAMPLED_U) + 8
OCTAVES = 6.0  # log2 of the grid's span: brings log budgets to about [-1, 0]


class Curves(NamedTuple):
    """Curves so far of C runs on one task; what lies at or beyond `length_C` is never read."""

    y_CT: jax.Array  # transformed values
    rate_CT: jax.Array  # standardised log cost rates
    length_C: jax.Array  # int32, how many grid points were observed, 0 ... T


def features(curves: Curves, fractions_T: np.ndarray) -> jax.Array:
    """Describes each curve so far: resampled values with their mask, last, best, slopes, budget, cost; [C, X].

    All features of a curve of length 0 are 0.
    """
    log_T = np.log2(np.asarray(fractions_T, np.float64))
    index_U = np.searchsorted(log_T, np.log2(_RESAMPLED_U) + 1e-6, side='right') - 1
    seen_CU = (index_U[None, :] >= 0) & (index_U[None, :] < curves.length_C[:, None])
    y_CU = jnp.where(seen_CU, curves.y_CT[:, np.maximum(index_U, 0)], 0.0)
    is_started_C = curves.length_C > 0
    last_C = jnp.maximum(curves.length_C - 1, 0)
    y_C = at(curves.y_CT, last_C)
    observed_CT = jnp.arange(len(log_T))[None, :] < curves.length_C[:, None]
    best_C = jnp.min(jnp.where(observed_CT, curves.y_CT, jnp.inf), axis=1)
    half = np.maximum(np.searchsorted(log_T, log_T - 1.0 - 1e-6), 0).astype(np.int32)  # the grid point an octave before
    before_C = at(curves.y_CT, jnp.asarray(half)[last_C])
    log_budget_C = jnp.asarray(log_T, jnp.float32)[last_C]
    scalars_CX = jnp.stack([
        y_C, best_C, y_C - before_C, y_C - curves.y_CT[:, 0], 1.0 + log_budget_C / OCTAVES,
        at(curves.rate_CT, last_C), (last_C == len(log_T) - 1).astype(jnp.float32), jnp.ones_like(y_C)], axis=1)
    scalars_CX = jnp.where(is_started_C[:, None], scalars_CX, 0.0)
    return jnp.concatenate([y_CU, seen_CU.astype(jnp.float32), scalars_CX], axis=1)


def at(values_CT: jax.Array, index_C: jax.Array) -> jax.Array:
    """Returns the entry of each row at its own index."""
    return jnp.take_along_axis(values_CT, index_C[:, None], axis=1)[:, 0]
