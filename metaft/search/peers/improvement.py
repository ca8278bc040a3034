"""Freeze-thaw search by expected improvement at the end of the run: for peers that model curves and not the budget.

    score(c) = EI at the full budget of configuration c over the best value so far

The run with the largest score goes on by a few grid points, or starts. That is the acquisition of DPL (arXiv
2302.00441, section 4.2), and the plain one for any model of whole curves.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from metaft.search.acquisition import Prediction
from metaft.search.observations import Observations, Suggestion

DECISIONS_A_RUN = 13  # a finer grid is walked in steps: looking more often changes little and costs a fit each time


@dataclasses.dataclass(frozen=True)
class ByImprovement:
    """Searcher over any prediction of curves.

    Attributes:
      predict: from observations to the prediction of all configurations.
      order: of all rows: the first ones are started before the model is asked, and of equals the earlier one goes on.
      num_first: how many are started unasked.
    """

    predict: Callable[[Observations], Prediction]
    order: tuple[int, ...]
    num_first: int = 0

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next step of the `width` runs that promise most."""
        last_C = observations.last_grid_index_C
        num_T = len(observations.fractions_T)
        step = max(1, num_T // DECISIONS_A_RUN)
        fresh = [c for c in self.order[: self.num_first] if last_C[c] < 0][:width]
        if fresh:
            return [Suggestion(c, min(step, num_T) - 1) for c in fresh]
        gain_C = np.asarray(self.predict(observations).expected_improvement_CT(observations.best_value))[:, -1]
        gain_C = np.where(last_C < num_T - 1, np.nan_to_num(gain_C, nan=0.0), -np.inf)
        order = np.array(self.order)
        best = order[np.argsort(-gain_C[order], kind='stable')[:width]]
        return [Suggestion(int(c), min(int(last_C[c]) + step, num_T - 1)) for c in best if gain_C[c] > -np.inf]
