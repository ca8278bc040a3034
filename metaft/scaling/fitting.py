"""Fits a law to points: constants, and draws of them that say how sure they are.

The objective is on the residual of the log loss, weighted by repeats:

    least_squares   sum w r^2 / 2, the maximum likelihood for relative noise; the default
    huber           sum w huber(r; delta = 1e-3), that of arXiv 2402.17193

How sure the constants are, two ways. Draws of all of them together, by a bootstrap, for anything computed from a fit:
predictions, crossovers. Limits of each one, by its profile (`profile`), which the draws get wrong at E = 0. How the
optimum is reached is `descent`'s.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.stats

from metaft.errors import DataError, InputError
from metaft.scaling import descent, laws, profile
from metaft.scaling.laws import Centre, Law
from metaft.scaling.points import Points

OBJECTIVES = ('least_squares', 'huber')
HUBER_DELTA = 1e-3
_RIVAL_COST = 1.5  # other optima within this factor of the best cost are starts for the bootstrap too


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      law, centre: the form, and what its sizes are divided by.
      points: what it was fitted to.
      theta_J: the centred constants.
      draws_UJ: the same for bootstrap resamples; the spread of anything computed from them is its uncertainty.
      limits_J2: 95 % limits of each constant in the units of the data, coefficients and E as logarithms.
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
    limits_J2: np.ndarray
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
      num_draws: bootstrap resamples; 0 where no one asks how sure the fit is, which leaves limits NaN.
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
    descend = lambda theta_UJ, measured: descent.descend(
        law, theta_UJ, inputs, measured, points.repeats_I, delta, (low_J, high_J)
    )

    theta_UJ, cost_U = descend(starts_UJ, measured_I)
    best_J = theta_UJ[np.argmin(cost_U)]
    theta_J = descent.finish(law, best_J, inputs, measured_I, points.repeats_I, delta, (low_J, high_J))
    rivals_UJ = _distinct(theta_UJ[cost_U < _RIVAL_COST * cost_U.min()], theta_J)

    predicted_I = descent.log_loss(law, theta_J[None], inputs)[0]
    dof = len(points) - num_free
    widen = np.sqrt(len(points) / dof) * scipy.stats.t.ppf(0.975, dof) / scipy.stats.norm.ppf(0.975)
    standard_I = (measured_I - predicted_I) * np.sqrt(points.repeats_I) * widen
    shuffled_UI = np.random.default_rng(seed).choice(standard_I, (num_draws, len(points)))
    resampled_UI = predicted_I + shuffled_UI / np.sqrt(points.repeats_I)
    if num_draws == 0:
        nothing_UJ, unknown_J2 = np.zeros((0, len(theta_J))), np.full((len(theta_J), 2), np.nan)
        return measure(law, centre, points, theta_J, nothing_UJ, unknown_J2, num_free)
    descents = [descend(np.tile(start_J, (num_draws, 1)), resampled_UI) for start_J in (theta_J, *rivals_UJ)]
    winner_U = np.argmin([cost_U for _, cost_U in descents], axis=0)
    draws_UJ = np.stack([theta_UJ for theta_UJ, _ in descents])[winner_U, np.arange(num_draws)]
    limits_J2 = _limits(law, centre, points, theta_J, draws_UJ, dof, (low_J, high_J), objective)
    return measure(law, centre, points, theta_J, draws_UJ, limits_J2, num_free)


def measure(
    law: Law,
    centre: Centre,
    points: Points,
    theta_J: np.ndarray,
    draws_UJ: np.ndarray,
    limits_J2: np.ndarray,
    num_free: int,
) -> Fit:
    """Returns the fit of constants already found, with its residuals and what follows from them."""
    residuals_I = np.log(points.loss_I) - descent.log_loss(law, theta_J[None], centre.inputs(points))[0]
    square = float(np.sum(points.repeats_I * residuals_I**2))
    mean_square = square / float(points.repeats_I.sum())
    dof = len(points) - num_free
    aicc = _aicc(len(points), num_free, mean_square)
    noise, fit_log_rmsd = (square / dof) ** 0.5, mean_square**0.5
    return Fit(law, centre, points, theta_J, draws_UJ, limits_J2, residuals_I, dof, noise, fit_log_rmsd, aicc)


def predict(fit: Fit, points: Points) -> np.ndarray:
    """Returns the losses [I] that a fitted law gives at the points' sizes."""
    return np.exp(descent.log_loss(fit.law, fit.theta_J[None], fit.centre.inputs(points))[0])


def predict_draws(fit: Fit, points: Points, seed: int | None = None) -> np.ndarray:
    """Returns losses [U, I], one row a bootstrap draw; with a seed, of new measurements, their noise included."""
    log_UI = descent.log_loss(fit.law, fit.draws_UJ, fit.centre.inputs(points))
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


def _limits(law, centre, points, theta_J, draws_UJ, dof, bounds, objective) -> np.ndarray:
    """Returns the limits [J, 2] by profiles; for Huber, whose cost is no likelihood, the percentiles of the draws."""
    in_units = lambda theta_UJ: laws.constants(law, theta_UJ, centre, logarithms=True)
    if objective == 'huber':
        return np.percentile(in_units(draws_UJ), [2.5, 97.5], axis=0).T
    inputs = Centre(0.0, (0.0,) * points.factors_IX.shape[1]).inputs(points)
    value_J, value_UJ = in_units(theta_J[None])[0], in_units(draws_UJ)
    return profile.limits(law, value_J, value_UJ, inputs, np.log(points.loss_I), points.repeats_I, dof, bounds)
