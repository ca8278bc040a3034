"""Do the intervals of scaling fits cover, and does the fit refuse what cannot be known? On data with a known law.

    launch/local.sh scaling_simulate --workdir=runs/scaling_simulate --simulations=100

Simulates the fits of arXiv 2402.17193: each of the nine task x method columns of its table of constants, its model
sizes and numbers of examples, log-normal noise of --noise on the mean of its three runs. The multiplicative law is
fitted without the largest model and the most examples, and asked for both. Reported by column: how often 95 % intervals
of held-out losses cover (a new measurement, noise included) and those of the constants, counted where the fit calls the
constant identified; how often it does not; the mean absolute deviation of held-out predictions beside the paper's.
Last, the same with one model size only, as a power law in the examples: there a beta of .015 is like any other.

A simulation of a column is two fits, about 1.5 CPU-seconds: 100 of all nine take 25 CPU-minutes. Every simulation is on
disk before the next; the same command goes on, --shard as in `collect`.
"""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import numpy as np

from experiments import program
from experiments.program import setting
from metaft import journal
from metaft.errors import InputError

if typing.TYPE_CHECKING:
    from metaft.scaling.points import Points

PUBLISHED = Path(__file__).resolve().parent.parent / 'third_party' / 'scaling_paper_table.json'
CONSTANTS = {'alpha': 'alpha_m', 'beta': 'beta', 'E': 'E'}  # of a law: of the table
FULL_SIZES = 8  # data sizes of full tuning, whose range the paper gives, spaced evenly in their logarithm
PET_SIZES = (8e3, *(1e4 * np.arange(1, 11)))  # "8K, 10K ... 90K, 100K"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_simulate`."""

    workdir: Path = setting(Path('runs/scaling_simulate'), 'where results go')
    simulations: int = setting(100, 'data sets of each column')
    noise: float = setting(0.005, 'standard deviation of the log loss of a point')
    num_draws: int = setting(200, 'bootstrap resamples of each fit')
    columns: tuple[str, ...] = setting((), 'such as EnDe/lora; all nine if empty')
    seed: int = setting(0, 'of the noise')
    shard: str = setting('0/1', 'I/N: this process does every N-th simulation, beginning with I')

    def __post_init__(self):
        index, _, num = self.shard.partition('/')
        if not (index.isdigit() and num.isdigit() and int(index) < int(num)):
            raise InputError(f'--shard is {self.shard!r}; write I/N with I below N, for example 0/2')
        if self.simulations < 1 or self.num_draws < 20:
            raise InputError('--simulations must be at least 1 and --num_draws at least 20')
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise InputError(f'--noise is {self.noise:g}; it must be a positive number')
        names = [column_name(column) for column in published()['fits']]
        unknown = [name for name in self.columns if name not in names]
        if unknown:
            raise InputError(f'--columns names {unknown[0]!r}; allowed are {", ".join(names)}')


def main(settings: Settings) -> None:
    """Simulates what is not on disk yet, then reports all that is."""
    identity = ('noise', 'num_draws', 'columns', 'seed')
    workdir = program.prepare_workdir(settings.workdir, settings, identity)
    index, num = map(int, settings.shard.split('/'))
    table = published()
    chosen = [c for c in table['fits'] if not settings.columns or column_name(c) in settings.columns]
    records = read(workdir)
    done = {(record['column'], record['simulation']) for record in records}
    for simulation in range(index, settings.simulations, num):
        for column in chosen:
            if (column_name(column), simulation) not in done:
                records.append(simulate(column, simulation, table['design'], settings))
                journal.append(workdir / f'simulations-{index}-of-{num}.jsonl', records[-1])
        print(f'{simulation + 1} of {settings.simulations} simulations', flush=True)
    seen = {record['column'] for record in records}
    report([summary(records, column, table) for column in chosen if column_name(column) in seen], workdir, settings)


def published() -> dict[str, Any]:
    """Returns the paper's table of constants and its design."""
    return json.loads(PUBLISHED.read_text())


def column_name(column: dict[str, Any]) -> str:
    """Returns task/method."""
    return f'{column["task"]}/{column["method"]}'


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns what all shards have recorded."""
    return [record for path in sorted(workdir.glob('simulations-*.jsonl')) for record in program.read_records(path)]


def design(column: dict[str, Any], plan: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the paper's (model size, examples) of every point, [I] each, and the model size held out."""
    held_out = plan['model_parameters']['held_out'][0]
    models = [*plan['model_parameters']['fitted'], held_out]
    if column['method'] == 'full':
        smallest, largest = plan['finetuning_examples']['full'][column['task']]
        examples = np.geomspace(smallest, largest, FULL_SIZES)
    else:
        examples = np.array(PET_SIZES)
    model_I, examples_I = map(np.ravel, np.meshgrid(models, examples))
    return model_I, examples_I, held_out


