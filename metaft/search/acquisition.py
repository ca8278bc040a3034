"""What advancing a run promises: expected improvement at the end of what can still be paid, per cost of the next step.

The budget is finite, so three grid points of each run count:

    last    where it stands
    next    where it would be looked at again; early points matter only through what they tell
    reach   the furthest one that the remaining seconds pay for; the best value until there is what can be gained

and one run is special: the *plan*, the run with the best predicted median on the way to its reach, which would be
advanced if nothing more were explored. Other runs are measured against it, and exploring never takes what the plan
needs: a step of another run must leave enough to bring the plan to where its median is best. (Measured against the
incumbent alone, which early in a run is far from what it will become, every new run looks like a gain: a short budget
ended with twenty runs begun and none finished.)

    threshold = min(best value so far, median of the plan)
    gain(c)   = max over t in (last, reach] of EI_c,t(threshold)
    score(c)  = gain(c) / seconds(last -> next)^cost_exponent,  -inf where the plan would be cut short

Everything is vectorised NumPy over [C, T]: a decision takes about a millisecond beside the surrogate's prediction.
"""

from typing import NamedTuple, Protocol

import numpy as np

from metaft.search.observations import Observations


class Prediction(Protocol):
    """What search asks of a surrogate's prediction; see `metaft.surrogate`."""

    @property
    def cost_seconds_CT(self) -> np.ndarray:
        """Cumulative seconds, as likely more as less; the observed ones where there are any."""

    def quantile_CT(self, probability: float) -> np.ndarray:
        """Value below which the outcome lies with this probability."""

    def expected_improvement_CT(self, best_value: float | np.ndarray) -> np.ndarray:
        """E[max(0, best_value - value)], a share of the value before finetuning; [C, 1] is a best value for each."""


class TransformedPrediction(Prediction, Protocol):
    """Of a model that has a space of its own for values, in which halving a loss is worth the same on every task."""

    def transformed_improvement_CT(self, best_value: float) -> np.ndarray:
        """E[max(0, y(best_value) - y(value))]."""


class Acquisition(NamedTuple):
    """The decision's numbers, one a configuration."""

    score_C: np.ndarray  # -inf: cannot be advanced with what remains
    gain_C: np.ndarray  # expected improvement over incumbent and plan until reach; 0 where it cannot be advanced
    next_C: np.ndarray  # grid index to advance to; where it stands if it cannot
    reach_C: np.ndarray  # likewise
    seconds_C: np.ndarray  # predicted, of the step
    plan: int  # -1: nothing can be advanced
    improves: bool  # some median ahead undercuts the incumbent


def evaluate(
    observations: Observations,
    prediction: Prediction,
    remaining_seconds: float,
    *,
    cost_exponent: float,
    minimum_step_seconds: float | np.ndarray,
) -> Acquisition:
    """Scores every configuration; the largest score is the best step.

    Args:
      observations: so far.
      prediction: of all configurations, conditioned on the observations.
      remaining_seconds: of the budget.
      cost_exponent: 0 leaves the cost of the step out, 1 divides by it.
      minimum_step_seconds: a step over cheap early grid points goes on to the first one that costs at least this much;
        [C] is one for each.
    """
    last_C = observations.last_grid_index_C
    rows = np.arange(len(last_C))
    ahead_CT = seconds_ahead(observations, np.asarray(prediction.cost_seconds_CT, np.float64))
    reach_C = furthest(ahead_CT, last_C, remaining_seconds)
    minimum_C = np.broadcast_to(minimum_step_seconds, last_C.shape)
    next_C = np.minimum(_first_at_least(ahead_CT, last_C, minimum_C), reach_C)
    can_advance_C = reach_C > last_C
    if not can_advance_C.any():
        zero_C = np.zeros(len(rows))
        return Acquisition(np.full(len(rows), -np.inf), zero_C, last_C, last_C, zero_C, -1, False)

    is_ahead_CT = is_ahead(observations, reach_C)
    median_CT = np.where(is_ahead_CT, np.asarray(prediction.quantile_CT(0.5), np.float64), np.inf)
    improves = float(np.min(median_CT)) < observations.best_value
    plan, at = map(int, np.unravel_index(np.argmin(median_CT), median_CT.shape))
    threshold = min(observations.best_value, float(median_CT[plan, at]))
    improvement_CT = np.asarray(prediction.expected_improvement_CT(threshold), np.float64)
    gain_C = np.max(np.where(is_ahead_CT, improvement_CT, 0.0), axis=1)

    step_C = ahead_CT[rows, next_C]
    planned_seconds = ahead_CT[plan, at]
    leaves_plan_C = (rows == plan) | (step_C + planned_seconds <= remaining_seconds)
    score_C = per_cost(gain_C, step_C, remaining_seconds, cost_exponent)
    score_C[plan] = max(score_C[plan], np.finfo(float).tiny)  # where nothing is better than the plan, the plan
    return Acquisition(
        score_C=np.where(can_advance_C & leaves_plan_C, score_C, -np.inf),
        gain_C=gain_C,
        next_C=np.where(can_advance_C, next_C, last_C),
        reach_C=reach_C,
        seconds_C=np.where(can_advance_C, step_C, 0.0),
        plan=plan,
        improves=improves,
    )


