"""How far each constant of a least-squares fit can be moved before the fit is worse than noise allows.

The profile of a constant is the lowest cost S(v) with the constant held at v and the others free. With

    t(v) = sqrt((S(v) - S) / (S / dof))

the interval is where t(v) stays below Student's 97.5 % quantile: the exact interval where a law is linear in its
constants, and a good one where it is not (Bates and Watts, *Nonlinear Regression Analysis*, 1988, section 6.1). The
bootstrap's percentiles, used before, fail where the irreducible loss is near 0: an estimate that has reached the bound
resamples from a world without it, and beta moves with E. A profile does not care on which side of the truth the
estimate fell.
"""

import numpy as np
import scipy.stats

from metaft.scaling import descent
from metaft.scaling.laws import Law

_REACH = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])  # where a profile is computed, in the draws' deviations
_WIDEN, _PASSES = 5.0, 4  # a side that is not reached is looked for this many times further out, at most so often
_SMALLEST_SCALE = 1e-5
_COEFFICIENT_BOUND = 400.0  # of logarithms of coefficients in the units of the data: the law's own bounds are wider


def limits(
    law: Law,
    theta_J: np.ndarray,
    draws_UJ: np.ndarray,
    inputs: tuple[np.ndarray, ...],
    log_loss_I: np.ndarray,
    repeats_I: np.ndarray,
    dof: int,
    bounds: tuple[np.ndarray, np.ndarray],
    level: float = 0.95,
) -> np.ndarray:
    """Returns the lower and the upper limit of every constant, [J, 2]; a limit that is not reached is the bound.

    Args:
      law: the form.
      theta_J: the least-squares estimate, in the units of the data: logarithms of coefficients, not centred.
      draws_UJ: bootstrap draws of the same; they say where to look, not where the limits are.
      inputs: (ln D, ln X, member), not centred.
      log_loss_I, repeats_I: what was fitted.
      dof: points less free constants.
      bounds: (low_J, high_J) of the fit; equal where a constant is held.
      level: of the interval.
    """
    low_J, high_J = bounds
    coefficient_J = np.array([symbol in ('A', 'B', 'D_l') for symbol, _ in law.symbols])
    low_J, high_J = (
        np.where(coefficient_J & (low_J < high_J), sign * _COEFFICIENT_BOUND, bound_J)
        for sign, bound_J in ((-1, low_J), (1, high_J))
    )
    is_e_J = np.array(
        [symbol == 'E' for symbol, _ in law.symbols]
    )  # moved on its own scale, on which cost is parabolic
    into = lambda value, j: np.exp(value) if is_e_J[j] else value
    out_of = lambda value, j: np.log(value) if is_e_J[j] else value
    cost = lambda rows_UJ, held: descent.descend(law, rows_UJ, inputs, log_loss_I, repeats_I, np.inf, held)[1]
    best = max(float(cost(theta_J[None], (theta_J, theta_J))[0]), 1e-300)
    critical = scipy.stats.t.ppf(0.5 + level / 2, dof)

    found = np.stack([low_J, high_J], axis=1)
    pending = {(j, side): (into(theta_J[j], j), 0.0) for j in range(len(theta_J)) if low_J[j] < high_J[j]
               for side in (0, 1)}  # fmt: skip
    scale_J = [max(float(np.std(into(draws_UJ[:, j], j))), _SMALLEST_SCALE) for j in range(len(theta_J))]
    for number in range(_PASSES):
        if not pending:
            break
        places, starts = {}, []
        for j, side in pending:
            sign = 2 * side - 1
            wanted = into(theta_J[j], j) + sign * _REACH * scale_J[j] * _WIDEN**number
            ends = into(low_J[j], j), into(high_J[j], j)
            places[j, side] = np.clip(wanted, *ends)
            starts += _starts(theta_J, draws_UJ, j, out_of(places[j, side], j))
        rows_UJ = np.concatenate(starts)
        held_J = np.repeat([j for j, _ in pending], 2 * len(_REACH))
        is_held_UJ = np.arange(len(theta_J))[None] == held_J[:, None]
        held = tuple(np.where(is_held_UJ, rows_UJ, bound_J) for bound_J in (low_J, high_J))
        cost_U = cost(rows_UJ, held).reshape(len(pending), 2, len(_REACH)).min(axis=1)
        t_U = np.sqrt(np.maximum(cost_U - best, 0.0) / best * dof)
        left = {}
        for (j, side), t_K in zip(pending, t_U):
            value_K = np.concatenate([[pending[j, side][0]], places[j, side]])
            t_K = np.maximum.accumulate([pending[j, side][1], *t_K])
            beyond = np.flatnonzero(t_K >= critical)
            if len(beyond):
                a, b = beyond[0] - 1, beyond[0]
                share = (critical - t_K[a]) / (t_K[b] - t_K[a])
                found[j, side] = out_of(value_K[a] + share * (value_K[b] - value_K[a]), j)
            elif out_of(value_K[-1], j) not in (low_J[j], high_J[j]):
                left[j, side] = (value_K[-1], t_K[-1])
        pending = left
    return found


def _starts(theta_J: np.ndarray, draws_UJ: np.ndarray, j: int, values_K: np.ndarray) -> list[np.ndarray]:
    """Returns rows with constant j at each value: the others moved along as in the draws, or as in the nearest draw."""
    deviation_UJ = draws_UJ - draws_UJ.mean(axis=0)
    slope_J = deviation_UJ.T @ deviation_UJ[:, j] / max(float(deviation_UJ[:, j] @ deviation_UJ[:, j]), 1e-300)
    moved_KJ = theta_J + (values_K - theta_J[j])[:, None] * slope_J
    nearest_KJ = draws_UJ[np.argmin(np.abs(draws_UJ[:, j][None] - values_K[:, None]), axis=1)].copy()
    moved_KJ[:, j] = nearest_KJ[:, j] = values_K
    return [moved_KJ, nearest_KJ]
