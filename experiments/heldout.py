"""Does the search beat default and random configurations on tasks that nobody designed on? Live runs, equal wall time.

    launch/local.sh heldout --workdir=runs/heldout

For each held-out dataset and seed the default configuration is run to its full budget. Compiling and then running it
--budget_full_runs times is what freeze-thaw search and random search (full runs of configurations drawn uniformly, one
after another) get, by a clock that counts compilation, decisions and evaluation. `default_again` spends the same on a
second seed of the default configuration and takes the better run by validation loss. Writes heldout.csv, one row a
(dataset, seed, method), and heldout.md, the table of the README. Costs about half a minute a seed; resumable.
"""

import dataclasses
import json
import typing
from pathlib import Path

import numpy as np

from experiments import program, tune
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    import pandas as pd

PRIMARY = ('held_out_date_448', 'held_out_bracket_384', 'held_out_rule_416')  # of three kinds, named before any run
METHODS = ('default', 'default_again', 'random', 'metaft')


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/heldout'), 'where results go')
    datasets: tuple[str, ...] = setting((), 'names of HELD_OUT in the catalogue; all of them if empty')
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

    from metaft.tasks import catalogue

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
            for method in METHODS:
                if method in ('default', 'default_again'):
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
            search='random' if method == 'random' else 'freeze_thaw',
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
            tune.main(job)
    return json.loads(path.read_text())


def table(frame: 'pd.DataFrame') -> str:
    """Return the comparison in Markdown: mean test loss with a 95 % bootstrap interval over seeds."""
    from scipy.stats import bootstrap

    def cell(values) -> str:
        if len(values) < 2:
            return f'{values.mean():.3f}'
        interval = bootstrap((values,), np.mean, method='percentile', rng=np.random.default_rng(0)).confidence_interval
        low, high = interval
        return f'{values.mean():.3f} [{low:.3f}, {high:.3f}]'

    lines = ['| dataset | zero-shot | ' + ' | '.join(METHODS) + ' |', '|---|---|' + '---|' * len(METHODS)]
    for dataset, part in frame.groupby('dataset', sort=False):
        cells = [cell(part[part['method'] == m]['test_loss'].to_numpy()) for m in METHODS]
        lines.append(f'| {dataset} | {part["zero_shot_test_loss"].mean():.3f} | ' + ' | '.join(cells) + ' |')
    # A mean over datasets for each seed, so that its interval is over seeds as the others are.
    for name, part in (('mean of the three named', frame[frame['dataset'].isin(PRIMARY)]), ('mean of all', frame)):
        if len(part):
            by_seed = part.groupby(['method', 'seed'])['test_loss'].mean()
            cells = [cell(by_seed[m].to_numpy()) for m in METHODS]
            lines.append(f'| {name} | {part["zero_shot_test_loss"].mean():.3f} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    program.run(main, Settings)
