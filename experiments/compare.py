"""Which searcher finds the best run soonest, and who predicts curves best? All methods replay the same recorded runs.

    launch/local.sh compare --workdir=runs/compare                               # on our own meta-dataset
    launch/local.sh compare --table=lcbench --train_path=lcbench.npz --workdir=runs/lcbench
    launch/local.sh compare --table=lcbench --train_path=a.npz --test_path=b.npz --methods=metaft,dehb \
        --seeds=20 --budgets_steps=50,100,200 --workdir=runs/ab                  # budgets in epochs

Every method chooses among the configurations that were run on a task, through one interface, and pays what its steps
cost. 100 % of the budget is the cost of 20 full runs of the default configuration (nmtlc: 5), of the median one where
there is no default; with --budgets_steps every full run costs its epochs. Normalised regret = (incumbent - best) /
(median - best). Without --test_path tasks are left out in folds (of datasets), and methods that transfer learn from the
others. Methods that plan for the budget (metaft) run one search a budget, or with --anytime one that is read at each.

Writes regret.csv, prediction.csv, timing.csv, paired.csv (each method less metaft, with its interval) and PNG plots.
`replays.jsonl` and `predictions.jsonl` hold what is done: the same command again goes on, more --methods or --seeds add
to it. Costs two to six minutes of training a fold for metaft, seconds a task for most methods.
"""

import dataclasses
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import program, train_surrogate
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    import pandas as pd

    from metaft.metadataset.tables import TaskTable
    from metaft.search.peers.methods import Fold, Method
    from metaft.surrogate.surrogate import Surrogate

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the budget, where regrets are read
KINDS = ('metadataset', 'lcbench', 'taskset', 'algoperf', 'nmtlc', 'opda', 'peft')
IDENTITY = ('table', 'train_path', 'test_path', 'num_folds', 'budgets_steps', 'anytime', 'steps', 'surrogate')


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/compare'), 'where results go')
    table: str = setting('metadataset', 'what is replayed', choices=KINDS)
    train_path: Path = setting(train_surrogate.ASSETS / 'metadataset', 'file or directory of the table')
    test_path: Path | None = setting(None, 'the same format: its tasks are tested, those of --train_path train')
    methods: tuple[str, ...] = setting((), 'names of methods; all that are installed if empty')
    seeds: int = setting(20, 'repetitions of methods that draw; a quarter, but 5, of those slower than a second')
    budgets_steps: tuple[int, ...] = setting((), 'budgets in steps (epochs) instead of shares of the cost')
    anytime: bool = setting(False, 'one search of the whole budget for methods that plan, read at each checkpoint')
    num_folds: int = setting(5, 'folds of datasets without --test_path; 0 leaves out one at a time')
    context_sizes: tuple[int, ...] = setting((0, 10, 50, 200, 1000), 'observed points at which predictions are scored')
    num_draws: int = setting(2, 'states of a search a task and context size')
    steps: int = setting(3000, 'updates of each of the two trainings of a surrogate')
    surrogate: Path | None = setting(None, 'a trained surrogate instead of one a fold; see that it saw no test task')
    seed: int = setting(0, 'of folds and of the training')

    def __post_init__(self):
        for name in ('seeds', 'num_draws', 'steps'):
            if getattr(self, name) < 1:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if self.num_folds == 1 or self.num_folds < 0:
            raise InputError(f'--num_folds is {self.num_folds}; give 0 (leave one out) or at least 2')
        if any(budget < 1 for budget in self.budgets_steps) or list(self.budgets_steps) != sorted(self.budgets_steps):
            raise InputError(f'--budgets_steps is {self.budgets_steps}; give ascending numbers from 1 on')
        if self.table != 'metadataset' and self.train_path == train_surrogate.ASSETS / 'metadataset':
            raise InputError(f'--table={self.table} needs --train_path, the file or directory of its curves')


