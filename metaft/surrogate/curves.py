"""A learning curve so far, in whatever grid it was measured, as a fixed number of features.

The number U of resampled budgets is the surrogate's own, so that one network reads 13 budgets or 52.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

OCTAVES = 6.0  # log2 of the grid's span: brings log budgets to about [-1, 0]
_AN_OCTAVE = 2
LOG_BUDGETS = np.linspace(-OCTAVES, 0.0, round(OCTAVES * _AN_OCTAVE) + 1)  # log2 fractions of a full run: 1/64 ... 1
_RESAMPLED_U = 2.0**LOG_BUDGETS
# Every second fine budget is one of LOG_BUDGETS: over half octaves the first epochs of a steep curve are smeared.
FINER = 2
FINE_LOG_BUDGETS = np.linspace(-OCTAVES, 0.0, FINER * (len(LOG_BUDGETS) - 1) + 1)
NUM_RESAMPLED = len(_RESAMPLED_U)
NUM_FEATURES = 2 * NUM_RESAMPLED + 8
_LEVELS = slice(2 * NUM_RESAMPLED, 2 * NUM_RESAMPLED + 2)  # the features `y_C` and `best_C`
_RATES = slice(-3, -2)


class Curves(NamedTuple):
    """Curves so far of C runs on one task. What was not seen is never read."""

    y_CT: jax.Array  # transformed values
    rate_CT: jax.Array  # standardised log cost rates
    is_seen_CT: jax.Array  # bool; gaps are fine

    @property
    def last_C(self) -> jax.Array:
        """The last grid point that was seen; -1: none."""
        grid = jnp.arange(self.is_seen_CT.shape[1], dtype=jnp.int32)[None, :]
        return jnp.max(jnp.where(self.is_seen_CT, grid, -1), axis=1)


def features(curves: Curves, fractions_T: np.ndarray) -> jax.Array:
    """Describes each curve so far: resampled values and their mask, last, best, slopes, budget, cost; [C, X].

    All features of a curve of which nothing was seen are 0.
    """
    log_T = np.log2(np.asarray(fractions_T, np.float64))
    # A resampled budget shows the nearest grid point not above it; without one it is not seen.
    index_U = np.searchsorted(log_T, np.log2(_RESAMPLED_U) + 1e-6, side='right') - 1
    is_seen_CU = curves.is_seen_CT[:, np.maximum(index_U, 0)] & (index_U >= 0)[None, :]
    y_CU = jnp.where(is_seen_CU, curves.y_CT[:, np.maximum(index_U, 0)], 0.0)

    grid = jnp.arange(len(log_T), dtype=jnp.int32)[None, :]
    last_C = jnp.maximum(curves.last_C, 0)
    is_earlier_CT = curves.is_seen_CT & (grid < last_C[:, None])
    before_C = jnp.maximum(jnp.max(jnp.where(is_earlier_CT, grid, -1), axis=1), 0)
    first_C = jnp.argmax(curves.is_seen_CT, axis=1)
    has_before_C = jnp.any(is_earlier_CT, axis=1)
    log_budget_T = jnp.asarray(log_T, jnp.float32)
    octaves_C = jnp.where(has_before_C, log_budget_T[last_C] - log_budget_T[before_C], 1.0)
    y_C = at(curves.y_CT, last_C)
    slope_C = jnp.where(has_before_C, (y_C - at(curves.y_CT, before_C)) / octaves_C, 0.0)
    best_C = jnp.min(jnp.where(curves.is_seen_CT, curves.y_CT, jnp.inf), axis=1)
    is_full_C = last_C == len(log_T) - 1
    scalars_CX = jnp.stack(
        [
            y_C,
            best_C,
            slope_C,
            y_C - at(curves.y_CT, first_C),
            1.0 + log_budget_T[last_C] / OCTAVES,
            at(curves.rate_CT, last_C),
            is_full_C.astype(jnp.float32),
            jnp.ones_like(y_C),
        ],
        axis=1,
    )
    scalars_CX = jnp.where((curves.last_C >= 0)[:, None], scalars_CX, 0.0)
    return jnp.concatenate([y_CU, is_seen_CU.astype(jnp.float32), scalars_CX], axis=1)


def raise_levels(feature_CX: jax.Array, level: jax.Array, rate_level: jax.Array) -> jax.Array:
    """Returns the features of the curves with `level` added to their values and `rate_level` to their cost rates."""
    is_seen_CU, has_C1 = feature_CX[:, NUM_RESAMPLED : 2 * NUM_RESAMPLED], feature_CX[:, -1:]
    change_CX = jnp.zeros_like(feature_CX)
    change_CX = change_CX.at[:, :NUM_RESAMPLED].set(level * is_seen_CU)
    change_CX = change_CX.at[:, _LEVELS].set(level * has_C1)
    return feature_CX + change_CX.at[:, _RATES].set(rate_level * has_C1)


def at(values_CT: jax.Array, index_C: jax.Array) -> jax.Array:
    """Returns the entry of each row at its own index."""
    return jnp.take_along_axis(values_CT, index_C[:, None], axis=1)[:, 0]


def resample(values_CT: np.ndarray, fractions_T: np.ndarray, log_budgets: np.ndarray = LOG_BUDGETS) -> np.ndarray:
    """Interpolates complete curves to log2 budgets; beyond the grid the ends are carried on."""
    log_T = np.log2(np.asarray(fractions_T, np.float64))
    found = [np.interp(log_budgets, log_T, values_T) for values_T in values_CT]
    return np.array(found).reshape(-1, len(log_budgets))


def read(resampled_CU: jax.Array, log_budget_CT: jax.Array) -> jax.Array:
    """Interpolates each row, given at the U budgets, at its own log2 budgets; jit-able."""
    place_CT = _place(log_budget_CT)
    below_CT = jnp.minimum(place_CT.astype(jnp.int32), NUM_RESAMPLED - 2)
    share_CT = place_CT - below_CT.astype(jnp.float32)
    low, high = (jnp.take_along_axis(resampled_CU, below_CT + i, axis=1) for i in (0, 1))
    return low + share_CT * (high - low)


def shares(log_budget_O: jax.Array) -> jax.Array:
    """Returns the weights with which `read` interpolates at log2 budgets, [O, U]."""
    distance_OU = _place(log_budget_O)[:, None] - jnp.arange(NUM_RESAMPLED, dtype=jnp.float32)[None, :]
    return jnp.maximum(1.0 - jnp.abs(distance_OU), 0.0)


def _place(log_budget: jax.Array) -> jax.Array:
    """Returns where log2 budgets lie among the U resampled ones, in 0 ... U - 1."""
    return jnp.clip((log_budget + OCTAVES) * _AN_OCTAVE, 0.0, NUM_RESAMPLED - 1.0)


def lengths(values_CT: np.ndarray) -> np.ndarray:
    """Returns one more than the index of each row's last number that is not NaN, 0 for none; int32."""
    seen_CT = ~np.isnan(values_CT)
    return np.where(seen_CT.any(axis=1), seen_CT.shape[1] - np.argmax(seen_CT[:, ::-1], axis=1), 0).astype(np.int32)


def forward_fill(values_CT: np.ndarray) -> np.ndarray:
    """Carries values on over NaN, and the first one back; rows of NaN become 0."""
    seen_CT = ~np.isnan(values_CT)
    index_CT = np.maximum.accumulate(np.where(seen_CT, np.arange(values_CT.shape[1])[None, :], -1), axis=1)
    first_C = np.argmax(seen_CT, axis=1)
    filled_CT = np.take_along_axis(values_CT, np.where(index_CT < 0, first_C[:, None], index_CT), axis=1)
    return np.where(seen_CT.any(axis=1)[:, None], filled_CT, 0.0).astype(np.float32)
