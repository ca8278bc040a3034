"""How far each constant of a least-squares fit can be moved before the fit is worse than noise allows.

The profile of a constant is the lowest cost S(v) with the constant held at v and the others free. With

    t(v) = sqrt((S(v) - S) / (S / dof))

the interval is where t(v) stays below Student's 97.5 % quantile: the exact interval where a law is linear in its
constants, and a good one where it is not (Bates and Watts, *Nonlinear Regression Analysis*, 1988, section 6.1). The
bootstrap's percentiles, used before, fail where the irreducible loss is near 0: an estimate that has reached the bound
resamples from a world without it, and beta moves with E. A profile does not care on which side of the truth the
estimate fell.
"""

import dataclasses

import numpy as np
import scipy.stats

from metaft.scaling import descent
from metaft.scaling.laws import Law

_REACH = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])  # where a profile is computed, in the draws' deviations
_WIDEN, _PASSES = 5.0, 4  # a side that is not reached is looked for this many times further out, at most so often
_REFINED = 2  # times that a found bracket is divided, by 9 each: a profile has a kink where E reaches its bound
_SMALLEST_SCALE = 1e-5
_COEFFICIENT_BOUND = 400.0  # of logarithms of coefficients in the units of the data: the law's own bounds are wider


@dataclasses.dataclass
class _Side:
    """One limit being looked for: constant j, upwards or downwards, known not to be reached at `value`.

    Values are those of the constant, of E itself for E, on whose scale the cost is parabolic, and `t` is the profile's.
    `beyond` is None until a value is known at which it is reached.
    """

    j: int
    sign: int
    value: float
    t: float = 0.0
    beyond: float | None = None
    t_beyond: float = np.inf
    is_at_bound: bool = False

    def wanted(self, scale: float, widened: int) -> np.ndarray:
        """Returns the values to try next: further out, or within the bracket."""
        if self.beyond is None:
            return self.value + self.sign * _REACH * scale * _WIDEN**widened
        return np.linspace(self.value, self.beyond, len(_REACH) + 2)[1:-1]

    def learn(self, value_K: np.ndarray, t_K: np.ndarray, critical: float, bound: float) -> None:
        """Moves the bracket to what was found at the values wanted."""
        t_K = np.maximum.accumulate([self.t, *t_K])[1:]
        reached = np.flatnonzero(t_K >= critical)
        if len(reached):
            self.beyond, self.t_beyond = float(value_K[reached[0]]), float(t_K[reached[0]])
        last = (reached[0] if len(reached) else len(value_K)) - 1
        if last >= 0:
            self.value, self.t = float(value_K[last]), float(t_K[last])
        self.is_at_bound = self.beyond is None and self.value == bound

    def limit(self, critical: float, bound: float) -> float:
        """Returns where the profile reaches the critical value, or the bound."""
        if self.beyond is None:
            return bound
        return self.value + (critical - self.t) / (self.t_beyond - self.t) * (self.beyond - self.value)


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
    is_held_J = low_J == high_J  # at a centred value, which is another one here
    low_J, high_J = (
        np.where(is_held_J, theta_J, np.where(coefficient_J, sign * _COEFFICIENT_BOUND, bound_J))
        for sign, bound_J in ((-1, low_J), (1, high_J))
    )
    is_e_J = [symbol == 'E' for symbol, _ in law.symbols]
    into = lambda value, j: np.exp(value) if is_e_J[j] else value
    out_of = lambda value, j: np.log(value) if is_e_J[j] else value
    bound = lambda side: into((low_J if side.sign < 0 else high_J)[side.j], side.j)
    cost = lambda rows_UJ, held: descent.descend(law, rows_UJ, inputs, log_loss_I, repeats_I, np.inf, held)[1]
    best = max(float(cost(theta_J[None], (theta_J, theta_J))[0]), 1e-300)
    critical = scipy.stats.t.ppf(0.5 + level / 2, dof)
    scale_J = [max(float(np.std(into(draws_UJ[:, j], j))), _SMALLEST_SCALE) for j in range(len(theta_J))]
    sides = [_Side(int(j), sign, into(theta_J[j], j)) for j in np.flatnonzero(low_J < high_J) for sign in (-1, 1)]

    def look(pending: list[_Side], widened: int) -> None:
        ends = [(into(low_J[side.j], side.j), into(high_J[side.j], side.j)) for side in pending]
        values = [np.clip(side.wanted(scale_J[side.j], widened), *end) for side, end in zip(pending, ends)]
        starts = [_starts(theta_J, draws_UJ, side.j, out_of(v, side.j)) for side, v in zip(pending, values)]
        rows_UJ = np.concatenate([part for pair in starts for part in pair])
        held_U = np.repeat([side.j for side in pending], 2 * len(_REACH))
        is_held_UJ = np.arange(len(theta_J))[None] == held_U[:, None]
        cost_U = cost(rows_UJ, tuple(np.where(is_held_UJ, rows_UJ, bound_J) for bound_J in (low_J, high_J)))
        t_K = np.sqrt(np.maximum(cost_U.reshape(len(pending), 2, -1).min(axis=1) - best, 0.0) / best * dof)
        for side, value_K, own_K in zip(pending, values, t_K):
            side.learn(value_K, own_K, critical, bound(side))

    for widened in range(_PASSES):
        if pending := [side for side in sides if side.beyond is None and not side.is_at_bound]:
            look(pending, widened)
    for _ in range(_REFINED):
        if pending := [side for side in sides if side.beyond is not None]:
            look(pending, 0)
    found = np.stack([low_J, high_J], axis=1)
    for side in sides:
        found[side.j, (side.sign + 1) // 2] = out_of(side.limit(critical, bound(side)), side.j)
    return found


def _starts(theta_J: np.ndarray, draws_UJ: np.ndarray, j: int, values_K: np.ndarray) -> list[np.ndarray]:
    """Returns rows with constant j at each value: the others moved along as in the draws, or as in the nearest draw."""
    deviation_UJ = draws_UJ - draws_UJ.mean(axis=0)
    slope_J = deviation_UJ.T @ deviation_UJ[:, j] / max(float(deviation_UJ[:, j] @ deviation_UJ[:, j]), 1e-300)
    moved_KJ = theta_J + (values_K - theta_J[j])[:, None] * slope_J
    nearest_KJ = draws_UJ[np.argmin(np.abs(draws_UJ[:, j][None] - values_K[:, None]), axis=1)].copy()
    moved_KJ[:, j] = nearest_KJ[:, j] = values_K
    return [moved_KJ, nearest_KJ]