def main(settings: Settings) -> None:
    """Replay and score what is missing, then write tables and plots."""
    from metaft import journal

    names, folds = prepare(settings)
    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY)
    with journal.sole_writer(workdir / 'replays.jsonl'):
        run_all(settings, workdir, names, folds)
    write(settings, workdir, names, [table.task for fold, tests in folds for table in tests])


# ---------------------------------------------------------------- what is compared


def prepare(settings: Settings) -> tuple[tuple[str, ...], list[tuple['Fold', list['TaskTable']]]]:
    """Check the methods, load the tables, and split them: a fold with the tasks that it tests."""
    from metaft.metadataset.published import benchmarks
    from metaft.search.peers import methods

    asked = settings.methods or tuple(methods.installed())
    methods.check(asked)  # before anything takes long
    tables, more = read(settings, settings.train_path)
    if settings.test_path is not None:
        tests, _ = read(settings, settings.test_path)
        tested = {table.task for table in tests}
        parts = [([table for table in tables if table.task not in tested], tests)]
    else:
        parts = split(settings, tables)
    folds = []
    for index, (train, tests) in enumerate(parts):
        chosen = [benchmarks.distinct(table) for table in tests]
        chosen = [table for table in chosen if benchmarks.is_searchable(table)]
        known = {table.task for table in train}
        also = [table for table in more if table.task in known]
        make = lambda index=index, train=train, also=also: surrogate_of(settings, index, [*train, *also])
        folds.append((methods.Fold(train, make, settings.seed), chosen))
    left_out = [name for name in asked if methods.METHODS[name].transfers and not all(fold.train for fold, _ in folds)]
    if left_out:
        print(f'no other task to transfer from, so left out: {", ".join(left_out)}')
    num_tested, num_tables = sum(len(tests) for _, tests in folds), sum(len(tests) for _, tests in parts)
    if not num_tested:
        raise InputError(f'{settings.test_path or settings.train_path} holds no task that can be searched')
    print(
        f'{num_tested} of {num_tables} tasks in {len(folds)} folds '
        f'({", ".join(f"{len(fold.train)} train {len(tests)} test" for fold, tests in folds)})'
    )
    return tuple(name for name in asked if name not in left_out), folds


def read(settings: Settings, path: Path) -> tuple[list['TaskTable'], list['TaskTable']]:
    """Load a file's tables, and those of its runs under other metrics, with the clock that was asked for."""
    from metaft.metadataset.published import benchmarks

    benchmark = benchmarks.BENCHMARKS[settings.table]
    clock = lambda table: benchmarks.in_steps(table, benchmark.steps) if settings.budgets_steps else table
    load = lambda metric: [clock(table) for table in benchmarks.tables(settings.table, path, metric)]
    return load(benchmark.metric), [table for metric in benchmark.more_metrics for table in load(metric)]


def split(settings: Settings, tables: list['TaskTable']) -> list[tuple[list['TaskTable'], list['TaskTable']]]:
    """Leave datasets out in folds; a single one is tested without training tasks."""
    from metaft.metadataset import splits

    num_datasets = len({splits.dataset_of(table) for table in tables})
    if num_datasets == 1:
        return [([], tables)]
    num_folds = min(settings.num_folds or num_datasets, num_datasets)
    return [(fold.train, fold.test) for fold in splits.folds(tables, num_folds, settings.seed)]


def surrogate_of(settings: Settings, index: int, tables: list['TaskTable']) -> 'Surrogate':
    """Load a fold's surrogate, training it first; the shipped one where there is nothing to learn from."""
    from metaft.metadataset import splits
    from metaft.surrogate import ensemble
    from metaft.surrogate.surrogate import Surrogate
    from metaft.surrogate.training import TrainingSettings

    if settings.surrogate is not None:
        return Surrogate.load(settings.surrogate)
    num_datasets = len({splits.dataset_of(table) for table in tables})
    if num_datasets < 2:
        print('metaft has no task to learn from here: it uses the shipped surrogate of our own meta-dataset')
        return Surrogate.load(train_surrogate.ASSETS / 'surrogate')
    directory = settings.workdir / 'surrogates' / f'fold-{index}'
    if not (directory / 'surrogate.json').exists():
        num_members = min(ensemble.EnsembleSettings.num_members, num_datasets)
        recipe = ensemble.EnsembleSettings(num_members, training=TrainingSettings(steps=settings.steps))
        ensemble.learn(tables, recipe, settings.seed).save(directory)
    return Surrogate.load(directory)


