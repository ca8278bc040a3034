"""The kinds of published curves by name: what file or folder each reads, under which metrics."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaft.errors import DataError
from metaft.finetune import budget
from metaft.metadataset.published import algoperf, finetuning, rectified, tabular
from metaft.metadataset.tables import TaskTable


class Kind(NamedTuple):
    """A format: `read(path, metric, fractions_T)`; the first of `metrics` is the default."""

    read: Callable[[Path, str, np.ndarray], list[TaskTable]]
    metrics: tuple[str, ...]
    fractions_T: np.ndarray
    files: str


_GRID_T = budget.fractions()
LOADERS = {
    'lcbench': Kind(tabular.lcbench, ('loss', 'accuracy'), _GRID_T, 'lcbench.npz'),
    'taskset': Kind(tabular.taskset, ('loss',), _GRID_T, 'taskset.npz'),
    'opda': Kind(finetuning.opda, ('accuracy',), _GRID_T, 'deberta-base_mnli.jsonl or alexnet.jsonl'),
    'nmtlc': Kind(finetuning.nmtlc, ('perplexity', 'bleu'), _GRID_T, 'nmtlc.json'),
    'peft': Kind(finetuning.peft, ('accuracy',), _GRID_T, 'a folder with runs.csv and curves.csv'),
    'algoperf': Kind(algoperf.algoperf, ('target',), _GRID_T, 'a folder with runs.csv.gz and curves.csv.gz'),
    'rectified': Kind(rectified.rectified, ('loss',), 2.0 ** np.arange(-13.0, 1.0), 'flan.csv or gigaword.csv'),
}


def load(
    kind: str, path: str | os.PathLike[str], metric: str | None = None, fractions_T: np.ndarray | None = None
) -> list[TaskTable]:
    """Loads published curves as the tables that surrogate and replay read, one a task.

    Args:
      kind: a name of LOADERS.
      path: the file or folder that the kind reads.
      metric: one of the kind's; its first by default. Values are lower-is-better in the tables.
      fractions_T: the grid, ascending to 1; the kind's own by default (a full run's usual thirteen fractions, and the
        doublings of 'rectified').

    Raises:
      DataError: unknown kind or metric, or a file that is missing or broken: what is wrong is named.
    """
    if kind not in LOADERS:
        raise DataError(f'kind {kind!r} of published curves is unknown; allowed are {", ".join(LOADERS)}')
    found = LOADERS[kind]
    metric = metric or found.metrics[0]
    if metric not in found.metrics:
        raise DataError(f'{kind} has no metric {metric!r}; allowed are {", ".join(found.metrics)}')
    path = Path(path)
    if not path.exists():
        raise DataError(f'there is no {path}; {kind} reads {found.files}')
    return found.read(path, metric, found.fractions_T if fractions_T is None else np.asarray(fractions_T))
