"""Fits the regression's prior to training tasks: how likely are unseen values, one by one, in states of a search?

One cell at a time, by the density of a Student t: by the joint likelihood of all cells, tasks on which every run ends
alike set the noise to nothing. The matrices' factors are SciPy's and the derivatives by hand, the kernel's JAX's:
LAPACK's calls inside of XLA's programs deadlock on two cores.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jax.flatten_util import ravel_pytree
from scipy.special import gammaln

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import evaluation, process, regression, transforms
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.memory import Array, Memory
from metaft.surrogate.regression import FREEDOM, Hyperparameters, Levels, Points

_NUM_CASES, _BATCH_SIZE = 240, 12
STEPS, _LEARNING_RATE = 200, 0.05  # of Adam, on a cosine to 0
_POINTS, _CELLS = 160, 64  # of a case, at most: observed, asked about
_EMPTY = 0.1  # cases with nothing observed
_WORST_NATS = -20.0  # of a cell, so that single mistakes do not decide
_RANGE = 2.5  # each parameter stays within a factor of e^2.5 of its start
_HOLD = 2e-4  # weight of a parameter's squared distance from its start


class Case(NamedTuple):
    """A state of a search and unseen cells; with a first axis B many of them."""

    levels: Levels
    seen: Points  # padded
    asked: Points
    y_N: np.ndarray
    y_Q: np.ndarray


def fit(
    tables: Sequence[TaskTable],
    weight_W: np.ndarray,
    encoding: Encoding,
    memory: Memory,
    seed: int,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> dict[str, Hyperparameters]:
    """Returns a prior for each metric of the tables.

    Args:
      tables: the training tables; each is asked about as if its dataset were not remembered.
      weight_W: how often each of them is drawn.
      encoding: of configurations.
      memory: of the tables.
      seed: of the states.
      progress: called after each of the `STEPS` of each metric with the step and the loss of its batch, in nats.
    """
    found = {}
    for metric in dict.fromkeys(table.metric for table in tables):
        rng = np.random.default_rng(seed)
        places = [w for w, table in enumerate(tables) if table.metric == metric and np.isfinite(table.values_CT).any()]
        if not places:
            continue
        picked = rng.choice(places, _NUM_CASES, p=weight_W[places] / weight_W[places].sum())
        cases = [case for w in picked if (case := draw(rng, tables[w], encoding, memory)) is not None]
        if cases:  # tables of which something can be left unseen
            found[metric] = _fit(cases, encoding.num_hyperparameters, seed, progress)
    return found


def draw(rng: np.random.Generator, table: TaskTable, encoding: Encoding, memory: Memory) -> Case | None:
    """Draws a state of a search on a table; None where everything was seen."""
    most = max(table.values_CT.size / 3, 2.0)
    num_points = 0 if rng.random() < _EMPTY else int(np.exp(rng.uniform(0.0, np.log(min(most, 1000.0)))))
    values_CT, _ = evaluation.hide(table, num_points, int(rng.integers(2**31)))
    y_CT = transforms.transform(values_CT, table.metric, table.reference_value)
    true_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
    log_T = np.log2(table.fractions_T)
    c_N, t_N = regression.thinned(y_CT, log_T, _POINTS)
    c_Q, t_Q = np.nonzero(np.isnan(values_CT) & ~np.isnan(table.values_CT))
    if not len(c_Q):
        return None
    at = rng.choice(len(c_Q), _CELLS, replace=len(c_Q) < _CELLS)
    c_Q, t_Q = c_Q[at], t_Q[at]

    rows, row_A = np.unique(np.concatenate([c_N, c_Q]), return_inverse=True)
    config_CE = encoding.configurations([table.configurations[c] for c in rows])
    runs = process.Runs(config_CE, memory.recall(config_CE, table.metric, splits.dataset_of(table)))
    levels = regression.levels_of(runs.recall)
    some = lambda row_N, t_N: regression.points(runs, row_N, log_T[t_N])
    seen = regression.padded(some(row_A[: len(c_N)], t_N), _POINTS)
    y_N = np.pad(y_CT[c_N, t_N], (0, _POINTS - len(c_N)), constant_values=np.nan)
    return Case(levels, seen, some(row_A[len(c_N) :], t_Q), y_N, true_CT[c_Q, t_Q])


def _fit(
    cases: Sequence[Case], num_hyperparameters: int, seed: int, progress: Callable[[int, float], None]
) -> Hyperparameters:
    batch = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *cases)
    initial, unravel = ravel_pytree(Hyperparameters.initial(num_hyperparameters))
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, STEPS))
    x, state, rng = initial, optimizer.init(initial), np.random.default_rng(seed)
    for step in range(STEPS):
        chosen = rng.choice(len(cases), min(_BATCH_SIZE, len(cases)), replace=False)
        loss, slope = _loss_and_slope(unravel(x), _some(batch, chosen), [cases[c] for c in chosen])
        progress(step + 1, loss)
        slope = jnp.asarray(slope, jnp.float32) + 2.0 * _HOLD * (x - initial)
        with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer step count
            update, state = optimizer.update(slope, state, x)
        x = jnp.clip(x + update, initial - _RANGE, initial + _RANGE)
    return jax.tree.map(np.asarray, unravel(x))


def _some(batch: Case, chosen: np.ndarray) -> Case:
    return jax.tree.map(lambda part: part[chosen], batch)


class _Matrices(NamedTuple):
    """Covariances of a case, noise included; with a first axis B of many."""

    seen_NN: Array
    cross_NQ: Array
    asked_Q: Array


def _matrices(h: Hyperparameters, batch: Case) -> _Matrices:
    def one(case: Case) -> _Matrices:
        noise = jnp.exp(2.0 * h.noise)
        return _Matrices(
            regression.covariance(h, case.levels, case.seen, case.seen) + noise * jnp.eye(_POINTS),
            regression.covariance(h, case.levels, case.seen, case.asked),
            regression.variance(h, case.levels, case.asked.mean_N, case.asked.away_NV),
        )

    return jax.vmap(one)(batch)


_matrices_of = jax.jit(_matrices)


@jax.jit
def _pull(h: Hyperparameters, batch: Case, slopes: _Matrices) -> Hyperparameters:
    return jax.vjp(lambda h: _matrices(h, batch), h)[1](slopes)[0]


def _loss_and_slope(h: Hyperparameters, batch: Case, cases: Sequence[Case]) -> tuple[float, np.ndarray]:
    """Returns the mean negative log density of the asked cells, in nats, and its slope, flat."""
    matrices = jax.tree.map(np.asarray, _matrices_of(h, batch))
    values, direct, slopes = zip(
        *(_one(h, case, _Matrices(*(m[b] for m in matrices))) for b, case in enumerate(cases)), strict=True
    )
    stacked = _Matrices(*(jnp.asarray(np.stack(part) / len(cases), jnp.float32) for part in zip(*slopes, strict=True)))
    slope = _pull(h, batch, stacked)
    freedom, scale, growth = np.mean(direct, axis=0)
    slope = slope._replace(freedom=slope.freedom + freedom, scale=slope.scale + scale, growth=slope.growth + growth)
    return float(np.mean(values)), np.asarray(ravel_pytree(slope)[0], np.float64)


def _one(h: Hyperparameters, case: Case, matrices: _Matrices):
    """Returns a case's loss, its slopes in freedom, scale and growth, and those in its matrices."""
    num = int(np.sum(~np.isnan(case.y_N)))
    seen_NN = matrices.seen_NN[:num, :num].astype(np.float64)
    cross_NQ = matrices.cross_NQ[:num].astype(np.float64)
    error_N = case.y_N[:num].astype(np.float64) - case.seen.mean_N[:num] - case.levels.mean
    factor_NN = regression.factor(seen_NN)
    solved = scipy.linalg.cho_solve((factor_NN, True), np.column_stack([error_N, cross_NQ]))
    alpha_N, beta_NQ = solved[:, 0], solved[:, 1:]
    mean_Q = case.levels.mean + case.asked.mean_N + cross_NQ.T @ alpha_N
    left_Q = matrices.asked_Q - np.sum(cross_NQ * beta_NQ, axis=0)
    floor = float(np.exp(2.0 * h.noise))
    variance_Q = np.maximum(left_Q, floor)
    square, freedom = float(error_N @ alpha_N), float(np.exp(h.freedom))
    log_sd_Q = 0.5 * np.log(variance_Q) + regression.log_scale(h, num, square)
    z_Q = (case.y_Q - mean_Q) * np.exp(-log_sd_Q)
    constant = gammaln((FREEDOM + 1.0) / 2.0) - gammaln(FREEDOM / 2.0) - 0.5 * np.log(FREEDOM * np.pi)
    density_Q = constant - 0.5 * (FREEDOM + 1.0) * np.log1p(z_Q**2 / FREEDOM) - log_sd_Q

    weight_Q = (density_Q > _WORST_NATS) / len(z_Q)
    by_z_Q = weight_Q * (FREEDOM + 1.0) * z_Q / (FREEDOM + z_Q**2)  # of the loss
    by_mean_Q = -by_z_Q * np.exp(-log_sd_Q)
    by_log_sd_Q = weight_Q - by_z_Q * z_Q
    by_variance_Q = np.where(left_Q > floor, 0.5 * by_log_sd_Q / variance_Q, 0.0)
    total = float(by_log_sd_Q.sum())
    by_square = 0.5 * total / (freedom + square)
    by_freedom = 0.5 * total * (1.0 / (freedom + square) - 1.0 / (freedom + num)) * freedom

    pulled_N = beta_NQ @ by_mean_Q
    by_seen_NN = (beta_NQ * by_variance_Q) @ beta_NQ.T - by_square * np.outer(alpha_N, alpha_N)
    by_seen_NN -= 0.5 * (np.outer(pulled_N, alpha_N) + np.outer(alpha_N, pulled_N))
    by_cross_NQ = np.outer(alpha_N, by_mean_Q) - 2.0 * beta_NQ * by_variance_Q
    slopes = _Matrices(np.zeros_like(matrices.seen_NN), np.zeros_like(matrices.cross_NQ), by_variance_Q)
    slopes.seen_NN[:num, :num], slopes.cross_NQ[:num] = by_seen_NN, by_cross_NQ
    loss = -float(np.mean(np.maximum(density_Q, _WORST_NATS)))
    return loss, (by_freedom, total, total * np.log1p(num) / 4.0), slopes
