"""Is a meta-dataset worth learning from? Spread against noise, ranks between tasks and over time, costs, importance.

    launch/local.sh quality_report                                            # of the shipped one: docs/metadataset.md
    launch/local.sh quality_report --metadataset=runs/collect --output=runs/collect/quality.md

Reads measurements.parquet and tasks.parquet of --metadataset and writes --output, Markdown, with its pictures in a
folder beside it that has its name. Nothing in it is written by hand. Cost: about a minute for 2,000 runs.
"""

import dataclasses
import typing
from pathlib import Path

from experiments import program
from experiments.program import setting
from metaft.errors import DataError, WorkdirError

if typing.TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
AIM = (0.3, 0.8)  # median rank correlation between tasks: below nothing transfers, above all tasks are one


@dataclasses.dataclass(frozen=True)
class Settings:
    metadataset: Path = setting(
        ROOT / 'metaft' / 'assets' / 'metadataset', 'directory of measurements.parquet and tasks.parquet'
    )
    output: Path = setting(ROOT / 'docs' / 'metadataset.md', 'where the report goes; pictures beside it')
    seed: int = setting(0, "of the forests' importance")


def main(settings: Settings) -> None:
    """Compute, draw and write."""
    from metaft.metadataset import quality, store
    from metaft.report import quality_plots

    measurements = store.read_parquet(settings.metadataset / 'measurements.parquet')
    tasks = store.read_parquet(settings.metadataset / 'tasks.parquet')
    runs = quality.final_runs(measurements, tasks)
    if runs.empty:
        raise DataError(f'{settings.metadataset} holds no run that ended; collect on, then merge')
    summary = quality.per_task(runs, default_key(runs))
    pairs = quality.correlations(runs)
    early = quality.early_ranks(measurements, tasks)
    lora = runs[runs['configuration.method'] == 'lora']
    shares = {
        title: table
        for title, table in (
            ('all methods', quality.importance(runs, settings.seed)),
            ('LoRA', quality.importance(lora, settings.seed)),
        )
        if len(table)
    }
    folder = settings.output.with_suffix('')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        quality_plots.spread(folder / 'spread.png', runs, summary)
        quality_plots.early_ranks(folder / 'early_ranks.png', early)
        quality_plots.costs(folder / 'costs.png', runs)
        if len(pairs):
            quality_plots.correlation_matrix(folder / 'correlations.png', pairs)
        if shares:
            quality_plots.importance(
                folder / 'importance.png', {k: v.drop(columns='out_of_bag_r2') for k, v in shares.items()}
            )
    except OSError as error:
        raise WorkdirError(f'{folder} cannot be written ({error.strerror}); give another --output') from None
    relations = quality.by_relation(pairs, tasks)
    parts = [
        *introduction(measurements, runs, tasks),
        *on_spread(summary, folder.name),
        *on_correlations(pairs, relations, folder.name),
        *on_early_ranks(early, folder.name),
        *on_costs(quality.costs(runs), folder.name),
        *on_importance(shares, folder.name),
    ]
    program.write_text(settings.output, '\n\n'.join(parts) + '\n')
    print(f'wrote {settings.output}')


def default_key(runs: 'pd.DataFrame') -> str | None:
    """Return the key of the default configuration; None where no run has it."""
    from metaft.finetune.search_space import default_configuration
    from metaft.metadataset.quality import PREFIX

    default = {PREFIX + name: value for name, value in default_configuration().identity().items()}
    chosen = runs
    for name in (name for name in runs if name.startswith(PREFIX)):
        value = default.get(name)
        chosen = chosen[chosen[name].isna() if value is None else chosen[name] == value]
    return chosen['key'].iloc[0] if len(chosen) else None


def introduction(measurements: 'pd.DataFrame', runs: 'pd.DataFrame', tasks: 'pd.DataFrame') -> list[str]:
    """Return title, command and counts."""
    methods = runs['configuration.method'].value_counts(normalize=True)
    repeated = runs.groupby(['task', 'key'])['seed'].nunique()
    counts: list[list] = [
        ['runs to their end', len(runs)],
        ['of them diverged', f'{(runs["status"] == "diverged").mean():.1%}'],
        ['measurements', len(measurements)],
        ['tasks', runs['task'].nunique()],
        ['datasets', runs['dataset'].nunique()],
        ['base models', ', '.join(sorted(runs['base_model'].unique()))],
        ['different configurations', runs['key'].nunique()],
        ["configurations on at least 90 % of a base model's datasets", common(runs)],
        ['methods', ', '.join(f'{name} {share:.0%}' for name, share in methods.items())],
        ['repeated with another seed', int((repeated > 1).sum())],
        ['training examples a full run', ', '.join(f'{n:,}' for n in sorted(tasks['max_examples'].unique()))],
    ]
    return [
        '# Quality of the meta-dataset',
        'Written by `launch/local.sh quality_report`; nothing here is by hand. All values are final validation losses '
        'in nats an answer token, of runs to their full budget. A run *learns* where it ends below the loss of the '
        'model before finetuning.',
        markdown(['what', 'how many'], counts),
    ]


