"""AlgoPerf: 14 workloads, each trained with the optimizer configurations that were submitted, about five times each.

A table a workload and a row a run, each to its own end: where its target was reached, or its time was up. Costs are
seconds of the submission's own time.
"""

import json
from pathlib import Path

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.published import files
from metaft.metadataset.published.curves import Curve, to_table
from metaft.metadataset.records import Scalar
from metaft.metadataset.tables import TaskTable

# The metric by the file's own name.
_METRICS = {
    'loss': 'loss',
    'wer': 'wer',
    'ssim': 'accuracy',
    'accuracy': 'accuracy',
    'mean_average_precision': 'accuracy',
    'bleu': 'bleu',
}


def algoperf(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads a folder with `runs.csv.gz` and `curves.csv.gz`; `metric` is 'target', each workload's own."""
    runs_path, curves_path = path / 'runs.csv.gz', path / 'curves.csv.gz'
    runs = files.table(
        runs_path, ('workload', 'track', 'submission', 'framework', 'target_metric', 'hparams'), ('run_id',)
    )
    points = files.table(curves_path, (), ('run_id', 'global_step', 'submission_time_s', 'valid_metric'))
    points = points[points['global_step'] > 0].sort_values('global_step').drop_duplicates(['run_id', 'global_step'])
    measured = dict(list(points.groupby('run_id')))
    tables = []
    for workload, rows in runs.groupby('workload', sort=True):
        target = rows['target_metric'].iloc[0]
        if target not in _METRICS:
            raise DataError(f'{runs_path}: {workload} has target_metric {target!r}; known are {", ".join(_METRICS)}')
        curves = []
        for row in rows.to_dict('records'):
            if row['run_id'] in measured:
                curve = measured[row['run_id']]
                values = curve['valid_metric'].to_numpy()
                steps, seconds = curve['global_step'].to_numpy(), curve['submission_time_s'].to_numpy()
                curves.append(Curve(_configuration(row, runs_path), steps, values, seconds, steps[-1]))
        tables.append(to_table(f'algoperf/{workload}', _METRICS[target], curves, fractions_T, place=f'{curves_path}'))
    return tables


def _configuration(row: dict, path: Path) -> dict[str, Scalar]:
    try:
        options = json.loads(row['hparams'])
    except (ValueError, TypeError) as error:
        raise DataError(f'{path}: hparams of run {row["run_id"]} is broken JSON ({error})') from error
    if not isinstance(options, dict):
        raise DataError(f'{path}: hparams of run {row["run_id"]} is no object')
    scalar = lambda value: value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
    own = {f'hparams.{name}': scalar(value) for name, value in options.items()}
    return {name: str(row[name]) for name in ('track', 'submission', 'framework')} | own
