"""The rectified scaling law's tables: test loss of 30 models finetuned on 0 to 1,638,400 examples of one dataset.

A table a dataset; a model is a configuration, and the data size the fidelity. A cost is examples x parameters.
"""

import re
from pathlib import Path

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.published import files
from metaft.metadataset.published.curves import Curve, to_table
from metaft.metadataset.tables import TaskTable


def rectified(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads one CSV file such as `flan.csv`; the column 0, before finetuning, gives the reference value."""
    found = files.table(path, ('config name', 'family'), ('size',))
    sizes = sorted((name for name in found.columns if re.fullmatch(r'[1-9]\d*', name)), key=int)
    if len(sizes) < 2 or '0' not in found.columns:
        raise DataError(f'{path} has the data sizes {", ".join(sizes) or "none"}; a column 0 and two more are wanted')
    found = files.table(path, (), ('0', 'size', *sizes))
    budgets = np.array(sizes, np.float64)
    curves = []
    for row in found.to_dict('records'):
        values = np.array([row[name] for name in sizes])
        kept = np.isfinite(values)  # an empty cell was not measured
        configuration = {'model': row['config name'], 'parameters': float(row['size']), 'family': row['family']}
        curves.append(Curve(configuration, budgets[kept], values[kept], budgets[kept] * row['size']))
    name = f'rectified/{path.stem}'
    return [to_table(name, metric, curves, fractions_T, place=f'{path}', reference=float(found['0'].median()))]
