"""Fits a law to points: constants, and draws of them that say how sure they are.

The objective is on the residual of the log loss, weighted by repeats:

    least_squares   sum w r^2 / 2, the maximum likelihood for relative noise; the default
    huber           sum w huber(r; delta = 1e-3), that of arXiv 2402.17193

All starts descend together, in one compiled program of damped Gauss-Newton steps (reweighted for Huber); SciPy's L-BFGS
with JAX gradients, the paper's optimizer, then finishes from the best of them. The paper's constants are double
precision here too, in a context of its own: nothing global is changed.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

from metaft.errors import DataError, InputError
from metaft.scaling import laws
from metaft.scaling.laws import Centre, Law
from metaft.scaling.points import Points

OBJECTIVES = ('least_squares', 'huber')
HUBER_DELTA = 1e-3
_STEPS = 120
_PAD = 16  # points are padded to a multiple of this, so that groups of nearly equal size share a program
_CHUNK = 64  # descents go together in chunks of this many, so that starts and resamples share a program
_RIVAL_COST = 1.5  # other optima within this factor of the best cost are starts for the bootstrap too


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      law, centre: the form, and what its sizes are divided by.
      points: what it was fitted to.
      theta_J: the centred constants.
      draws_UJ: the same for bootstrap resamples; the spread of anything computed from them is its uncertainty.
      residuals_I: log measured minus log predicted loss.
      dof: points less constants.
      noise: standard deviation of the log loss of one measurement, estimated from the residuals.
      fit_log_rmsd: root of the weighted mean square residual.
      aicc: Akaike's criterion with the small-sample correction, Gaussian on the log loss; lower is better.
    """

    law: Law
    centre: Centre
    points: Points
    theta_J: np.ndarray
    draws_UJ: np.ndarray
    residuals_I: np.ndarray
    dof: int
    noise: float
    fit_log_rmsd: float
    aicc: float


def fit(
    law: Law,
    points: Points,
    objective: str = 'least_squares',
    num_draws: int = 400,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    centre: Centre | None = None,
) -> Fit:
    """Fits a law and bootstraps it.

    The bootstrap resamples standardised residuals onto the fitted curve. A law with k constants fitted to n points
    leaves residuals too small by sqrt((n - k) / n), and percentiles ignore that the noise is itself estimated, so
    resampled residuals are scaled by sqrt(n / (n - k)) t / z, the ratio of Student's to the normal 97.5 % quantile.

    Args:
      law: the form.
      points: at least one more than the law has constants.
      objective: `least_squares` or `huber`.
      num_draws: bootstrap resamples.
      seed: of the resampling.
      fixed: constants that are known, by name, centred as in `Fit.theta_J`.
      centre: what sizes are divided by; their geometric means by default.

    Raises:
      DataError: too few points; what a fit can and cannot identify beyond that is `identification`'s.
    """
    if objective not in OBJECTIVES:
        raise InputError(f'there is no objective {objective!r}; allowed are {", ".join(OBJECTIVES)}')
    num_free = len(law.names) - len(fixed or {})
    if len(points) <= num_free:
        raise DataError(
            f'the {law.form} law has {num_free} constants to fit, for which {num_free + 1} points or more are needed, '
            f'found {len(points)}'
        )
    centre = centre or Centre.of(points)
    low_J, high_J = laws.bounds(law, points)
    starts_UJ = laws.starts(law, points)
    for name, value in (fixed or {}).items():
        j = law.names.index(name)
        low_J[j] = high_J[j] = starts_UJ[:, j] = value
    inputs = centre.inputs(points)
    measured_I = np.log(points.loss_I)
    delta = HUBER_DELTA if objective == 'huber' else np.inf
    descend = lambda theta_UJ, measured: _descend_all(
        law, theta_UJ, inputs, measured, points.repeats_I, delta, (low_J, high_J)
    )

    theta_UJ, cost_U = descend(starts_UJ, measured_I)
    best_J = theta_UJ[np.argmin(cost_U)]
    theta_J = _finish(law, best_J, inputs, measured_I, points.repeats_I, delta, (low_J, high_J))
    rivals_UJ = _distinct(theta_UJ[cost_U < _RIVAL_COST * cost_U.min()], theta_J)

    predicted_I = _log_loss(law, theta_J, inputs)
    dof = len(points) - num_free
    widen = np.sqrt(len(points) / dof) * scipy.stats.t.ppf(0.975, dof) / scipy.stats.norm.ppf(0.975)
    standard_I = (measured_I - predicted_I) * np.sqrt(points.repeats_I) * widen
    shuffled_UI = np.random.default_rng(seed).choice(standard_I, (num_draws, len(points)))
    resampled_UI = predicted_I + shuffled_UI / np.sqrt(points.repeats_I)
    descents = [descend(np.tile(start_J, (num_draws, 1)), resampled_UI) for start_J in (theta_J, *rivals_UJ)]
    winner_U = np.argmin([cost_U for _, cost_U in descents], axis=0)
    draws_UJ = np.stack([theta_UJ for theta_UJ, _ in descents])[winner_U, np.arange(num_draws)]
    return measure(law, centre, points, theta_J, draws_UJ, num_free)


