"""How far from the best a search ends, comparable between tasks."""

from typing import NamedTuple

import numpy as np
import scipy.stats

from metaft.errors import DataError
from metaft.metadataset.tables import TaskTable
from metaft.search.baselines import best_values
from metaft.search.replay import Trajectory


class Interval(NamedTuple):
    """A mean and where it lies by the bootstrap."""

    mean: float
    low: float
    high: float


def normalized_regret(value: float | np.ndarray, values_CT: np.ndarray) -> float | np.ndarray:
    """Returns (value - best) / (median - best), over the configurations' best values along their curves.

    0: the best configuration's best checkpoint; 1: the median configuration's. Diverged runs count in the median.

    Raises:
      DataError: best and median agree, so that nothing can be told apart on this task.
    """
    best_C = best_values(values_CT)
    best_C = best_C[~np.isnan(values_CT).all(axis=1)]
    best, median = float(np.min(best_C)), float(np.median(best_C))
    if not (np.isfinite(median) and median > best):
        raise DataError(f'best {best} and median {median} of {len(best_C)} configurations give no scale for a regret')
    return (value - best) / (median - best)


def regret_at(trajectory: Trajectory, table: TaskTable, seconds: np.ndarray) -> np.ndarray:
    """Returns the incumbent's normalised regret at the given times; before its first measurement, the reference's."""
    values = np.array([trajectory.best_value_at(s) for s in np.atleast_1d(seconds)])
    return np.asarray(normalized_regret(values, table.values_CT))


def interval(regrets: np.ndarray, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Returns the mean over tasks and its percentile bootstrap interval.

    Args:
      regrets: [tasks, seeds]; a missing seed is NaN. Seeds are averaged within their task, tasks are resampled: their
        spread is the larger one, and holds that of the seeds.
      confidence: of the interval.
      seed: of the resampling.
    """
    regrets = np.asarray(regrets, np.float64)
    if regrets.ndim != 2 or not np.isfinite(regrets).any(axis=1).all():
        raise DataError(f'regrets have shape {regrets.shape}, wanted (tasks, seeds) with a number in each row')
    mean_W = np.nanmean(regrets, axis=1)
    if len(mean_W) == 1 or np.ptp(mean_W) == 0.0:
        return Interval(float(mean_W.mean()), float(mean_W.min()), float(mean_W.max()))
    result = scipy.stats.bootstrap(
        (mean_W,), np.mean, confidence_level=confidence, method='percentile', rng=np.random.default_rng(seed)
    )
    return Interval(float(mean_W.mean()), float(result.confidence_interval.low), float(result.confidence_interval.high))