def simulate(column: dict[str, Any], simulation: int, plan: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Returns one record: what covered, what was identified, how far predictions were off."""
    from metaft.scaling import fitting, identification, points
    from metaft.scaling.laws import Law

    names = [column_name(c) for c in published()['fits']]
    generator = np.random.default_rng([settings.seed, names.index(column_name(column)), simulation])
    model_I, examples_I, held_model = design(column, plan)
    true_I = column['A_m'] * model_I ** -column['alpha_m'] * examples_I ** -column['beta'] + column['E']
    loss_I = true_I * np.exp(settings.noise * generator.normal(size=len(true_I)))
    out_I = (model_I == held_model) | (examples_I == examples_I.max())
    make = lambda keep_I: points.make(loss_I[keep_I], examples_I[keep_I], [model_I[keep_I]], ['model_size'])
    fit = fitting.fit(
        Law('multiplicative', ('model_size',)), make(~out_I), num_draws=settings.num_draws, seed=simulation
    )
    rest = make(out_I)
    low_I, high_I = np.percentile(fitting.predict_draws(fit, rest, seed=simulation), [2.5, 97.5], axis=0)
    opened, intervals = identification.open_constants(fit), identification.intervals(fit)
    return {
        'column': column_name(column),
        'simulation': simulation,
        'bands': float(np.mean((low_I <= rest.loss_I) & (rest.loss_I <= high_I))),
        'band_points': len(rest),
        'deviation': float(np.mean(np.abs(fitting.predict(fit, rest) - rest.loss_I))),
        'covered': {n: bool(intervals[n][0] <= column[key] <= intervals[n][1]) for n, key in CONSTANTS.items()},
        'open': [name for name in CONSTANTS if name in opened],
        'alone': alone(make((model_I == model_I.min()) & ~out_I), simulation, settings),
    }


def alone(measured: 'Points', simulation: int, settings: Settings) -> dict[str, Any]:
    """Returns which constants of a power law in the examples are left open at one model size."""
    from metaft.scaling import fitting, identification
    from metaft.scaling.laws import Law

    fit = fitting.fit(Law('power'), measured, num_draws=settings.num_draws, seed=simulation)
    return {'open': [name for name in ('beta', 'E') if name in identification.open_constants(fit)]}


def summary(records: list[dict[str, Any]], column: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Returns the rates of one column; coverage of a constant where it is identified, None where it never is."""
    mine = [record for record in records if record['column'] == column_name(column)]
    covered = {name: [r['covered'][name] for r in mine if name not in r['open']] for name in CONSTANTS}
    published_deviation = next(
        row['multiplicative']
        for row in table['heldout_mean_absolute_deviation']
        if (row['task'], row['factor']) == (column['task'], 'm')
    )
    return {
        'column': column_name(column),
        'simulations': len(mine),
        'bands': float(np.mean([r['bands'] for r in mine])),
        'covered_where_identified': {name: float(np.mean(hits)) if hits else None for name, hits in covered.items()},
        'covered_at_all': {name: float(np.mean([r['covered'][name] for r in mine])) for name in CONSTANTS},
        'left_open': {name: float(np.mean([name in r['open'] for r in mine])) for name in CONSTANTS},
        'left_open_at_one_size': {
            name: float(np.mean([name in r['alone']['open'] for r in mine])) for name in ('beta', 'E')
        },
        'heldout_deviation': float(np.mean([r['deviation'] for r in mine])),
        'published_heldout_deviation': published_deviation,
    }


def report(columns: list[dict[str, Any]], workdir: Path, settings: Settings) -> None:
    """Writes results.json and prints it as a Markdown table."""
    number = lambda value: '-' if value is None else f'{value:.3g}'
    head = ('column', 'simulations', 'held-out', 'alpha', 'beta', 'E', 'open: alpha / beta / E',
            'open at one size: beta / E', 'deviation', "paper's")  # fmt: skip
    lines = [head, ('---',) * len(head)]
    for c in columns:
        lines.append(
            (
                c['column'],
                str(c['simulations']),
                number(c['bands']),
                *(number(c['covered_where_identified'][name]) for name in CONSTANTS),
                ' / '.join(number(c['left_open'][name]) for name in CONSTANTS),
                ' / '.join(number(c['left_open_at_one_size'][name]) for name in ('beta', 'E')),
                number(c['heldout_deviation']),
                number(c['published_heldout_deviation']),
            )
        )
    weights = [c['simulations'] for c in columns]
    mean = float(np.average([c['bands'] for c in columns], weights=weights))
    program.write_json(
        workdir / 'results.json',
        {
            'columns': columns,
            'mean_heldout_coverage': mean,
            'noise': settings.noise,
            'seed': settings.seed,
            'versions': program.versions(),
        },
    )
    print('\n'.join(f'| {" | ".join(line)} |' for line in lines))
    print(f'held-out intervals cover {mean:.3f} of all held-out points; written: {workdir}/results.json')


if __name__ == '__main__':
    program.run(main, Settings)
