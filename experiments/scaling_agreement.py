"""Do power laws of recorded runs agree with what a surrogate predicts for them on datasets it has not seen?

    launch/local.sh scaling_agreement --workdir=runs/agreement

For every fold of the meta-dataset and every one of --heads a surrogate is trained on the other folds' datasets (or
read, where it is there already). The law L = A t^-beta + E over examples seen is fitted to every recorded run of the
fold and to the median curve predicted for it: knowing nothing of the task's runs, and knowing the first quarter of each
of them. Compared are the constants that the recorded run settles, and of all runs the mean exponent of the last three
octaves; the guess is the median of the other folds' runs. About four CPU minutes a fold and head, and as much for the
laws.

Leaves `agreement.csv` (a row a run, head and knowledge), `agreement.json` and `agreement.md`.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import program, train_surrogate
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    import pandas as pd

    from metaft.metadataset.splits import Split
    from metaft.metadataset.tables import TaskTable
    from metaft.surrogate.surrogate import Surrogate

SEEN = {'nothing': 0.0, 'a quarter': 0.25}  # of each run
LARGEST_RMSD = 0.05  # of a fit to a recorded curve that is said to follow a power law
IDENTITY = ('metadataset', 'folds', 'steps', 'num_members', 'num_draws', 'most_runs', 'seed')


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_agreement`."""

    workdir: Path = setting(Path('runs/agreement'), 'where surrogates and tables go')
    metadataset: Path = setting(
        train_surrogate.ASSETS / 'metadataset', 'directory with measurements.parquet and tasks.parquet'
    )
    heads: tuple[str, ...] = setting(('law_alone', 'law', 'anchored'), 'heads of the deep set')
    folds: int = setting(3, 'folds of datasets')
    steps: int = setting(3000, 'updates of each training')
    num_members: int = setting(2, 'networks of an ensemble')
    num_draws: int = setting(40, 'bootstrap resamples of a recorded law, which say what it settles')
    most_runs: int = setting(24, 'runs of a task, evenly among those that finished')
    seed: int = setting(0, 'of folds, trainings and resamples')

    def __post_init__(self):
        from metaft.surrogate import heads

        for head in self.heads:
            heads.check(head)
        if self.num_draws < 20 or self.num_members < 2 or self.steps < 1 or self.most_runs < 1:
            raise InputError('--num_draws must be 20 or more, --num_members 2, --steps and --most_runs 1')


def main(settings: Settings) -> None:
    """Trains what is missing, fits, compares, writes."""
    import pandas as pd

    from metaft.metadataset import splits

    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY)
    tables = train_surrogate.read_tables(train_surrogate.Settings(metadataset=settings.metadataset))
    tables = [table for table in tables if table.metric == 'loss']
    parts = splits.folds(tables, settings.folds, settings.seed)
    recorded = cached(workdir / 'recorded.csv', functools.partial(recorded_laws, tables, settings))
    frames = []
    for head in settings.heads:
        for number, split in enumerate(parts):
            make = functools.partial(predicted_laws, split, head, number, recorded, settings)
            frames.append(cached(workdir / f'{head}-{number}.csv', make))
            print(f'{head}: fold {number + 1} of {len(parts)} done', flush=True)
    table = pd.concat(frames, ignore_index=True)
    program.write_text(workdir / 'agreement.csv', table.to_csv(index=False))
    found = compare(recorded, table)
    program.write_json(workdir / 'agreement.json', found | {'seed': settings.seed, 'versions': program.versions()})
    text = markdown(found)
    program.write_text(workdir / 'agreement.md', text)
    print(text)
    print(f'written: {workdir}/agreement.csv, agreement.json, agreement.md')


def cached(path: Path, make: Callable[[], 'pd.DataFrame']) -> 'pd.DataFrame':
    """Returns the table at `path`, made and written first where it is not there."""
    import pandas as pd

    if not path.exists():
        program.write_text(path, make().to_csv(index=False))
    return pd.read_csv(path)


def chosen(table: 'TaskTable', most: int) -> list[int]:
    """Returns the numbers of at most so many finished runs, evenly among them."""
    import numpy as np

    done = np.flatnonzero((np.isfinite(table.values_CT) & (table.values_CT > 0)).all(axis=1))
    return done[np.unique(np.linspace(0, len(done) - 1, most).round().astype(int))].tolist() if len(done) else []


def recorded_laws(tables: list['TaskTable'], settings: Settings) -> 'pd.DataFrame':
    """Returns a row a recorded run: its constants, which of them it settles, and how well the law fits."""
    import pandas as pd
    from rich.progress import track

    from metaft.scaling import agreement

    rows = []
    for table in track(tables, 'recorded laws'):
        for run in chosen(table, settings.most_runs):
            examples_T = table.fractions_T * table.max_examples
            law = agreement.run_law(table.values_CT[run], examples_T, settings.num_draws, settings.seed)
            rows.append(
                {'task': table.task, 'run': run, 'log_rmsd': law.log_rmsd}
                | law.constants
                | {f'{name}_settled': settled for name, settled in law.is_settled.items()}
            )
    return pd.DataFrame(rows)