def measure(law: Law, centre: Centre, points: Points, theta_J: np.ndarray, draws_UJ: np.ndarray, num_free: int) -> Fit:
    """Returns the fit of constants already found, with its residuals and what follows from them."""
    residuals_I = np.log(points.loss_I) - _log_loss(law, theta_J, centre.inputs(points))
    square = float(np.sum(points.repeats_I * residuals_I**2))
    mean_square = square / float(points.repeats_I.sum())
    dof = len(points) - num_free
    aicc = _aicc(len(points), num_free, mean_square)
    return Fit(law, centre, points, theta_J, draws_UJ, residuals_I, dof, (square / dof) ** 0.5, mean_square**0.5, aicc)


def predict(fit: Fit, points: Points) -> np.ndarray:
    """Returns the losses [I] that a fitted law gives at the points' sizes."""
    return np.exp(_log_loss(fit.law, fit.theta_J, fit.centre.inputs(points)))


def predict_draws(fit: Fit, points: Points, seed: int | None = None) -> np.ndarray:
    """Returns losses [U, I], one row a bootstrap draw; with a seed, of new measurements, their noise included."""
    with jax.enable_x64(True):
        log_UI = np.array(_log_loss_of_all(fit.law, fit.draws_UJ, *fit.centre.inputs(points)))
    if seed is not None:
        noise_UI = np.random.default_rng(seed).standard_t(fit.dof, log_UI.shape) * fit.noise
        log_UI += noise_UI / np.sqrt(points.repeats_I)
    return np.exp(log_UI)


def log_rmsd(fit: Fit, points: Points) -> float:
    """Returns the root mean square of log measured minus log predicted loss at `points`; NaN where there are none."""
    if not len(points):
        return float('nan')
    residuals_I = np.log(points.loss_I) - np.log(predict(fit, points))
    return float(np.sqrt(np.average(residuals_I**2, weights=points.repeats_I)))


def _distinct(theta_UJ: np.ndarray, besides_J: np.ndarray, most: int = 3, apart: float = 0.3) -> list[np.ndarray]:
    """Returns at most `most` rows that differ from `besides_J` and from each other in some constant."""
    kept = [besides_J]
    for theta_J in theta_UJ:
        if len(kept) <= most and min(np.abs(theta_J - other_J).max() for other_J in kept) > apart:
            kept.append(theta_J)
    return kept[1:]


def _aicc(num_points: int, num_constants: int, mean_square: float) -> float:
    k = num_constants + 1  # the noise is a constant too
    if num_points <= k + 1:
        return float('nan')
    correction = 2 * k * (k + 1) / (num_points - k - 1)
    return num_points * float(np.log(max(mean_square, 1e-30))) + 2 * k + correction


