"""Does the search beat default and random configurations on tasks that nobody designed on? Live runs, equal wall time.

    launch/local.sh heldout --workdir=runs/heldout

For each held-out dataset and seed the default configuration is run to its full budget. Compiling and then running it
--budget_full_runs times is what each search gets, by a clock that counts compilation, decisions and evaluation:

    random            full runs of configurations drawn uniformly, one after another
    dehb              DEHB by its own package, over the same draw (requirements-peers.txt)
    quicktune_refit   Quick-Tune with its encoder repaired, which learned from the shipped meta-dataset, and learns on
    transfer          full runs in the order of metaft's zero-shot portfolio
    metaft            freeze-thaw search

`default_again` spends the same on a second seed of the default configuration and takes the better run by validation
loss. Writes heldout.csv, one row a (dataset, seed, method), and heldout.md, the table of the README. Costs about ten
seconds a search; resumable.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments import program, train_surrogate, tune
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    import pandas as pd

    from metaft.metadataset.tables import TaskTable
    from metaft.search.observations import Searcher
    from metaft.tuning.problem import Problem

PRIMARY = ('held_out_date_448', 'held_out_bracket_384', 'held_out_rule_416')  # of three kinds, named before any run
PEERS = ('dehb', 'quicktune_refit')
SEARCHED_AS = {'metaft': 'freeze_thaw', 'dehb': 'random', 'quicktune_refit': 'freeze_thaw'}  # whose candidates they get
DEFAULTS = ('default', 'default_again')
SEARCHES = ('random', 'dehb', 'quicktune_refit', 'transfer', 'metaft')


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/heldout'), 'where results go')
    datasets: tuple[str, ...] = setting((), 'names of HELD_OUT in the catalogue; all of them if empty')
    searches: tuple[str, ...] = setting(('random', 'transfer', 'metaft'), 'who searches', choices=SEARCHES)
    num_seeds: int = setting(5, 'repetitions: other candidates, initialisations and data orders')
    budget_full_runs: float = setting(2.0, 'budget of a search, in full runs of the default configuration')
    model: str = setting(tune.Settings.model, 'directory of the base model')
    surrogate: Path = setting(tune.Settings.surrogate, 'directory of the surrogate')

    def __post_init__(self):
        if self.num_seeds < 1 or not self.budget_full_runs > 0:
            raise InputError(
                f'--num_seeds={self.num_seeds} and --budget_full_runs={self.budget_full_runs} must be positive'
            )


def main(settings: Settings) -> None:
    """Run what is missing, then write the table."""
    import pandas as pd

    from metaft.search.peers import methods
    from metaft.tasks import catalogue

    methods.check([name for name in settings.searches if name in PEERS])  # before anything takes long
    program.prepare_workdir(settings.workdir, settings, ('budget_full_runs', 'model'))
    rows = []
    for dataset in settings.datasets or tuple(catalogue.HELD_OUT):
        files = export(settings.workdir / 'data', dataset)
        seeds = range(settings.num_seeds)
        defaults = [one(settings, files, dataset, 'default', seed, budget_seconds=3600.0) for seed in seeds]
        for seed, default in zip(seeds, defaults, strict=True):
            run_seconds, compile_seconds = default['default']['full_run_seconds'], default['compile_seconds']
            budget_seconds = compile_seconds + settings.budget_full_runs * run_seconds
            again = min(default, defaults[(seed + 1) % len(defaults)], key=lambda r: r['default']['validation_loss'])
            for method in (*DEFAULTS, *settings.searches):
                if method in DEFAULTS:
                    results = default if method == 'default' else again
                    found, spent = results['default'], compile_seconds + run_seconds * (1 if method == 'default' else 2)
                else:
                    results = one(settings, files, dataset, method, seed, budget_seconds)
                    found, spent = results['incumbent'] or results['zero_shot'], results['spent_seconds']
                rows.append(
                    {
                        'dataset': dataset,
                        'seed': seed,
                        'method': method,
                        'test_loss': found['test_loss'],
                        'test_exact_match': found['test_exact_match'],
                        'zero_shot_test_loss': results['zero_shot']['test_loss'],
                        'spent_seconds': spent,
                        'budget_seconds': budget_seconds,
                        'compile_seconds': compile_seconds,
                        'num_runs_started': results['num_runs_started'],
                    }
                )
    frame = pd.DataFrame(rows)
    program.write_text(settings.workdir / 'heldout.csv', frame.to_csv(index=False))
    text = table(frame)
    program.write_text(settings.workdir / 'heldout.md', text)
    print(text)


def export(directory: Path, name: str) -> dict[str, Path]:
    """Write a held-out dataset as JSON lines, the way a user has it."""
    from metaft.tasks import catalogue
    from metaft.tasks.dataset import write_json_lines

    if name not in catalogue.HELD_OUT:
        raise InputError(f'--datasets names {name!r}; allowed: {", ".join(catalogue.HELD_OUT)}')
    dataset = catalogue.make(name)
    (directory / name).mkdir(parents=True, exist_ok=True)
    files = {split: directory / name / f'{split}.jsonl' for split in ('train', 'validation', 'test')}
    for split, path in files.items():
        write_json_lines(path, getattr(dataset, split))
    return files


def one(
    settings: Settings, files: dict[str, Path], dataset: str, method: str, seed: int, budget_seconds: float
) -> dict:
    """Return the results of one job, running it if they are not there."""
    from metaft.finetune.search_space import default_configuration
    from metaft.report.terminal import Terminal
    from metaft.tuning import outcome

    workdir = settings.workdir / dataset / f'{method}-{seed}'
    path = workdir / 'results.json'
    if not path.exists():
        job = tune.Settings(
            train=files['train'],
            validation=files['validation'],
            test=files['test'],
            model=settings.model,
            surrogate=settings.surrogate,
            workdir=workdir,
            budget_seconds=budget_seconds,
            methods=('lora',),
            compare=False,
            search=SEARCHED_AS.get(method, method),
            allow_overlap=True,
            seed=seed,
        )
        if method == 'default':
            tune.prepare(job, Terminal()).executor.warm_up(default_configuration())  # into the cache, for all methods
            problem = tune.prepare(job, Terminal())
            compile_seconds = problem.executor.warm_up(default_configuration())  # now read from the cache
            found = {'default': outcome.default(problem, budget_seconds), 'zero_shot': outcome.untrained(problem)}
            program.write_json(path, found | {'num_runs_started': 1, 'compile_seconds': compile_seconds})
        else:
            tune.main(job, peer(method) if method in PEERS else None)
    return json.loads(path.read_text())


def peer(method: str) -> Callable[[tune.Settings, 'Problem'], 'Searcher']:
    """Return who makes the searcher of a peer over a job's candidates."""
    from metaft.finetune.budget import fractions
    from metaft.metadataset.tables import TaskTable
    from metaft.search.peers.methods import METHODS, Fold
    from metaft.search.peers.methods import Problem as Replayed

    def make(job: tune.Settings, problem: 'Problem') -> 'Searcher':
        nothing_CT = np.full((len(problem.candidates), len(fractions())), np.nan)
        table = TaskTable(
            task=problem.record.task,
            metric=problem.metric,
            meta_features={k: np.nan if v is None else v for k, v in problem.record.meta_features.items()},
            configurations=[c.identity() for c in problem.candidates],
            fractions_T=np.asarray(fractions()),
            values_CT=nothing_CT,
            costs_CT=nothing_CT,
            reference_value=problem.reference_value,
            reference_seconds=problem.record.reference_seconds,
            dataset=problem.record.dataset,
            max_examples=problem.record.max_examples,
        )
        fold = Fold(training_tables() if METHODS[method].transfers else [], lambda: problem.surrogate)
        return METHODS[method].searcher(Replayed(table, fold), job.seed)

    return make


