"""Published curves and our own meta-dataset as the comparison of searchers reads them: `tables(kind, path)`.

One metric a kind, on a grid on which the runs were measured, as a loss or as an error in [0, 1], the two that the
surrogate knows. A task of a published table is a dataset of its own.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaft.errors import DataError
from metaft.finetune import budget
from metaft.finetune.search_space import default_configuration
from metaft.metadataset import store
from metaft.metadataset.published import loaders
from metaft.metadataset.tables import TaskTable, task_tables

METADATASET = 'metadataset'
# What a metric of the tables is to the surrogate: all shares become errors alike; log perplexities are losses.
_AS = {
    'loss': 'loss',
    'perplexity': 'loss',
    'exact_match': 'exact_match',
    'accuracy': 'exact_match',
    'bleu': 'exact_match',
    'wer': 'exact_match',
}


class Benchmark(NamedTuple):
    """How a kind of tables is compared on."""

    metric: str  # of the loader
    fractions_T: np.ndarray
    steps: float  # of a full run: epochs, evaluations, or grid points where the source has neither
    full_runs: float = 20.0  # that make the whole budget
    more_metrics: tuple[str, ...] = ()  # of the same runs, to learn from


_HALF_OCTAVES = budget.fractions()
BENCHMARKS = {
    METADATASET: Benchmark('loss', _HALF_OCTAVES, 13, more_metrics=('exact_match',)),
    'lcbench': Benchmark('accuracy', np.arange(1, 53) / 52, 52, more_metrics=('loss',)),
    'taskset': Benchmark('loss', np.arange(1, 51) / 50, 50),
    'algoperf': Benchmark('target', _HALF_OCTAVES[6:], 7),  # from 1/8; few runs were measured before
    'nmtlc': Benchmark(
        'perplexity', _HALF_OCTAVES[5:], 8, full_runs=5.0, more_metrics=('bleu',)
    ),  # from .09; medians of 18 points
    'opda': Benchmark('accuracy', _HALF_OCTAVES[7:], 6),  # from .18: all runs were measured there
    'peft': Benchmark('accuracy', np.arange(1, 21) / 20, 20),
}
_MIN_CONFIGURATIONS = 10  # a task with fewer complete ones has no median to speak of


def tables(kind: str, path: Path, metric: str | None = None) -> list[TaskTable]:
    """Loads all tasks of a kind, every run a row, under the metric of the kind or another one.

    Raises:
      DataError: unknown kind, or a file that is missing or broken.
    """
    if kind not in BENCHMARKS:
        raise DataError(f'table {kind!r} is unknown; allowed are {", ".join(BENCHMARKS)}')
    benchmark = BENCHMARKS[kind]
    metric = metric or benchmark.metric
    if kind == METADATASET:
        measurements, tasks = (path / f'{name}.parquet' for name in ('measurements', 'tasks'))
        for file in (measurements, tasks):
            if not file.exists():
                raise DataError(f'there is no {file}; give a directory with measurements.parquet and tasks.parquet')
        return task_tables(store.read_parquet(measurements), store.read_parquet(tasks), metric)
    loaded = loaders.load(kind, path, metric, benchmark.fractions_T)
    if kind == 'opda':  # the mismatched split is of the same runs
        loaded = [table for table in loaded if not table.task.endswith('-mismatched')]
    return [dataclasses.replace(table, metric=_AS[table.metric], dataset='') for table in loaded]


def distinct(table: TaskTable) -> TaskTable:
    """Returns the table with one complete run a configuration, the first one: what a search chooses from.

    Complete: measured at every grid point or until it diverged.
    """
    is_seen_CT = np.isfinite(table.values_CT) & np.isfinite(table.costs_CT)
    until_C = np.where(np.isposinf(table.values_CT).any(axis=1), np.argmax(np.isposinf(table.values_CT), axis=1), -1)
    # The point where a run diverged has a cost; what comes after it is never asked for.
    grid = np.arange(table.values_CT.shape[1])[None, :]
    has_end_C = np.isfinite(table.costs_CT[np.arange(len(until_C)), until_C])
    is_complete_C = np.all(is_seen_CT | ((grid >= until_C[:, None]) & (until_C >= 0)[:, None]), axis=1) & has_end_C
    first: dict[tuple, int] = {}
    for c in np.flatnonzero(is_complete_C):
        first.setdefault(key(table.configurations[c]), int(c))
    return rows(table, list(first.values()))


def is_searchable(table: TaskTable) -> bool:
    """Says whether enough configurations are there, and best and median differ."""
    best_C = np.min(np.where(np.isnan(table.values_CT), np.inf, table.values_CT), axis=1)
    return len(best_C) >= _MIN_CONFIGURATIONS and bool(
        np.isfinite(np.median(best_C)) and np.median(best_C) > best_C.min()
    )


def rows(table: TaskTable, chosen: list[int]) -> TaskTable:
    """Returns the table with only some rows."""
    return dataclasses.replace(
        table,
        configurations=[table.configurations[c] for c in chosen],
        values_CT=table.values_CT[chosen],
        costs_CT=table.costs_CT[chosen],
    )


def default_row(table: TaskTable) -> int | None:
    """Returns the row of metaft's default configuration, None where it was not run."""
    wanted = key(default_configuration().identity())
    return next((c for c, configuration in enumerate(table.configurations) if key(configuration) == wanted), None)


def full_run_cost(table: TaskTable) -> float:
    """Returns the cost of a full run of the default configuration, of the median one where there is no default."""
    row = default_row(table)
    return float(np.nanmedian(table.costs_CT[:, -1]) if row is None else table.costs_CT[row, -1])


def in_steps(table: TaskTable, steps: float) -> TaskTable:
    """Returns the table with costs counted in steps instead, so that every full run costs the same."""
    costs_CT = np.broadcast_to(steps * table.fractions_T[None, :], table.values_CT.shape)
    costs_CT = np.where(np.isnan(table.values_CT), np.nan, costs_CT)
    return dataclasses.replace(table, costs_CT=costs_CT, reference_seconds=steps, max_examples=1.0)


def key(configuration: dict) -> tuple:
    """Returns what two configurations share where they are the same; a field that is None is the same as none."""
    return tuple(sorted((name, value) for name, value in configuration.items() if value is not None))
