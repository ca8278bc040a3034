"""What all observed points of a task say of every run, with variances: process.py's model, solved exactly.

    y(c, t) = m(c, t) + l + b + g m(c, t) + sum_w a_w D_w(c, t) + f(c, t) + h_c + e_c(t) + noise
    D_w(c, t) = r_w (m_w(c, t) - m(c, t)) + L (l_w - l)

with m_w, r_w and l_w of memory.py and their means m and l. A task's level stays with its curves: which task the new one
is like is told by how high its values are as well as by their pattern. b, g and a_w are normal around 0; f is a
Gaussian process over configurations and log budgets that the tasks do not share; h_c and e_c(t) are what a run has of
its own, for good and for some octaves. Where process.py, inside of the network, takes each run's last value, this takes
its curve, thinned to half octaves, and says how sure it is.

From errors that are larger or smaller than expected all variances learn, as those of a Student t process do:

    s^2 = (nu + e' K^-1 e) / (nu + n) * exp(2 (a + b ln(1 + n) / 4)),      e: n values less m + l, K: their covariance

The network and this regression err differently, so once something was observed `Surrogate.predict` mixes both, by
weights that were fitted on tasks that were left out.

Reference: Rasmussen and Williams 2006, equations 2.25 and 2.26; Shah, Wilson and Ghahramani 2014 (arXiv 1402.4306).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from metaft.errors import ModelError
from metaft.surrogate import curves
from metaft.surrogate.likelihood import Mixture
from metaft.surrogate.memory import Array, Recall
from metaft.surrogate.process import Runs

_NUM_BUDGETS = len(curves.FINE_LOG_BUDGETS)
_FLOOR = 0.5  # tasks without an opinion, as in process.py
_JITTERS = (1e-5, 1e-4, 1e-3, 1e-2)  # the first that does; single precision leaves about 1e-5 of 600 points
_POINT_SIZES = (32, 64, 128, 256, 384, 512, 640)  # a compiled program each; beyond, the ends of the curves
_MAX_PRODUCTS = 4e9  # of asked cells and squared points: fewer points where there are ten thousand configurations
_QUERY_SIZES = (64, 128, 256, 512, 1024)  # configurations; beyond, in blocks of the last
_EVERY = 2.0  # points an octave that are read of a curve
FREEDOM = 4.0  # degrees of the Student t in which a value is expected around the mean
NUM_COMPONENTS = 3  # normal distributions that make it, by maximum likelihood
_T_WEIGHTS = np.array([0.5919, 0.3767, 0.0314])
_T_SCALES = np.array([0.8556, 1.6528, 3.9322])


class Hyperparameters(NamedTuple):
    """The prior: logarithms of standard deviations, lengths and factors, but for `growth`."""

    shift: Array  # of b
    gain: Array  # of g
    tasks: Array  # of a_w, times the root of the number of tables
    level: Array  # L
    own: Array  # of f
    own_octaves: Array
    run: Array  # of h_c
    part: Array  # of e_c
    part_octaves: Array
    noise: Array
    freedom: Array  # nu
    scale: Array  # a
    growth: Array  # b of the scale
    length_E: Array  # over which f forgets a feature of a configuration

    @classmethod
    def initial(cls, num_hyperparameters: int) -> 'Hyperparameters':
        """Returns where a fit begins."""
        start = {
            'shift': 0.3,
            'gain': 0.5,
            'tasks': 1.0,
            'level': 1.0,
            'own': 0.1,
            'own_octaves': 8.0,
            'run': 0.01,
            'part': 0.04,
            'part_octaves': 1.0,
            'noise': 0.01,
            'freedom': 1.0,
            'scale': 2.0,
        }
        length_E = np.full(num_hyperparameters, np.log(2.0), np.float32)
        logarithms = {name: np.float32(np.log(value)) for name, value in start.items()}
        return cls(**logarithms, growth=np.float32(1.5), length_E=length_E)


class Points(NamedTuple):
    """Runs at budgets: N of them, with what is remembered there of V tables."""

    row_N: Array  # int32, of the run; -1: padding
    log_budget_N: Array  # log2 fraction of a full run
    config_NE: Array
    mean_N: Array  # m
    away_NV: Array  # r_w (m_w - m)


class Grid(NamedTuple):
    """C runs at the same B budgets, with what is remembered there."""

    row_C: Array
    config_CE: Array
    mean_CB: Array
    away_CVB: Array


class Levels(NamedTuple):
    """How high the values of V tables are."""

    mean: Array  # l
    away_V: Array  # l_w - l; 0 for a table that is not there
    num: Array  # tables that are there


class Posterior(NamedTuple):
    """Student t distributions of `FREEDOM` degrees over [C, T]."""

    mean_CT: np.ndarray
    sd_CT: np.ndarray  # of the normal distribution that they are heavier than

    def mixture(self) -> Mixture:
        """Returns them as mixtures of three normal distributions, within 1.4e-4 nats."""
        shape = (*self.mean_CT.shape, NUM_COMPONENTS)
        log_weight = np.broadcast_to(np.log(_T_WEIGHTS), shape)
        mean = np.broadcast_to(self.mean_CT[..., None], shape)
        sd = self.sd_CT[..., None] * _T_SCALES
        return Mixture(*(jnp.asarray(part, jnp.float32) for part in (log_weight, mean, sd)))


def posterior(h: Hyperparameters, runs: Runs, y_CT: np.ndarray, fractions_T: np.ndarray) -> Posterior:
    """Returns what is expected of every run.

    Args:
      h: the prior.
      runs: encoded, with what other tasks remember of them.
      y_CT: transformed values, NaN where nothing was observed.
      fractions_T: the grid, of a full run.

    Raises:
      ModelError: the prior gives no covariance.
    """
    log_T = np.log2(np.asarray(fractions_T, np.float64))
    # Asked at the grid itself where that is no finer than what is remembered, else interpolated.
    log_budget_B = log_T if len(log_T) <= _NUM_BUDGETS else curves.FINE_LOG_BUDGETS
    affordable = (_MAX_PRODUCTS / max(len(y_CT) * len(log_budget_B), 1)) ** 0.5
    c_N, t_N = thinned(y_CT, log_T, max((size for size in _POINT_SIZES if size <= affordable), default=_POINT_SIZES[0]))
    num, levels = len(c_N), levels_of(runs.recall)
    seen = padded(points(runs, c_N, log_T[t_N]), _size(num, _POINT_SIZES))
    error_N = y_CT[c_N, t_N] - seen.mean_N[:num] - levels.mean
    covariance_NN = np.asarray(_covariance(h, levels, seen, seen), np.float64)[:num, :num]
    factor_NN = factor(covariance_NN + np.exp(2.0 * h.noise) * np.eye(num))
    inverse_NN = scipy.linalg.solve_triangular(factor_NN, np.eye(num), lower=True)
    white_N = inverse_NN @ error_N
    mean_CB, variance_CB = _everywhere(h, levels, runs, seen, inverse_NN, white_N, log_budget_B)
    sd_CB = np.exp(log_scale(h, num, float(white_N @ white_N))) * np.sqrt(variance_CB)
    if len(log_T) > len(log_budget_B):
        mean_CB, sd_CB = (part @ _shares(log_T).T for part in (mean_CB, sd_CB))
    return Posterior(levels.mean + mean_CB, sd_CB)


def factor(covariance_NN: np.ndarray) -> np.ndarray:
    """Returns the lower Cholesky factor [N, N], with as little added to the diagonal as leaves it positive.

    Raises ModelError where nothing does: the prior is broken.
    """
    for jitter in _JITTERS:
        try:
            return scipy.linalg.cholesky(covariance_NN + jitter * np.eye(len(covariance_NN)), lower=True)
        except scipy.linalg.LinAlgError:
            continue
    raise ModelError(
        f'the covariance of {len(covariance_NN)} points is not positive even with {_JITTERS[-1]} on its diagonal; '
        'train the surrogate again'
    )


def _everywhere(
    h: Hyperparameters,
    levels: Levels,
    runs: Runs,
    seen: Points,
    inverse_NN: np.ndarray,
    white_N: np.ndarray,
    log_budget_B: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean, less l, and variance of all runs, [C, B], asked block by block."""
    extra, num_C = len(seen.row_N) - len(white_N), len(runs.config_CE)
    given = np.pad(inverse_NN, (0, extra)).astype(np.float32), np.pad(white_N, (0, extra)).astype(np.float32)
    recall, share_BF, parts = runs.recall, _shares(log_budget_B).astype(np.float32), []
    for first in range(0, num_C, _QUERY_SIZES[-1]):
        last = min(first + _QUERY_SIZES[-1], num_C)
        asked = Grid(
            np.arange(first, last, dtype=np.int32),
            np.asarray(runs.config_CE[first:last], np.float32),
            *_remembered(recall.near_CV[first:last], np.asarray(recall.fine_CVF[first:last]) @ share_BF.T),
        )
        asked = _padded(asked, _size(last - first, _QUERY_SIZES), row=-2)
        found = _ask(h, levels, seen, *given, asked, log_budget_B.astype(np.float32))
        parts.append([np.asarray(part, np.float64)[: last - first] for part in found])
    mean_CB, variance_CB = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean_CB, variance_CB


