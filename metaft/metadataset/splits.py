"""Which tasks train and which test. Tasks of one dataset (other base models, say) are never on both sides."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.tables import TaskTable


class Split(NamedTuple):
    train: list[TaskTable]
    test: list[TaskTable]


def folds(tables: Sequence[TaskTable], num_folds: int, seed: int = 0) -> list[Split]:
    """Splits tables into folds over their datasets, each dataset tested once, folds about equal in tasks."""
    datasets = sorted({dataset_of(table) for table in tables})
    if not 2 <= num_folds <= len(datasets):
        raise DataError(f'{num_folds} folds of {len(datasets)} datasets; choose between 2 and {len(datasets)}')
    sizes = {name: sum(dataset_of(table) == name for table in tables) for name in datasets}
    shuffled = np.random.default_rng(seed).permutation(datasets).tolist()
    tested: list[list[str]] = [[] for _ in range(num_folds)]
    for name in sorted(shuffled, key=lambda name: -sizes[name]):  # large ones first, each to the emptiest fold
        min(tested, key=lambda fold: sum(sizes[other] for other in fold)).append(name)
    return [leave_out(tables, names) for names in tested]


def leave_out(tables: Sequence[TaskTable], heldout_datasets: Sequence[str]) -> Split:
    """Splits off the tasks of the given datasets."""
    known = {dataset_of(table) for table in tables}
    for name in heldout_datasets:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean {nearest[0]!r}?' if nearest else f'; known are {", ".join(sorted(known))}'
            raise DataError(f'there is no dataset {name!r} to hold out{hint}')
    held = set(heldout_datasets)
    return Split(
        train=[table for table in tables if dataset_of(table) not in held],
        test=[table for table in tables if dataset_of(table) in held],
    )


def until(table: TaskTable, fraction: float) -> TaskTable:
    """Returns the table as if no run had gone on beyond a fraction of a full run."""
    is_beyond_T = np.asarray(table.fractions_T) > fraction * (1.0 + 1e-6)
    hidden = lambda x_CT: np.where(is_beyond_T[None, :], np.nan, x_CT)
    return dataclasses.replace(table, values_CT=hidden(table.values_CT), costs_CT=hidden(table.costs_CT))


def dataset_of(table: TaskTable) -> str:
    return table.dataset or table.task
