"""Measurements as dense tables, one a task: what the surrogate learns from and what a replay reads.

A metric becomes lower-is-better here and nowhere else.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from metaft.errors import DataError
from metaft.finetune import budget
from metaft.finetune.search_space import said as said  # the surrogate's encoding has it from here
from metaft.metadataset.records import Scalar

METRICS = ('loss', 'exact_match')  # of our own measurements

_ERROR = lambda value: 1.0 - value
# What a metric becomes: lower is better, and loss-like ones are in nats.
LOWER_IS_BETTER: dict[str, Callable[[float], float]] = {
    'loss': float,
    'exact_match': _ERROR,
    'accuracy': _ERROR,  # a share in [0, 1], as mean average precision and structural similarity
    'bleu': lambda value: 1.0 - value / 100.0,
    'wer': float,
    'perplexity': lambda value: math.log(value) if value > 0 else math.nan,
}


@dataclasses.dataclass(frozen=True)
class TaskTable:
    """All runs on one task under one metric; every run, also a repeated seed of a configuration, is a row."""

    task: str
    metric: str
    meta_features: dict[str, float]  # NaN: missing
    configurations: list[dict[str, Scalar]]
    fractions_T: np.ndarray  # of a full run, ascending, the last one 1
    values_CT: np.ndarray  # lower is better; NaN: not measured; +inf: diverged
    costs_CT: np.ndarray  # seconds, cumulative; NaN: not measured
    reference_value: float  # of the model before finetuning
    reference_seconds: float  # of one forward example: the unit of transferable cost
    dataset: str = ''  # empty: the task is a dataset of its own
    max_examples: float = 1.0  # of a full run; 1: unknown, then costs transfer between full runs of one length only

    def __post_init__(self):
        wanted = (len(self.configurations), len(self.fractions_T))
        for name in ('values_CT', 'costs_CT'):
            if getattr(self, name).shape != wanted:
                raise DataError(
                    f'task {self.task!r}: {name} has shape {getattr(self, name).shape}, wanted {wanted} '
                    '(configurations, fractions)'
                )
        if self.metric not in LOWER_IS_BETTER:
            raise DataError(f'task {self.task!r}: unknown metric {self.metric!r}; one of {", ".join(LOWER_IS_BETTER)}')


def task_tables(measurements: pd.DataFrame, meta_features: pd.DataFrame, metric: str = 'loss') -> list[TaskTable]:
    """Arranges measurements as one table a task.

    Args:
      measurements: a row a `Measurement`, as `store.to_frame` gives it.
      meta_features: a row a `TaskRecord`, likewise; each measured task has its row.
      metric: 'loss', or 'exact_match' that becomes 1 - exact match.

    Returns:
      The tables in the order of the task names, their rows in the order of the run ids.

    Raises:
      DataError: unknown metric, a task without meta-features, a measurement that is not on the grid of its run.
    """
    if metric not in METRICS:
        raise DataError(f'unknown metric {metric!r}; one of {", ".join(METRICS)}')
    tasks = {row['task']: row for row in meta_features.to_dict('records')}
    missing = sorted(set(measurements['task']) - set(tasks))
    if missing:
        raise DataError(f'the meta-features of {", ".join(missing)} are missing; give the table of the tasks too')
    return [
        _task_table(rows.to_dict('records'), tasks[task], metric)
        for task, rows in measurements.groupby('task', sort=True)
    ]


def _task_table(rows: list[dict], task: Mapping, metric: str) -> TaskTable:
    runs: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row['run_id'], row['budget_steps'])):
        runs.setdefault(row['run_id'], []).append(row)
    fractions_T = budget.fractions()
    values_CT = np.full((len(runs), len(fractions_T)), np.nan)
    costs_CT = np.full((len(runs), len(fractions_T)), np.nan)
    for c, (run_id, measured) in enumerate(runs.items()):
        batch_size = measured[0]['configuration.batch_size']
        steps_T = np.asarray(budget.grid(task['max_examples'], int(batch_size)).steps_T)
        for row in measured:
            # A fraction of less than one update ties with its neighbour: one measurement is the value of both.
            on_grid_T = steps_T == row['budget_steps']
            if not on_grid_T.any():
                raise DataError(
                    f'run {run_id!r} was measured at step {row["budget_steps"]}; its grid is '
                    f'{", ".join(map(str, steps_T))} (full run: {task["max_examples"]} examples)'
                )
            values_CT[c, on_grid_T] = _value(row, metric)
            costs_CT[c, on_grid_T] = row['cost_seconds']
            if row['status'] == 'diverged':
                values_CT[c, np.argmax(on_grid_T) :] = np.inf
    reference = lower_is_better(metric, task['reference_loss' if metric == 'loss' else 'reference_exact_match'])
    return TaskTable(
        task=task['task'],
        metric=metric,
        meta_features=_prefixed(task, 'meta_features.', missing=np.nan),
        configurations=[said(_prefixed(measured[0], 'configuration.')) for measured in runs.values()],
        fractions_T=fractions_T,
        values_CT=values_CT,
        costs_CT=costs_CT,
        reference_value=reference,
        reference_seconds=float(task['reference_seconds']),
        dataset=task['dataset'],
        max_examples=float(task['max_examples']),
    )


def lower_is_better(metric: str, value: float) -> float:
    """Returns a metric's value as the tables hold it; NaN stays NaN."""
    return LOWER_IS_BETTER[metric](float(value))


def _value(row: Mapping, metric: str) -> float:
    value = row['validation_loss' if metric == 'loss' else 'validation_exact_match']
    return np.nan if pd.isna(value) else lower_is_better(metric, value)


def _prefixed(row: Mapping, prefix: str, missing=None) -> dict:
    return {
        name[len(prefix) :]: missing if pd.isna(value) else value
        for name, value in row.items()
        if name.startswith(prefix)
    }