def log_scale(h: Hyperparameters, num: int, square: float) -> float:
    """Returns ln s of `num` errors with e' K^-1 e of `square`."""
    freedom = float(np.exp(h.freedom))
    surprise = np.log((freedom + square) / (freedom + num))
    return float(0.5 * surprise + h.scale + h.growth * np.log1p(num) / 4.0)


def levels_of(recall: Recall) -> Levels:
    """Returns the levels of the tables that are there."""
    near_CV, level_V = np.asarray(recall.near_CV), np.asarray(recall.level_V)
    is_there_V = near_CV.max(axis=0, initial=0.0) > 0
    num = max(int(is_there_V.sum()), 1)
    mean = np.float32(level_V[is_there_V].sum() / num)
    return Levels(mean, np.where(is_there_V, level_V - mean, 0.0).astype(np.float32), np.float32(num))


def points(runs: Runs, c_N: np.ndarray, log_budget_N: np.ndarray) -> Points:
    """Returns the points (c, budget)."""
    curve_NV = np.einsum('NVF,NF->NV', np.asarray(runs.recall.fine_CVF)[c_N], _shares(log_budget_N).astype(np.float32))
    mean_N1, away_NV1 = _remembered(np.asarray(runs.recall.near_CV)[c_N], curve_NV[:, :, None])
    config_NE = np.asarray(runs.config_CE, np.float32)[c_N]
    log_budget_N = np.asarray(log_budget_N, np.float32)
    return Points(np.asarray(c_N, np.int32), log_budget_N, config_NE, mean_N1[:, 0], away_NV1[:, :, 0])