def _log_loss(law: Law, theta_J: np.ndarray, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    with jax.enable_x64(True):
        return np.array(_log_loss_of_all(law, theta_J[None], *inputs))[0]


@functools.partial(jax.jit, static_argnums=0)
def _log_loss_of_all(law: Law, theta_UJ, d_I, x_IX, member_IX):
    return jax.vmap(lambda theta_J: laws.log_loss(law, theta_J, d_I, x_IX, member_IX))(theta_UJ)


# ---------------------------------------------------------------- descent


def _descend_all(law, theta_UJ, inputs, measured, repeats_I, delta, limits) -> tuple[np.ndarray, np.ndarray]:
    """Returns (theta_UJ, cost_U) at the end of every start's descent; `measured` is [I], or [U, I] a row a start."""
    padding = -len(repeats_I) % _PAD
    pad = lambda array: np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
    fixed = (*map(pad, inputs), pad(repeats_I), delta, *limits)
    measured_UI = np.pad(np.broadcast_to(measured, (len(theta_UJ), len(repeats_I))), [(0, 0), (0, padding)])
    chunks = []
    with jax.enable_x64(True):
        for first in range(0, len(theta_UJ), _CHUNK):
            rows = np.minimum(np.arange(first, first + _CHUNK), len(theta_UJ) - 1)  # the last row fills the last chunk
            chunks.append([np.array(part) for part in _descent(law, theta_UJ[rows], measured_UI[rows], *fixed)])
    theta_UJ, cost_U = (np.concatenate(parts)[: len(theta_UJ)] for parts in zip(*chunks))
    return theta_UJ, cost_U


@functools.partial(jax.jit, static_argnums=0)
def _descent(law: Law, theta_UJ, measured_UI, d_I, x_IX, member_IX, repeats_I, delta, low_J, high_J):
    """Damped Gauss-Newton within bounds, from every start at once; a step that does not lower the cost is undone."""

    def descend(theta_J, measured_I):
        residual = lambda theta_J: laws.log_loss(law, theta_J, d_I, x_IX, member_IX) - measured_I
        jacobian = jax.jacfwd(residual)
        cost_at = lambda theta_J: jnp.sum(repeats_I * _huber(residual(theta_J), delta))

        def step(state, _):
            theta_J, cost, damping = state
            residual_I, jacobian_IJ = residual(theta_J), jacobian(theta_J)
            weight_I = repeats_I / jnp.maximum(1.0, jnp.abs(residual_I) / delta)
            gradient_J = jacobian_IJ.T @ (weight_I * residual_I)
            # A constant at its bound that would leave it, or that is fixed, takes no part in the step.
            stuck_J = (
                ((theta_J <= low_J) & (gradient_J > 0)) | ((theta_J >= high_J) & (gradient_J < 0)) | (low_J == high_J)
            )
            jacobian_IJ = jnp.where(stuck_J[None], 0.0, jacobian_IJ)
            hessian_JJ = jacobian_IJ.T @ (weight_I[:, None] * jacobian_IJ)
            diagonal_J = damping * jnp.diag(hessian_JJ) + 1e-14 + stuck_J.astype(theta_J.dtype)
            move_J = jnp.linalg.solve(hessian_JJ + jnp.diag(diagonal_J), jnp.where(stuck_J, 0.0, gradient_J))
            new_J = jnp.clip(theta_J - move_J, low_J, high_J)
            new_cost = cost_at(new_J)
            better = new_cost < cost
            damping = jnp.clip(jnp.where(better, damping / 4, damping * 5), 1e-12, 1e12)
            return (jnp.where(better, new_J, theta_J), jnp.where(better, new_cost, cost), damping), None

        theta_J = jnp.clip(theta_J, low_J, high_J)
        state = (theta_J, cost_at(theta_J), jnp.float64(1e-2))
        (theta_J, cost, _), _ = jax.lax.scan(step, state, length=_STEPS)
        return theta_J, cost

    return jax.vmap(descend)(theta_UJ, measured_UI)


def _huber(residual_I, delta):
    """r^2 / 2 up to delta, delta (|r| - delta / 2) beyond; least squares where delta is infinite."""
    size_I = jnp.abs(residual_I)
    inner_I = jnp.minimum(size_I, delta)
    return inner_I * (size_I - inner_I / 2)


def _finish(law, theta_J, inputs, measured_I, repeats_I, delta, limits) -> np.ndarray:
    """Returns the optimum that SciPy's bounded L-BFGS reaches from `theta_J`, or `theta_J` where that is as good."""
    with jax.enable_x64(True):
        arguments = (*inputs, measured_I, repeats_I, delta)
        start_cost = max(float(_cost(law, theta_J, *arguments)[0]), 1e-300)

        def scaled(theta_J):  # SciPy's tolerance is relative to at least one
            value, gradient_J = _cost(law, theta_J, *arguments)
            return float(value) / start_cost, np.array(gradient_J) / start_cost

        found = scipy.optimize.minimize(
            scaled,
            theta_J,
            jac=True,
            method='L-BFGS-B',
            bounds=list(zip(*limits)),
            options={'maxiter': 500, 'ftol': 1e-14},
        )
    return found.x if found.fun < 1.0 else theta_J


@functools.partial(jax.jit, static_argnums=0)
def _cost(law: Law, theta_J, d_I, x_IX, member_IX, measured_I, repeats_I, delta):
    def cost(theta_J):
        residual_I = laws.log_loss(law, theta_J, d_I, x_IX, member_IX) - measured_I
        return jnp.sum(repeats_I * _huber(residual_I, delta))

    return jax.value_and_grad(cost)(theta_J)