@functools.cache
def training_tables() -> list['TaskTable']:
    """Return the shipped meta-dataset, for peers that learn from it."""
    tables = train_surrogate.read_tables(train_surrogate.Settings())
    return [table for table in tables if table.metric == 'loss']


def table(frame: 'pd.DataFrame') -> str:
    """Return the comparison in Markdown: mean test loss with a 95 % bootstrap interval over seeds."""
    from scipy.stats import bootstrap

    def cell(values) -> str:
        if len(values) < 2:
            return f'{values.mean():.3f}'
        interval = bootstrap((values,), np.mean, method='percentile', rng=np.random.default_rng(0)).confidence_interval
        low, high = interval
        return f'{values.mean():.3f} [{low:.3f}, {high:.3f}]'

    methods = list(dict.fromkeys(frame['method']))
    lines = ['| dataset | zero-shot | ' + ' | '.join(methods) + ' |', '|---|---|' + '---|' * len(methods)]
    for dataset, part in frame.groupby('dataset', sort=False):
        cells = [cell(part[part['method'] == m]['test_loss'].to_numpy()) for m in methods]
        lines.append(f'| {dataset} | {part["zero_shot_test_loss"].mean():.3f} | ' + ' | '.join(cells) + ' |')
    # A mean over datasets for each seed, so that its interval is over seeds as the others are.
    for name, part in (('mean of the three named', frame[frame['dataset'].isin(PRIMARY)]), ('mean of all', frame)):
        if len(part):
            by_seed = part.groupby(['method', 'seed'])['test_loss'].mean()
            cells = [cell(by_seed[m].to_numpy()) for m in methods]
            lines.append(f'| {name} | {part["zero_shot_test_loss"].mean():.3f} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    program.run(main, Settings)