def _remembered(near_CV: np.ndarray, curve_CVB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns m [C, B] and r_w (m_w - m) [C, V, B]."""
    near_CV = np.asarray(near_CV)
    mean_CB = (near_CV[:, None] @ curve_CVB)[:, 0] / (near_CV.sum(axis=1) + _FLOOR)[:, None]
    return mean_CB, near_CV[:, :, None] * (curve_CVB - mean_CB[:, None])


def thinned(y_CT: np.ndarray, log_T: np.ndarray, most: int = _POINT_SIZES[-1]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and grid indices of what is read: the last point of each run, and one in half an octave before it.

    Of more than `most` points the last ones of runs come first, then those farthest along.
    """
    is_seen_CT = np.isfinite(y_CT)
    octave_T = np.round((log_T - log_T[-1]) * _EVERY)
    is_first_T = np.concatenate([[True], octave_T[1:] != octave_T[:-1]])
    group_T = np.cumsum(is_first_T) - 1
    before_CT = np.cumsum(is_seen_CT, axis=1) - is_seen_CT  # seen before each point
    starts_CT = before_CT[:, np.flatnonzero(is_first_T)][:, group_T]  # seen before its half octave
    last_C = curves.lengths(np.where(is_seen_CT, y_CT, np.nan)) - 1
    is_last_CT = np.arange(len(log_T))[None, :] == last_C[:, None]
    c_N, t_N = np.nonzero(is_seen_CT & ((before_CT == starts_CT) | is_last_CT))
    order = np.lexsort((-t_N, t_N != last_C[c_N]))[:most]
    return c_N[order], t_N[order]


def covariance(h: Hyperparameters, levels: Levels, a: Points, b: Points) -> jax.Array:
    """Returns what two sets of points have in common, without noise, [A, B]; jit-able."""
    told_AG, told_BG = (_told(h, levels, x.mean_N, x.away_NV) for x in (a, b))
    apart_AB = jnp.abs(a.log_budget_N[:, None] - b.log_budget_N[None, :])
    is_same_AB = a.row_N[:, None] == b.row_N[None, :]
    return _shared(h, told_AG @ told_BG.T, _similar(h, a.config_NE, b.config_NE), apart_AB, is_same_AB)


def variance(h: Hyperparameters, levels: Levels, mean: jax.Array, away_V: jax.Array) -> jax.Array:
    """Returns the variances of points, noise included, [...], from m [...] and r_w (m_w - m) [..., V]; jit-able."""
    told = jnp.sum(_told(h, levels, mean, away_V) ** 2, axis=-1)
    return told + sum(jnp.exp(2.0 * x) for x in (h.shift, h.own, h.run, h.part, h.noise))


_covariance = jax.jit(covariance)


@jax.jit
def _ask(
    h, levels: Levels, seen: Points, inverse_NN, white_N, asked: Grid, log_budget_B
) -> tuple[jax.Array, jax.Array]:
    """Returns mean, less l, and variance, [C, B], given the inverse Cholesky factor and what it makes of the errors."""
    away_CBV = jnp.swapaxes(asked.away_CVB, 1, 2)
    told_CBG, told_NG = _told(h, levels, asked.mean_CB, away_CBV), _told(h, levels, seen.mean_N, seen.away_NV)
    apart_BN = jnp.abs(log_budget_B[:, None] - seen.log_budget_N[None, :])
    is_same_CN = asked.row_C[:, None] == seen.row_N[None, :]
    similar_CN = _similar(h, asked.config_CE, seen.config_NE)
    cross_CBN = _shared(h, told_CBG @ told_NG.T, similar_CN[:, None], apart_BN[None], is_same_CN[:, None])
    whitened_CBN = cross_CBN @ inverse_NN.T
    variance_CB = variance(h, levels, asked.mean_CB, away_CBV) - jnp.sum(whitened_CBN**2, axis=2)
    return asked.mean_CB + whitened_CBN @ white_N, jnp.maximum(variance_CB, jnp.exp(2.0 * h.noise))


def _shared(h: Hyperparameters, told: jax.Array, similar: jax.Array, apart: jax.Array, is_same: jax.Array) -> jax.Array:
    """Returns covariances from their parts, whose shapes broadcast to that of `told`."""
    lasting = lambda octaves: jnp.exp(-apart * jnp.exp(-octaves))
    own = jnp.exp(2.0 * h.own) * similar * lasting(h.own_octaves)
    run = jnp.exp(2.0 * h.run) + jnp.exp(2.0 * h.part) * lasting(h.part_octaves)
    return told + jnp.exp(2.0 * h.shift) + own + jnp.where(is_same, run, 0.0)


def _similar(h: Hyperparameters, config_AE: jax.Array, config_BE: jax.Array) -> jax.Array:
    place_AE, place_BE = (config * jnp.exp(-h.length_E)[None, :] for config in (config_AE, config_BE))
    square_AB = (
        jnp.sum(place_AE**2, axis=1)[:, None] + jnp.sum(place_BE**2, axis=1)[None, :] - 2.0 * place_AE @ place_BE.T
    )
    return jnp.exp(-0.5 * jnp.maximum(square_AB, 0.0))


def _told(h: Hyperparameters, levels: Levels, mean: jax.Array, away_V: jax.Array) -> jax.Array:
    """Returns what g and the a_w weigh, scaled by their standard deviations, [..., 1 + V]."""
    levels_V = levels.away_V.reshape((1,) * (away_V.ndim - 1) + (-1,))
    away_V = jnp.exp(h.tasks) * jax.lax.rsqrt(levels.num) * (away_V + jnp.exp(h.level) * levels_V)
    return jnp.concatenate([jnp.exp(h.gain) * mean[..., None], away_V], axis=-1)


def _shares(log_budget_N: np.ndarray) -> np.ndarray:
    """Returns the weights that interpolate at log2 budgets, [N, F]; beyond the ends these are carried on."""
    budgets_F = curves.FINE_LOG_BUDGETS
    place_N = np.clip(np.interp(log_budget_N, budgets_F, np.arange(_NUM_BUDGETS)), 0.0, _NUM_BUDGETS - 1.0)
    return np.maximum(1.0 - np.abs(place_N[:, None] - np.arange(_NUM_BUDGETS)[None, :]), 0.0)


def padded(seen: Points, num_points: int) -> Points:
    """Returns the points with as many as wanted, the last ones of no run."""
    return _padded(seen, num_points, row=-1)


def _padded(parts: Any, size: int, row: int) -> Any:
    extra = size - len(parts[0])
    pad = lambda x, value=0: np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1), constant_values=value)
    return type(parts)(pad(parts[0], row), *(pad(x) for x in parts[1:]))


def _size(num: int, sizes: tuple[int, ...]) -> int:
    return next(size for size in sizes if num <= size)
