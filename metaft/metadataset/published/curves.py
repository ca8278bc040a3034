"""Curves with budgets of their own to one dense table a task, on a grid of fractions of a full run."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.records import Scalar
from metaft.metadataset.tables import TaskTable, lower_is_better

SLACK = 0.05  # a run whose last measurement lies within this share of the full budget counts as measured at its end


@dataclasses.dataclass(frozen=True)
class Curve:
    """One published run.

    Attributes:
      configuration: by hyperparameter.
      budgets: of the measurements, ascending, above 0, in any unit.
      values: the metric as published; not finite where the run had diverged.
      costs: cumulative at each measurement: seconds where the source has them, else the unit its loader names.
      full_budget: of a full run; None for the largest budget of the task.
    """

    configuration: Mapping[str, Scalar]
    budgets: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray
    costs: Sequence[float] | np.ndarray
    full_budget: float | None = None


def to_table(
    task: str,
    metric: str,
    curves: Sequence[Curve],
    fractions_T: np.ndarray,
    *,
    place: str,
    dataset: str = '',
    meta_features: Mapping[str, float] | None = None,
    reference: float | None = None,
) -> TaskTable:
    """Arranges the curves of a task.

    A fraction's value is that of the last measurement at or before it, NaN before the first and after the last; from
    where a run diverged on it is +inf. Costs transfer in units of the median run's whole cost.

    Args:
      task: its name.
      metric: a name of `tables.LOWER_IS_BETTER`.
      curves: one at least.
      fractions_T: ascending, the last one 1.
      place: what the curves are called in an error: their file.
      dataset: its name, where tasks share one.
      meta_features: of the task.
      reference: the metric before training as published; by default the median of the first measurements.

    Raises:
      DataError: there is no curve, or one has budgets that do not ascend or lists of different lengths.
    """
    if not curves:
        raise DataError(f'{place}: task {task} has no curve of {metric} that can be used')
    full = max(max(curve.budgets, default=0.0) for curve in curves)
    rows = [_row(curve, curve.full_budget or full, fractions_T, metric, f'{place}: task {task}, run {number}')
            for number, curve in enumerate(curves, start=1)]  # fmt: skip
    first = [lower_is_better(metric, value) for curve in curves for value in curve.values[:1]]
    finite = [value for value in first if np.isfinite(value)]
    known = lower_is_better(metric, reference) if reference is not None else float(np.median(finite or [np.nan]))
    whole_costs = [curve.costs[-1] for curve in curves if len(curve.costs)]
    names = list(dict.fromkeys(name for curve in curves for name in curve.configuration))
    return TaskTable(
        task=task,
        metric=metric,
        meta_features=dict(meta_features or {}),
        configurations=[{name: curve.configuration.get(name) for name in names} for curve in curves],
        fractions_T=np.asarray(fractions_T, np.float64),
        values_CT=np.stack([values_T for values_T, _ in rows]),
        costs_CT=np.stack([costs_T for _, costs_T in rows]),
        reference_value=known,
        reference_seconds=float(np.median(whole_costs)),
        dataset=dataset,
    )


def _row(curve: Curve, full: float, fractions_T: np.ndarray, metric: str, place: str) -> tuple[np.ndarray, np.ndarray]:
    budgets, costs = np.asarray(curve.budgets, np.float64), np.asarray(curve.costs, np.float64)
    values = np.array([lower_is_better(metric, value) for value in curve.values], np.float64)
    if not len(budgets) == len(values) == len(costs):
        raise DataError(f'{place} has {len(budgets)} budgets, {len(values)} values and {len(costs)} costs')
    if not len(budgets) or budgets[0] <= 0 or np.any(np.diff(budgets) <= 0):
        raise DataError(f'{place} has budgets that do not ascend from above 0: {budgets[:5].tolist()} ...')
    wanted_T = np.asarray(fractions_T) * full
    at_T = np.searchsorted(budgets, wanted_T * (1 + 1e-9), side='right') - 1
    measured_T = (at_T >= 0) & (wanted_T * (1 - SLACK) <= budgets[-1])
    values_T = np.where(measured_T, values[at_T], np.nan)
    costs_T = np.where(measured_T, costs[at_T], np.nan)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        values_T[wanted_T * (1 + 1e-9) >= budgets[broken[0]]] = np.inf
    return values_T, costs_T
