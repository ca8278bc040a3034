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
    names: tuple[str, ...] = ()  # of the file in a folder, the first one that is there; () where the folder is read


_GRID_T = budget.fractions()
LOADERS = {
    'lcbench': Kind(tabular.lcbench, ('loss', 'accuracy'), _GRID_T, 'lcbench.npz', ('lcbench.npz', '*.npz')),
    'taskset': Kind(tabular.taskset, ('loss',), _GRID_T, 'taskset.npz', ('taskset.npz', '*.npz')),
    'opda': Kind(
        finetuning.opda,
        ('accuracy',),
        _GRID_T,
        'deberta-base_mnli.jsonl or alexnet.jsonl',
        ('deberta-base_mnli.jsonl', '*.jsonl'),
    ),
    'nmtlc': Kind(finetuning.nmtlc, ('perplexity', 'bleu'), _GRID_T, 'nmtlc.json', ('nmtlc.json', '*.json')),
    'peft': Kind(finetuning.peft, ('accuracy',), _GRID_T, 'a folder with runs.csv and curves.csv'),
    'algoperf': Kind(algoperf.algoperf, ('target',), _GRID_T, 'a folder with runs.csv.gz and curves.csv.gz'),
    'rectified': Kind(
        rectified.rectified, ('loss',), 2.0 ** np.arange(-13.0, 1.0), 'flan.csv or gigaword.csv', ('*.csv',)
    ),
}


def load(
    kind: str, path: str | os.PathLike[str], metric: str | None = None, fractions_T: np.ndarray | None = None
) -> list[TaskTable]:
    """Loads published curves as the tables that surrogate and replay read, one a task.

    Args:
      kind: a name of LOADERS.
      path: the file or folder that the kind reads, or a folder with one such file.
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
    place = locate(kind, Path(path))
    return found.read(place, metric, found.fractions_T if fractions_T is None else np.asarray(fractions_T))


def locate(kind: str, path: Path) -> Path:
    """Returns what a kind reads: the one file of it in a folder, or the folder that a file of it lies in.

    Raises:
      DataError: there is none, or there are several.
    """
    files, names = LOADERS[kind].files, LOADERS[kind].names
    if not path.exists():
        raise DataError(f'there is no {path}; {kind} reads {files}')
    if not names:
        return path if path.is_dir() else path.parent
    if not path.is_dir():
        return path
    found = next((sorted(path.glob(name)) for name in names if any(path.glob(name))), [])
    if len(found) != 1:
        told = ', '.join(file.name for file in found) or 'none'
        raise DataError(f'{path} should hold one file that {kind} reads ({files}), found {told}; give the file')
    return found[0]
