"""How good predicted curves are on what a search has not measured yet, on targets scaled to [0, 1] a task.

The same scores for every method, so that they compare: `metaft.surrogate.evaluation` scores in the surrogate's own
space instead.
"""

from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from metaft.metadataset.tables import TaskTable
from metaft.search import acquisition
from metaft.surrogate import transforms
from metaft.surrogate.prediction import Prediction

_BEYOND_REFERENCE = 1.5  # of the way from the best value to the untrained model's: a loss there or beyond counts as 1
_FLOOR_NATS = -100.0  # of one cell's log density, so that a single certain mistake does not hide all else


class CurvePrediction(acquisition.Prediction, Protocol):
    """What is scored: what a search asks of a prediction, and more. Costs that nothing is said of are NaN."""

    @property
    def mean_CT(self) -> np.ndarray:
        """The expected value in the metric's own unit."""

    def log_density_CT(self, values_CT: np.ndarray) -> np.ndarray:
        """Log density at values, nats per unit of the metric (of the surrogate's own predictions: of its space)."""


class Scale(NamedTuple):
    """Linear map of a task's values to [0, 1]."""

    low: float
    high: float

    @classmethod
    def of(cls, table: TaskTable) -> 'Scale':
        """From the best value of the table (0) to its worst (1); a loss far above the untrained model's is 1."""
        finite = table.values_CT[np.isfinite(table.values_CT)]
        low, high = float(finite.min()), float(finite.max())
        if table.metric == 'loss' and table.reference_value > low:
            high = min(high, low + _BEYOND_REFERENCE * (table.reference_value - low))
        return cls(low, high)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)


def score(prediction: CurvePrediction, table: TaskTable, observed_CT: np.ndarray) -> dict[str, float]:
    """Scores a prediction on the cells that were not observed.

    Args:
      prediction: of all rows of the table.
      table: the truth.
      observed_CT: what was shown, NaN elsewhere.

    Returns:
      `log_likelihood`: mean over unseen cells that did not diverge and lie inside of the scale; `mse` and `coverage_80`
      over all unseen cells; `spearman` of the final values of unfinished runs; `cost_ape`: median absolute relative
      error of the cumulative cost of unseen cells. NaN where there is nothing to score.
    """
    scale = Scale.of(table)
    is_target_CT = np.isnan(observed_CT) & ~np.isnan(table.values_CT)
    truth_CT, mean_CT = scale(table.values_CT), scale(np.asarray(prediction.mean_CT))
    low_CT, high_CT = (scale(np.asarray(prediction.quantile_CT(p))) for p in (0.1, 0.9))
    is_inside_CT = is_target_CT & (table.values_CT < scale.high)
    density_CT = own_log_density_CT(prediction, np.where(is_inside_CT, table.values_CT, scale.high))
    density_CT = np.maximum(density_CT + np.log(scale.high - scale.low), _FLOOR_NATS)
    is_covered_CT = (low_CT <= truth_CT) & (truth_CT <= high_CT)
    is_final_C = is_target_CT[:, -1]
    with np.errstate(divide='ignore', invalid='ignore'):
        ape_CT = np.abs(prediction.cost_seconds_CT / table.costs_CT - 1.0)
    return {
        'log_likelihood': _mean(density_CT[is_inside_CT]),
        'mse': _mean((mean_CT - truth_CT)[is_target_CT] ** 2),
        'coverage_80': _mean(is_covered_CT[is_target_CT]),
        'spearman': spearman(np.asarray(prediction.mean_CT)[is_final_C, -1], truth_CT[is_final_C, -1]),
        'cost_ape': float(pd.Series(ape_CT[is_target_CT & np.isfinite(ape_CT)]).median()),
    }


def own_log_density_CT(prediction: CurvePrediction, values_CT: np.ndarray) -> np.ndarray:
    """Returns the log density in nats per unit of the metric, whoever predicts."""
    density_CT = prediction.log_density_CT(values_CT)
    if isinstance(prediction, Prediction):
        density_CT = density_CT + transforms.log_slope(values_CT, prediction.metric, prediction.reference_value)
    return density_CT


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the rank correlation; NaN where one side is all alike."""
    if min(len(np.unique(x)), len(np.unique(y))) < 2:
        return float('nan')
    return float(spearmanr(x, y)[0])


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if x.size else float('nan')