def common(runs: 'pd.DataFrame') -> str:
    """Return how many configurations ran on nearly every dataset, by base model."""
    found = []
    for base, group in runs.groupby('base_model'):
        num = group.groupby('key')['dataset'].nunique()
        found.append(
            f'{base}: {(num >= 0.9 * group["dataset"].nunique()).sum()} ({group["dataset"].nunique()} datasets)'
        )
    return ', '.join(found)


def on_spread(summary: 'pd.DataFrame', folder: str) -> list[str]:
    """Return the section on best, median and default against noise."""
    near = summary['default_near_best'].dropna().astype(float)
    told = {
        'median configuration to best, in seed noise (median over tasks)': summary['median_gap_in_noise'].median(),
        'default configuration to best, in seed noise (median over tasks)': summary['default_gap_in_noise'].median(),
        'tasks whose median-to-best gap is above 3 seed noises': (summary['median_gap_in_noise'].dropna() > 3).mean(),
        'tasks whose default is within 5 % of the best loss': near.mean(),
        'share of runs that learn (median over tasks)': summary['learning'].median(),
    }
    columns = 'runs diverged learning reference best median default noise default_gap_in_noise best_exact_match'.split()
    return [
        '## Spread against noise',
        markdown(['what', 'value'], [[name, number(value)] for name, value in told.items()]),
        f'![Final losses of all runs]({folder}/spread.png)',
        '`noise`: standard deviation between seeds of one configuration. `learning`, `diverged`: shares of runs.',
        markdown(
            ['task', *columns],
            [[task, *map(number, row)] for task, row in zip(summary.index, summary[columns].to_numpy())],
        ),
    ]


def on_correlations(pairs: 'pd.DataFrame', relations: 'pd.DataFrame', folder: str) -> list[str]:
    """Return the section on ranks between tasks."""
    if not len(relations):
        return ['## Ranks between tasks', 'No two tasks share enough configurations that learn on both.']
    median = relations['median']['all pairs']
    verdict = 'inside of' if AIM[0] <= median <= AIM[1] else 'outside of'
    return [
        '## Ranks between tasks',
        f'Spearman correlation of configurations between two tasks, among those that learn on both: median '
        f'{median:.2f}, {verdict} the aim of {AIM[0]} to {AIM[1]}. Over all shared configurations, diverged and '
        f'useless ones included, it is {pairs["all"].median():.2f}. {pairs["learning"].isna().sum()} of {len(pairs)} '
        f'pairs have too few configurations that learn on both.',
        markdown(
            ['pairs', *relations.columns],
            [[name, *map(number, row)] for name, row in zip(relations.index, relations.to_numpy())],
        ),
        f'![Rank correlations between tasks]({folder}/correlations.png)',
    ]


def on_early_ranks(early: 'pd.DataFrame', folder: str) -> list[str]:
    """Return the section on how early ranks predict final ones."""
    quartiles = [early.quantile(q) for q in (0.25, 0.5, 0.75)]
    rows = [[f'{fraction:.3f}', *(number(q[fraction]) for q in quartiles)] for fraction in early.columns[::2]]
    return [
        '## Early ranks',
        'Spearman correlation of the value at a fraction of a full run with the final one, among runs that learn.',
        markdown(['fraction', 'lower quartile of tasks', 'median', 'upper quartile'], rows),
        f'![Early ranks]({folder}/early_ranks.png)',
    ]


def on_costs(table: 'pd.DataFrame', folder: str) -> list[str]:
    """Return the section on seconds and FLOPs."""
    return [
        '## Costs',
        '`exponent` and `r2` of log seconds over log FLOPs; `spread`: factor between the 10 % and 90 % quantiles of '
        'seconds a FLOP.',
        markdown(
            ['runs of', *table.columns], [[name, *map(number, row)] for name, row in zip(table.index, table.to_numpy())]
        ),
        f'![Seconds over FLOPs]({folder}/costs.png)',
    ]


def on_importance(shares: dict[str, 'pd.DataFrame'], folder: str) -> list[str]:
    """Return the section on which hyperparameters matter."""
    if not shares:
        return ['## Importance', 'No task has runs enough for a forest.']
    parts = [
        '## Importance',
        'Permutation importance in a random forest that learns the rank of a run, mean over tasks.',
    ]
    for title, table in shares.items():
        mean = table.drop(columns='out_of_bag_r2').mean().sort_values(ascending=False)
        rows = [[name, number(value)] for name, value in mean.items()]
        parts.append(f'{title} ({len(table)} tasks; out-of-bag R² {table["out_of_bag_r2"].median():.2f}):')
        parts.append(markdown(['hyperparameter', 'share'], rows))
    return [*parts, f'![Importance of hyperparameters]({folder}/importance.png)']


def number(value: object) -> str:
    """Return a table's entry: three digits, whole numbers whole, a dash where there is none."""
    value = float(value)  # type: ignore[arg-type]
    if value != value:
        return '-'
    return f'{value:.0f}' if value.is_integer() and abs(value) >= 10 else f'{value:.3g}'


def markdown(head: list[str], rows: list[list]) -> str:
    """Return a Markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


if __name__ == '__main__':
    program.run(main, Settings)