def predicted_laws(
    split: 'Split', head: str, number: int, recorded: 'pd.DataFrame', settings: Settings
) -> 'pd.DataFrame':
    """Returns a row a run of the tested tasks and what was seen: the constants of its predicted median curve."""
    import numpy as np
    import pandas as pd
    from rich.progress import track

    from metaft.metadataset import splits
    from metaft.scaling import agreement
    from metaft.surrogate import evaluation

    surrogate = trained(split.train, settings.workdir / 'surrogates' / f'{head}-{number}', head, settings)
    tested = recorded[recorded['task'].isin([table.task for table in split.test])]
    guess = recorded[~recorded['task'].isin(tested['task'])]
    rows = []
    for table in track(split.test, f'{head}, fold {number + 1}'):
        ask = evaluation.asking(surrogate, table)
        for what, share in SEEN.items():
            known = splits.until(table, share)
            median_CT = ask(known.values_CT, known.costs_CT).quantile_CT(0.5)
            for run in tested.loc[tested['task'] == table.task, 'run']:
                losses_T = np.maximum(median_CT[run], 1e-6)
                law = agreement.run_law(losses_T, table.fractions_T * table.max_examples)
                rows.append({'head': head, 'seen': what, 'task': table.task, 'run': run} | law.constants)
    predicted = pd.DataFrame(rows)
    for name in agreement.CONSTANTS:
        predicted[f'guess_{name}'] = guess.loc[guess[f'{name}_settled'] & follows(guess), name].median()
    return predicted


def trained(tables: list['TaskTable'], directory: Path, head: str, settings: Settings) -> 'Surrogate':
    """Returns the surrogate of these tables, read where it is there already."""
    from metaft.surrogate import ensemble
    from metaft.surrogate.surrogate import Surrogate
    from metaft.surrogate.training import TrainingSettings

    if not (directory / 'surrogate.json').exists():
        training = TrainingSettings(steps=settings.steps)
        recipe = ensemble.EnsembleSettings(settings.num_members, 'deep_set', head, training)
        ensemble.learn(tables, recipe, settings.seed).save(directory)
    return Surrogate.load(directory)


def follows(recorded: 'pd.DataFrame') -> 'pd.Series':
    """Returns which recorded runs follow a power law."""
    return recorded['log_rmsd'] <= LARGEST_RMSD


def compare(recorded: 'pd.DataFrame', predicted: 'pd.DataFrame') -> dict[str, Any]:
    """Returns how many runs settle what, and the agreement by head, knowledge and constant."""
    from metaft.scaling import agreement

    recorded = recorded.assign(follows=follows(recorded))
    both = predicted.merge(recorded, on=['task', 'run'], suffixes=('_predicted', '_recorded'))
    settled = {name: int((recorded['follows'] & recorded[f'{name}_settled']).sum()) for name in agreement.CONSTANTS}
    found: dict[str, Any] = {
        'runs': len(recorded),
        'follow_a_power_law': int(recorded['follows'].sum()),
        'of_these_settle': settled,
        'agreement': {},
    }
    for (head, seen), part in both.groupby(['head', 'seen'], sort=False):
        for name in agreement.CONSTANTS:
            rows = part if name == 'slope' else part[part['follows'] & part[f'{name}_settled']]
            columns = {'recorded': f'{name}_recorded', 'predicted': f'{name}_predicted', 'guess': f'guess_{name}'}
            table = rows[['task']].assign(**{new: rows[old] for new, old in columns.items()})
            found['agreement'][f'{head}/{seen}/{name}'] = agreement.agreement(table, name)
    return found


def markdown(found: dict[str, Any]) -> str:
    """Returns the comparison as text."""
    settle = ', '.join(f'{name} {count}' for name, count in found['of_these_settle'].items() if name != 'slope')
    lines = [
        f'{found["runs"]} recorded runs; {found["follow_a_power_law"]} follow a power law within {LARGEST_RMSD} of the '
        f'log loss; of these settle: {settle}. Intervals are 95 %, over tasks. A and E: differences of logarithms.',
        '',
        '| head | seen | constant | runs | tasks | Spearman | median difference | of a constant guess |',
        '|---|---|---|---|---|---|---|---|',
    ]
    shown = lambda interval: f'{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]'
    for key, one in found['agreement'].items():
        cells = ['fewer than three tasks'] if one is None else [
            str(one.runs), str(one.tasks), shown(one.spearman), shown(one.difference), shown(one.guess_difference)
        ]  # fmt: skip
        lines.append(f'| {" | ".join([*key.split("/"), *cells])} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    program.run(main, Settings)
