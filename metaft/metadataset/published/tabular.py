"""LCBench (26 tabular tasks, 52 epochs, seconds) and TaskSet (8 text tasks, 51 evaluations, no seconds): npz files.

Each has one design of configurations for all tasks. A TaskSet cost counts evaluations; its first one is of the
untrained model.
"""

from pathlib import Path

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.published import files
from metaft.metadataset.published.curves import Curve, to_table
from metaft.metadataset.tables import TaskTable

_LCBENCH_METRICS = {'loss': ('val_cross_entropy', 1.0), 'accuracy': ('val_accuracy', 100.0)}  # column, its value of 1


def lcbench(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads `lcbench.npz`; costs are its cumulative seconds."""
    axes = {'X': 'CE', 'Y': 'WCTM', 'hp_names': 'E', 'tasks': 'W', 'metrics': 'M', 'epochs': 'T'}
    found = files.arrays(path, axes)
    values_WCT = _column(found, _LCBENCH_METRICS[metric][0], path) / _LCBENCH_METRICS[metric][1]
    seconds_WCT = _column(found, 'time', path)
    configurations = _configurations(found)
    return [
        to_table(
            f'lcbench/{task}',
            metric,
            [Curve(c, found['epochs'], values_WCT[w, i], seconds_WCT[w, i]) for i, c in enumerate(configurations)],
            fractions_T,
            place=f'{path}',
        )
        for w, task in enumerate(found['tasks'].tolist())
    ]


def taskset(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads `taskset.npz`, the validation loss; a full run is 50 evaluations after the untrained one."""
    found = files.arrays(path, {'X': 'CE', 'Y': 'WCST', 'hp_names': 'E', 'tasks': 'W', 'splits': 'S'})
    if 'valid' not in found['splits'].tolist():
        raise DataError(f"{path}: splits are {', '.join(found['splits'].tolist())}; 'valid' is missing")
    values_WCT = found['Y'][:, :, found['splits'].tolist().index('valid')]
    budgets = np.arange(1, values_WCT.shape[2])
    return [
        to_table(
            f'taskset/{task}',
            metric,
            [Curve(c, budgets, values_WCT[w, i, 1:], budgets) for i, c in enumerate(_configurations(found))],
            fractions_T,
            place=f'{path}',
            reference=float(np.nanmedian(values_WCT[w, :, 0])),
        )
        for w, task in enumerate(found['tasks'].tolist())
    ]


def _column(found: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    names = found['metrics'].tolist()
    if name not in names:
        raise DataError(f'{path} has no metric {name!r} (its metrics: {", ".join(names)})')
    return found['Y'][..., names.index(name)]


def _configurations(found: dict[str, np.ndarray]) -> list[dict]:
    return [dict(zip(found['hp_names'].tolist(), map(float, row), strict=True)) for row in found['X']]
