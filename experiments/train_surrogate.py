"""What did all finished runs teach? Trains the surrogate on the meta-dataset, and on what past `tune` runs measured.

    launch/local.sh train_surrogate --workdir=runs/surrogate
    launch/local.sh train_surrogate --workdir=runs/mine_too --workdirs=runs/mine,runs/other     # learn from own use
    launch/local.sh train_surrogate --workdir=runs/check --heldout_datasets=recall_job_16       # how good is it?
    launch/local.sh train_surrogate --workdir=runs/other --architecture=NAME    # another network: docs/extending.md

Writes the checkpoint to WORKDIR/surrogate (`tune --surrogate=WORKDIR/surrogate` takes it) and `metrics.json`: the loss
on datasets that members left out, by step, and for --heldout_datasets the log likelihood, error, rank correlation and
coverage by the number of observations. Expect under ten minutes on two cores, and a log likelihood that rises with the
observations.
"""

import dataclasses
import typing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import program
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    from metaft.metadataset.tables import TaskTable

ASSETS = Path(__file__).resolve().parent.parent / 'metaft' / 'assets'
IDENTITY = ('metadataset', 'workdirs', 'heldout_datasets', 'architecture', 'head', 'steps', 'num_members', 'seed')


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/surrogate'), 'where the checkpoint goes')
    metadataset: Path = setting(ASSETS / 'metadataset', 'directory with measurements.parquet and tasks.parquet')
    workdirs: tuple[Path, ...] = setting((), 'workdirs of past `tune` runs to learn from as well')
    heldout_datasets: tuple[str, ...] = setting((), 'datasets kept back and scored')
    architecture: str = setting(
        'deep_set', 'network: deep_set, attention, independent or your own, see docs/extending.md'
    )
    head: str = setting('anchored', 'curve of the network: anchored, law, law_alone or free, see heads.py')
    steps: int = setting(3000, 'updates of each of the two trainings')
    num_members: int = setting(3, 'networks of the ensemble, and folds of datasets')
    num_points: tuple[int, ...] = setting((0, 10, 50, 200), 'observations of a held-out task at which it is scored')
    seed: int = setting(0, 'of folds, parameters and episodes')

    def __post_init__(self):
        for name in ('steps', 'num_members'):
            if getattr(self, name) < 1:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if min(self.num_points, default=0) < 0:
            raise InputError(f'--num_points is {self.num_points}; numbers of observations are at least 0')


def main(settings: Settings) -> None:
    """Train, score and write; a finished workdir only shows its metrics again."""
    import json

    from metaft.surrogate import architectures, heads

    architectures.check(settings.architecture)
    heads.check(settings.head)
    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY)
    if not (workdir / 'metrics.json').exists():
        train(settings, workdir)
    metrics = json.loads((workdir / 'metrics.json').read_text())
    show(metrics)
    print(f'surrogate of {metrics["num_runs"]} runs on {metrics["num_tasks"]} tasks: {workdir / "surrogate"}')


def train(settings: Settings, workdir: Path) -> None:
    """Train on all but the held-out datasets, score on these, and write both."""
    from metaft.metadataset import splits
    from metaft.surrogate import ensemble, evaluation, regression_fit
    from metaft.surrogate.training import TrainingSettings

    tables = read_tables(settings)
    train_tables, heldout = splits.leave_out(tables, settings.heldout_datasets)
    recipe = ensemble.EnsembleSettings(
        settings.num_members, settings.architecture, settings.head, TrainingSettings(steps=settings.steps)
    )
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn('loss {task.fields[loss]:.3f}'),
    )
    with Progress(*columns) as progress:
        phases = (
            ('folds', 'leaving datasets out', settings.steps),
            ('regression', 'regression, a metric', regression_fit.STEPS),
            ('members', 'on all datasets', settings.steps),
        )
        bars = {phase: progress.add_task(text, total=total, loss=float('nan')) for phase, text, total in phases}
        report = lambda phase, step, loss: progress.update(bars[phase], completed=step, loss=loss)
        surrogate = ensemble.learn(train_tables, recipe, settings.seed, report)
    surrogate.save(workdir / 'surrogate')
    scores = {
        metric: evaluation.evaluate(surrogate, chosen, settings.num_points, seed=settings.seed)
        for metric in sorted({table.metric for table in heldout})
        if (chosen := [table for table in heldout if table.metric == metric])
    }
    program.write_json(
        workdir / 'metrics.json',
        {
            'heldout': scores,
            'best_step': surrogate.provenance['best_step'],
            'left_out_loss': surrogate.provenance['left_out_loss'],
            'num_tasks': len({table.task for table in train_tables}),
            'num_runs': sum(len(table.configurations) for table in train_tables if table.metric == 'loss'),
            'versions': program.versions(),
        },
    )


def read_tables(settings: Settings) -> list['TaskTable']:
    """Read the meta-dataset and the measurements of past workdirs as tables of both metrics."""
    import pandas as pd

    from metaft.metadataset import store
    from metaft.metadataset.tables import METRICS, task_tables

    measurements = [store.read_parquet(settings.metadataset / 'measurements.parquet')]
    tasks = [store.read_parquet(settings.metadataset / 'tasks.parquet')]
    for index, past in enumerate(settings.workdirs):
        log = store.read(past / 'measurements.jsonl')
        if not log.measurements:
            raise InputError(f'{past} holds no measurements.jsonl of a tune run; leave it out of --workdirs')
        # Runs of different searches may have one name; a run measured twice at a budget (a crash) counts once.
        latest = {(m.run_id, m.budget_steps): m for m in log.measurements}
        named = [dataclasses.replace(m, run_id=f'{past.name}-{index}/{m.run_id}') for m in latest.values()]
        measurements.append(store.to_frame(named))
        tasks.append(store.to_frame([store.read_task(past / 'meta_features.json')]))
    rows, tasks_frame = pd.concat(measurements), pd.concat(tasks).drop_duplicates('task', keep='last')
    return [table for metric in METRICS for table in task_tables(rows, tasks_frame, metric)]


def show(metrics: dict) -> None:
    """Print the scores on held-out datasets."""
    for metric, rows in metrics['heldout'].items():
        table = Table(*rows[0], title=f'held-out datasets, {metric}')
        for row in rows:
            table.add_row(*(f'{value:.3f}' if isinstance(value, float) else str(value) for value in row.values()))
        Console().print(table)


if __name__ == '__main__':
    program.run(main, Settings)