# ---------------------------------------------------------------- what is run


class Job(typing.NamedTuple):
    """A replay (context_size -1) or a prediction of a method on a task."""

    method: str
    task: str
    seed: int  # of a prediction: the draw
    context_size: int = -1


def jobs_of(
    settings: Settings, name: str, method: 'Method', tests: list['TaskTable']
) -> Iterator[tuple[Job, 'TaskTable']]:
    """Yield what a method has to do on the tasks of a fold."""
    if method.searcher is not None:
        for table in tests:
            for seed in range(num_seeds(settings, method)):
                yield Job(name, table.task, seed), table
    if method.predict is not None:
        for table in tests:
            for size in settings.context_sizes:
                if size <= table.values_CT.size / 2:
                    for draw in range(settings.num_draws):
                        yield Job(name, table.task, draw, size), table


def num_seeds(settings: Settings, method: 'Method') -> int:
    """Return how often a method is repeated on a task."""
    if not method.is_random:
        return 1
    return max(min(settings.seeds, 5), settings.seeds // 4) if method.is_slow else settings.seeds


def run_all(settings: Settings, workdir: Path, names: tuple[str, ...], folds: list) -> None:
    """Do every job that the journals do not hold."""
    from metaft import journal
    from metaft.search.peers.methods import METHODS, Problem

    files = {False: workdir / 'replays.jsonl', True: workdir / 'predictions.jsonl'}
    done = {
        Job(row['method'], row['task'], row['seed'], row.get('context_size', -1))
        for file in files.values()
        for _, row in journal.read(file).rows
    }
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        plan = [
            (
                number,
                name,
                fold,
                [(job, table) for job, table in jobs_of(settings, name, METHODS[name], tests) if job not in done],
            )
            for number, (fold, tests) in enumerate(folds, start=1)
            for name in names
        ]
        total = sum(len(jobs) for *_, jobs in plan)
        bar, start, finished = progress.add_task('', total=total), time.perf_counter(), 0
        for number, name, fold, jobs in plan:
            progress.update(bar, description=f'fold {number}/{len(folds)}: {name}')
            for job, table in jobs:
                problem = Problem(table, fold)
                if job.context_size < 0:
                    row = one_replay(settings, METHODS[name], problem, job)
                else:
                    row = one_prediction(METHODS[name], problem, job)
                journal.append(files[job.context_size >= 0], {key: strict(value) for key, value in row.items()})
                progress.advance(bar)
            finished += len(jobs)
            if jobs and not progress.console.is_terminal:
                spent = time.perf_counter() - start
                left = spent / finished * (total - finished)
                print(
                    f'fold {number}/{len(folds)}: {name}, {finished} of {total} jobs in {spent:.0f} s, '
                    f'about {left:.0f} s left',
                    flush=True,
                )


def budgets_of(settings: Settings, table: 'TaskTable') -> np.ndarray:
    """Return the checkpoints of a task in the unit of its costs, ascending."""
    from metaft.metadataset.published import benchmarks

    if settings.budgets_steps:
        return np.array(settings.budgets_steps, float)
    whole = benchmarks.BENCHMARKS[settings.table].full_runs * benchmarks.full_run_cost(table)
    return whole * np.array(FRACTIONS)


def one_replay(settings: Settings, method: 'Method', problem, job: Job) -> dict:
    """Replay a method with a seed; the row of `replays.jsonl`."""
    from metaft.search import regret
    from metaft.search.replay import replay

    table, budgets = problem.table, budgets_of(settings, problem.table)
    begun = time.perf_counter()
    method.searcher(problem, job.seed)  # learns what is learned once
    learned = time.perf_counter()
    regrets, num_suggestions = [], 0
    searches = budgets if method.plans and not settings.anytime else budgets[-1:]
    for budget in searches:
        trajectory = replay(method.searcher(problem, job.seed), table, float(budget))
        num_suggestions += len(trajectory.events) + 1
        at = budgets if len(searches) == 1 else np.array([budget])
        regrets += regret.regret_at(trajectory, table, at).tolist()
    return {
        **job._asdict(),
        'regrets': regrets,
        'learn_seconds': learned - begun,
        'seconds_per_suggestion': (time.perf_counter() - learned) / num_suggestions,
        'num_suggestions': num_suggestions,
    }


def one_prediction(method: 'Method', problem, job: Job) -> dict:
    """Score a method's prediction from a drawn state of a search, the same for all methods."""
    import zlib

    from metaft.search import scores
    from metaft.surrogate import evaluation

    state = zlib.crc32(f'{job.task} {job.context_size} {job.seed}'.encode()) % 2**31
    values_CT, costs_CT = evaluation.hide(problem.table, job.context_size, state)
    prediction = method.predict(problem, job.seed)(values_CT, costs_CT)
    return {**job._asdict(), **scores.score(prediction, problem.table, values_CT)}


def strict(value):
    """Replace what JSON has no word for."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ---------------------------------------------------------------- what is written


def write(settings: Settings, workdir: Path, names: tuple[str, ...], tasks: list[str]) -> None:
    """Write tables and plots of all that the journals hold of these methods and tasks; print the regrets."""
    import pandas as pd

    from metaft import journal
    from metaft.report import comparison_plots

    mine = lambda row: row['method'] in names and row['task'] in tasks
    replays = pd.DataFrame([row for _, row in journal.read(workdir / 'replays.jsonl').rows if mine(row)])
    regrets, paired, timing = (pd.DataFrame() for _ in range(3))
    if len(replays):
        by_task = regret_by_task(settings, replays)
        regrets, paired, timing = (
            regret_table(by_task, names),
            paired_table(by_task, names),
            timing_table(replays, names),
        )
        comparison_plots.plot_regret(regrets, workdir / 'regret.png')
        show(regrets)
    rows = [row for _, row in journal.read(workdir / 'predictions.jsonl').rows if mine(row)]
    predictions = prediction_table(pd.DataFrame(rows), names) if rows else pd.DataFrame()
    if rows:
        comparison_plots.plot_prediction(predictions, workdir / 'prediction.png')
    for name, frame in (('regret', regrets), ('prediction', predictions), ('paired', paired), ('timing', timing)):
        program.write_text(workdir / f'{name}.csv', frame.to_csv(index=False))
    print(f'tables and plots: {workdir}')


def regret_by_task(settings: Settings, replays: 'pd.DataFrame') -> 'pd.DataFrame':
    """Return a row a (method, task, checkpoint): the mean over seeds and the rank among the methods."""
    from metaft.metadataset.published import benchmarks

    benchmark = benchmarks.BENCHMARKS[settings.table]
    whole_steps = benchmark.full_runs * benchmark.steps
    steps = np.array(settings.budgets_steps or [fraction * whole_steps for fraction in FRACTIONS], float)
    long = replays[['method', 'task', 'seed', 'regrets']].explode('regrets', ignore_index=True)
    long['budget_steps'] = np.tile(steps, len(replays))
    long['budget_fraction'] = long['budget_steps'] / whole_steps
    long['normalized_regret'] = long.pop('regrets').astype(float)
    keys = ['budget_fraction', 'budget_steps', 'task', 'method']
    mean = long.groupby(keys)['normalized_regret'].agg(['mean', 'sem', 'count']).reset_index()
    mean['rank'] = mean.groupby(['budget_fraction', 'task'])['mean'].rank()
    return mean


def regret_table(by_task: 'pd.DataFrame', names: tuple[str, ...]) -> 'pd.DataFrame':
    """Return `regret.csv`; the standard error is over tasks, with a single one over its seeds."""
    import pandas as pd

    rows = []
    for (fraction, steps, method), part in by_task.groupby(['budget_fraction', 'budget_steps', 'method']):
        rows.append(
            {
                'method': method,
                'budget_fraction': fraction,
                'budget_steps': steps,
                'normalized_regret': part['mean'].mean(),
                'standard_error': part['mean'].sem() if len(part) > 1 else part['sem'].iloc[0],
                'rank': part['rank'].mean(),
                'num_tasks': len(part),
                'num_seeds': part['count'].min(),
            }
        )
    return _in_order(pd.DataFrame(rows), names, ['budget_fraction'])


def paired_table(by_task: 'pd.DataFrame', names: tuple[str, ...]) -> 'pd.DataFrame':
    """Return each method's regret less metaft's, a mean over tasks with its 95 % bootstrap interval over them."""
    import pandas as pd

    from metaft.search import regret

    rows = []
    for fraction, part in by_task.groupby('budget_fraction'):
        mean = part.pivot(index='task', columns='method', values='mean')
        for method in mean.columns if 'metaft' in mean else ():
            difference = (mean[method] - mean['metaft']).dropna().to_numpy()
            if method != 'metaft' and len(difference):
                found = regret.interval(difference[:, None])
                row = {'method': method, 'budget_fraction': fraction, 'difference': found.mean}
                rows.append(row | {'low': found.low, 'high': found.high, 'num_tasks': len(difference)})
    return _in_order(pd.DataFrame(rows), names, ['budget_fraction']) if rows else pd.DataFrame()


def timing_table(replays: 'pd.DataFrame', names: tuple[str, ...]) -> 'pd.DataFrame':
    """Return what deciding costs, and what learning once costs."""
    found = replays.groupby('method').agg(
        seconds_per_suggestion=('seconds_per_suggestion', 'median'),
        num_suggestions=('num_suggestions', 'mean'),
        learn_seconds=('learn_seconds', 'max'),
    )
    return _in_order(found.reset_index(), names, [])


def prediction_table(predictions: 'pd.DataFrame', names: tuple[str, ...]) -> 'pd.DataFrame':
    """Return `prediction.csv`: means over tasks and draws."""
    scores = ['log_likelihood', 'mse', 'coverage_80', 'spearman', 'cost_ape']
    found = predictions.astype(dict.fromkeys(scores, float)).groupby(['method', 'context_size'])[scores].mean()
    return _in_order(found.reset_index(), names, ['context_size'])


def _in_order(frame: 'pd.DataFrame', names: tuple[str, ...], then: list[str]) -> 'pd.DataFrame':
    return frame.sort_values(['method', *then], key=lambda c: c.map(names.index) if c.name == 'method' else c)


def show(regrets: 'pd.DataFrame') -> None:
    """Print the regrets, one line a method."""
    steps = regrets['budget_steps'].drop_duplicates().tolist()
    fractions = regrets['budget_fraction'].drop_duplicates().tolist()
    heads = [f'{100 * fraction:.3g} % ({step:.4g} steps)' for fraction, step in zip(fractions, steps)]
    table = Table('method', *heads, 'tasks', 'seeds', title='normalised regret, mean over tasks ± standard error')
    for method, part in regrets.groupby('method', sort=False):
        cells = [f'{row.normalized_regret:.3f} ± {row.standard_error:.3f}' for row in part.itertuples()]
        table.add_row(method, *cells, str(part['num_tasks'].iloc[0]), str(part['num_seeds'].iloc[0]))
    Console(width=200).print(table)


if __name__ == '__main__':
    program.run(main, Settings)