def per_cost(gain_C: np.ndarray, seconds_C: np.ndarray, remaining_seconds: float, exponent: float) -> np.ndarray:
    """Returns gains over seconds to a power; less than a thousandth of the rest is free, for the ratio says nothing."""
    return gain_C / np.maximum(seconds_C, max(1e-3 * remaining_seconds, np.finfo(float).tiny)) ** exponent


def gain_per_second(observations: Observations, prediction: Prediction, remaining_seconds: float) -> float:
    """Returns what the best use of what remains can be expected to gain by the second, in the metric's own unit.

    max over c and t in (last, reach] of EI_c,t(incumbent) / seconds(last -> t); 0 where nothing can be advanced. The
    improvement by several runs is at most the sum of theirs, so no choice of runs gains faster than the best one of
    them. (Runs that are left when they disappoint can: costs are saved where the gain was not.)
    """
    ahead_CT = seconds_ahead(observations, np.asarray(prediction.cost_seconds_CT, np.float64))
    last_C = observations.last_grid_index_C
    grid = np.arange(ahead_CT.shape[1])[None, :]
    is_ahead_CT = (grid > last_C[:, None]) & (ahead_CT <= remaining_seconds)
    share_CT = np.asarray(prediction.expected_improvement_CT(observations.best_value), np.float64)
    rate_CT = share_CT / np.maximum(ahead_CT, np.finfo(float).tiny)
    return observations.reference_value * float(np.max(rate_CT, where=is_ahead_CT, initial=0.0))


def seconds_ahead(observations: Observations, cost_seconds_CT: np.ndarray) -> np.ndarray:
    """Returns the seconds from where each run stands to each grid point, start-up and one measurement included.

    Not decreasing along the grid; 0 at and before the point where a run stands.
    """
    grid = np.arange(cost_seconds_CT.shape[1])[None, :]
    own_CT = np.maximum.accumulate(cost_seconds_CT - observations.spent_seconds_C[:, None], axis=1)
    start_C = np.where(observations.started_C, 0.0, observations.overhead_seconds_C)
    ahead_CT = np.maximum(own_CT, 0.0) + start_C[:, None] + observations.measurement_seconds
    return np.where(grid > observations.last_grid_index_C[:, None], ahead_CT, 0.0)


def furthest(ahead_CT: np.ndarray, last_C: np.ndarray, remaining_seconds: float) -> np.ndarray:
    """Returns the furthest grid index that the seconds pay for, `last_C` where they pay for none."""
    grid = np.arange(ahead_CT.shape[1])[None, :]
    return np.maximum(np.max(np.where(ahead_CT <= remaining_seconds, grid, -1), axis=1), last_C)


def is_ahead(observations: Observations, reach_C: np.ndarray) -> np.ndarray:
    """Returns which grid points lie beyond where each run stands, up to `reach_C`; bool [C, T]."""
    grid = np.arange(len(observations.fractions_T))[None, :]
    return (grid > observations.last_grid_index_C[:, None]) & (grid <= reach_C[:, None])


def _first_at_least(ahead_CT: np.ndarray, last_C: np.ndarray, seconds_C: np.ndarray) -> np.ndarray:
    grid = np.arange(ahead_CT.shape[1])[None, :]
    is_long_CT = (grid > last_C[:, None]) & (ahead_CT >= seconds_C[:, None])
    return np.where(is_long_CT.any(axis=1), np.argmax(is_long_CT, axis=1), ahead_CT.shape[1] - 1)
