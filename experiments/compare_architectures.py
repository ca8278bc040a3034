"""Which network predicts curves best, on new datasets and beyond the budgets, data sizes and model sizes of training?

    launch/local.sh compare_architectures --workdir=runs/architectures
    launch/local.sh compare_architectures --workdir=runs/quick --steps=1000 --num_members=2 --studies=heldout,budget

Trains every variant ARCHITECTURE/HEAD with the same recipe, seeds and datasets, and scores it (loss; 0, 10, 50 and 200
observations of a task):

    heldout       --heldout_datasets are left out of training
    budget        the same, and training sees 1/4 of each run only; scored are the budgets beyond, unobserved
    data_size     training: datasets of at most --most_examples; scored: those of at least twice as many
    model_size    training: all base models but the largest; scored: the largest

Writes WORKDIR/architectures.csv (a row a study, variant, seed and number of observations), architectures.md (means over
seeds) and each surrogate to WORKDIR/STUDY/VARIANT/SEED; what is there already is not trained again. An ensemble of two
costs about two CPU minutes at 3,000 steps; at 1,000, levels without observations are still .3 off: compare ranks there.
"""

import dataclasses
import json
import math
import typing
from pathlib import Path

from experiments import program, train_surrogate
from experiments.program import setting
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    import pandas as pd

    from metaft.metadataset.splits import Split
    from metaft.metadataset.tables import TaskTable

STUDIES = ('heldout', 'budget', 'data_size', 'model_size')
SEEN_FRACTION = 0.25  # of a full run, in the study `budget`
SCORES = ('log_likelihood', 'mse', 'spearman', 'coverage_80', 'cost_error')
HELD_OUT = ('recall_food_48', 'recall_age_512', 'composed_512', 'known_pair_64', 'known_initial_256', 'rule_team_96',
            'reading_bracket_128', 'recall_noisy_1024')  # fmt: skip
IDENTITY = ('metadataset', 'heldout_datasets', 'most_examples', 'steps', 'num_members', 'num_points')


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/architectures'), 'where tables and surrogates go')
    metadataset: Path = setting(
        train_surrogate.ASSETS / 'metadataset', 'directory with measurements.parquet and tasks.parquet'
    )
    variants: tuple[str, ...] = setting(
        (
            'deep_set/anchored',
            'deep_set/law',
            'deep_set/law_alone',
            'deep_set/free',
            'attention/anchored',
            'independent/anchored',
        ),
        'networks with their heads',
    )
    studies: tuple[str, ...] = setting(STUDIES, 'what is left out', choices=STUDIES)
    heldout_datasets: tuple[str, ...] = setting(HELD_OUT, 'datasets left out in the studies heldout and budget')
    most_examples: int = setting(512, 'of a training dataset in the study data_size', 'examples')
    steps: int = setting(3000, 'updates of each of the two trainings')
    num_members: int = setting(2, 'networks of an ensemble, and folds of datasets')
    num_seeds: int = setting(2, 'ensembles a study and variant')
    num_points: tuple[int, ...] = setting((0, 10, 50, 200), 'observations of a task at which it is scored')

    def __post_init__(self):
        for name in ('steps', 'num_seeds', 'most_examples'):
            if getattr(self, name) < 1:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if self.num_members < 2:
            raise InputError(f'--num_members is {self.num_members}; each leaves a fold out, so at least 2')
        for variant in self.variants:
            if variant.count('/') != 1:
                raise InputError(f'--variants has {variant!r}; write ARCHITECTURE/HEAD, as deep_set/law')


def main(settings: Settings) -> None:
    """Trains and scores what is missing, a seed of everything before the next one, and writes the table each time."""
    from metaft.surrogate import architectures, heads

    for variant in settings.variants:
        name, head = variant.split('/')
        architectures.check(name)
        heads.check(head)
    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY)
    tables = train_surrogate.read_tables(train_surrogate.Settings(metadataset=settings.metadataset))
    splits = {study: split(study, tables, settings) for study in settings.studies}
    for study in [study for study, parts in splits.items() if parts is None]:
        print(f'{study}: the meta-dataset has one base model, so there is no larger one; left out')
    for seed in range(settings.num_seeds):
        for study, parts in splits.items():
            for variant in settings.variants if parts is not None else ():
                score(workdir / study / variant.replace('/', '-') / str(seed), study, variant, seed, parts, settings)
                write(workdir)
    print((workdir / 'architectures.md').read_text())


