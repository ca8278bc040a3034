"""Budgets in what is known before it is spent: FLOPs or tokens instead of seconds.

Searchers reckon in one unit, whatever it is called. A surrogate predicts seconds and conditions on them, so the search
is handed observations and predictions in which the seconds are exchanged for the unit, and the surrogate is asked with
the seconds put back. Starting a program, deciding and evaluating cost nothing in such a unit: training alone counts.
Money is seconds at a price, and needs none of this.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from metaft.search.acquisition import TransformedPrediction
from metaft.search.freeze_thaw import FreezeThaw
from metaft.search.observations import Observations, Searcher, Suggestion


@dataclasses.dataclass(frozen=True)
class InUnit:
    """A searcher with a budget in another unit; observations stay in seconds.

    Attributes:
      searcher: any.
      costs_CT: cumulative cost of each run at each grid point, in the unit, exact.
    """

    searcher: Searcher
    costs_CT: np.ndarray

    def suggest(self, observations: Observations, remaining: float, width: int = 1) -> list[Suggestion]:
        """Returns the searcher's suggestions as far as they can be paid, to the last unit."""
        searcher, seen = self.exchanged(observations)
        suggestions = searcher.suggest(seen, remaining, width)
        price = [self.costs_CT[c, t] - seen.spent_seconds_C[c] for c, t in suggestions]
        return [s for s, total in zip(suggestions, np.cumsum(price), strict=True) if total <= remaining]

    def exchanged(self, observations: Observations) -> tuple[Searcher, Observations]:
        """Returns the searcher and the observations with the unit in the place of seconds."""
        seen = dataclasses.replace(
            observations,
            costs_CT=np.where(np.isnan(observations.costs_CT), np.nan, self.costs_CT),
            overhead_seconds_C=np.zeros(len(self.costs_CT)),
            measurement_seconds=0.0,
        )
        if not isinstance(self.searcher, FreezeThaw):
            return self.searcher, seen
        predict = self._predictor(self.searcher.predict, observations.costs_CT)
        return dataclasses.replace(self.searcher, predict=predict), seen

    def _predictor(
        self, predict: Callable[[Observations], TransformedPrediction], seconds_CT: np.ndarray
    ) -> Callable[[Observations], TransformedPrediction]:
        # What is only believed (further slots) has no seconds, and the surrogate does without.
        return lambda seen: _Priced(predict(dataclasses.replace(seen, costs_CT=seconds_CT)), self.costs_CT)


@dataclasses.dataclass(frozen=True)
class _Priced:
    """A prediction with other costs."""

    prediction: TransformedPrediction
    cost_seconds_CT: np.ndarray

    def quantile_CT(self, probability: float) -> np.ndarray:
        return self.prediction.quantile_CT(probability)

    def expected_improvement_CT(self, best_value: float | np.ndarray) -> np.ndarray:
        return self.prediction.expected_improvement_CT(best_value)

    def transformed_improvement_CT(self, best_value: float) -> np.ndarray:
        return self.prediction.transformed_improvement_CT(best_value)