def split(study: str, tables: list['TaskTable'], settings: Settings) -> 'Split | None':
    """Returns what trains and what is scored; None where there is nothing to score."""
    from metaft.metadataset import splits

    if study in ('heldout', 'budget'):
        train, test = splits.leave_out(tables, settings.heldout_datasets)
        parts = splits.Split([splits.until(t, SEEN_FRACTION) for t in train] if study == 'budget' else train, test)
    else:
        name = {'data_size': 'log_num_train_examples', 'model_size': 'log_num_parameters'}[study]
        size = lambda table: table.meta_features[name]
        if study == 'data_size':
            low, high = math.log(settings.most_examples), math.log(2 * settings.most_examples)
        else:
            sizes = sorted({size(table) for table in tables})
            low, high = sizes[-2] if len(sizes) > 1 else -math.inf, sizes[-1]
        parts = splits.Split(
            [table for table in tables if size(table) <= low + 1e-6],
            [table for table in tables if size(table) >= high - 1e-6],
        )
    scored = [table for table in parts.test if table.metric == 'loss']
    return splits.Split(parts.train, scored) if parts.train and scored else None


def score(directory: Path, study: str, variant: str, seed: int, parts: 'Split', settings: Settings) -> None:
    """Trains one ensemble and writes its scores, unless they are there."""
    import time

    from metaft.surrogate import ensemble, evaluation
    from metaft.surrogate.training import TrainingSettings

    if (directory / 'scores.json').exists():
        return
    name, head = variant.split('/')
    recipe = ensemble.EnsembleSettings(settings.num_members, name, head, TrainingSettings(steps=settings.steps))
    start = time.process_time()
    surrogate = ensemble.learn(parts.train, recipe, seed)
    seconds = time.process_time() - start
    surrogate.save(directory)
    beyond = SEEN_FRACTION if study == 'budget' else None
    rows = evaluation.evaluate(surrogate, parts.test, settings.num_points, seed=0, beyond=beyond)
    about = {
        'study': study,
        'variant': variant,
        'seed': seed,
        'num_tasks': len(parts.test),
        'train_cpu_seconds': seconds,
    }
    program.write_json(directory / 'scores.json', [about | row for row in rows])
    print(f'{study} {variant} seed {seed}: {seconds:.0f} CPU seconds', flush=True)


def write(workdir: Path) -> None:
    """Writes the scores of all surrogates as one table, and their means over seeds as another."""
    import pandas as pd

    frame = pd.DataFrame([row for path in sorted(workdir.rglob('scores.json')) for row in json.loads(path.read_text())])
    program.write_text(workdir / 'architectures.csv', frame.to_csv(index=False))
    means = frame.groupby(['study', 'variant', 'num_points'], sort=False)[list(SCORES)].mean()
    seeds = frame.groupby(['study', 'variant'], sort=False)['seed'].nunique()
    program.write_text(
        workdir / 'architectures.md', '\n\n'.join(markdown(means, seeds, score) for score in SCORES) + '\n'
    )


def markdown(means: 'pd.DataFrame', seeds: 'pd.Series', score: str) -> str:
    """Returns a score as a table: a row a study and variant, a column a number of observations."""
    wide = means[score].unstack('num_points')
    head = [f'| {score} | seeds | ' + ' | '.join(f'{points} points' for points in wide.columns) + ' |']
    head.append('|' + '---|' * (len(wide.columns) + 2))
    for study, rows in wide.groupby('study', sort=False):
        for (_, variant), row in rows.iterrows():
            cells = [f'{study}: {variant}', str(seeds[study, variant]), *(f'{value:.3f}' for value in row)]
            head.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(head)


if __name__ == '__main__':
    program.run(main, Settings)
