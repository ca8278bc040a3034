"""How well do the laws fit, extrapolate and choose among 30 models, on the published curves of the rectified law?

    launch/local.sh benchmark_rectified --data=../shared/data/rectified_scaling --workdir=runs/rectified

The tables are those of *Selecting Large Language Model to Fine-tune via Rectified Scaling Law* (arXiv 2402.02314): the
test loss of 30 models after 200 ... 1,638,400 examples of FLAN, WMT19 and Gigaword, published under Apache-2.0 in
linhaowei1/Fine-tuning-Scaling-Law. metaft does not ship them; a table that is missing is named and left out.

    fit         mean log-RMSD over the whole range, by form, beside the published one (least squares on the log loss)
    largest     the four largest sizes predicted from the smaller ones: log-RMSD, coverage of 95 % intervals
    shares      the same from 1/4, 1/16, 1/64 of the data, at the sizes above
    selection   from 1/8 of the data: Pearson correlation of predicted and true final loss over the models

A *tail* is the power law without irreducible loss on the last K sizes seen: the rectified law's own power phase, which
begins where D^beta outgrows D_l. About ten CPU-minutes.
"""

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import program
from experiments.program import setting
from metaft.errors import DataError, InputError

if typing.TYPE_CHECKING:
    from metaft.scaling.fitting import Fit
    from metaft.scaling.points import Points

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / 'third_party' / 'rectified_law_targets.json'
LAWS = {  # name: form, with irreducible loss
    'rectified': ('rectified', True),
    'rectified without E': ('rectified', False),
    'power': ('power', True),
    'power without E': ('power', False),
}
TAILS = (3, 4, 5, 6)  # at least one size more than the power law has constants
LARGEST, SHARES, SELECTION_SHARE = 4, (4, 16, 64), 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `benchmark_rectified`."""

    data: Path = setting(ROOT.parent / 'shared' / 'data' / 'rectified_scaling', 'directory of the published tables')
    workdir: Path = setting(Path('runs/benchmark_rectified'), 'where results go')
    num_draws: int = setting(200, 'bootstrap resamples, for the coverage')
    models: int = setting(0, 'models of each table, the first ones; all if 0')
    seed: int = setting(0, 'of the bootstrap')

    def __post_init__(self):
        if self.num_draws < 20:
            raise InputError(f'--num_draws is {self.num_draws}; 95 % intervals need 20 or more')
        if self.models < 0 or self.models == 1:
            raise InputError(f'--models is {self.models}; a correlation needs 2 or more, 0 takes all')


def main(settings: Settings) -> None:
    """Reads the tables that are there, measures, writes."""
    from metaft.scaling import tables

    published = json.loads(PUBLISHED.read_text())
    paths = {name: settings.data / f'{name.lower()}.csv' for name in published['mean_log_rmsd']}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if len(missing) == len(paths):
        raise DataError(
            f'{settings.data} holds none of {", ".join(p.name for p in paths.values())}; metaft does not ship these '
            f'tables, give --data the directory of the copies from linhaowei1/Fine-tuning-Scaling-Law'
        )
    workdir = program.prepare_workdir(settings.workdir, settings, ('num_draws', 'models', 'seed'))
    results: dict[str, Any] = {'missing': missing, 'datasets': {}, 'versions': program.versions()}
    for name in missing:
        print(f'{paths[name]} is missing, so {name} is left out')
    for name in [name for name in paths if name not in missing]:
        groups, left_out = tables.read(paths[name], tables.Columns())
        groups = dict(list(groups.items())[: settings.models or None])
        print(f'{name}: {len(groups)} models; {left_out.size_zero} losses without finetuning are left out', flush=True)
        found = benchmark(list(groups.values()), settings)
        found['published_fit'] = published['mean_log_rmsd'][name]
        found['published_selection'] = published['model_selection_pearson_from_one_eighth'][name]
        found['left_out'] = dataclasses.asdict(left_out)
        results['datasets'][name] = found
        report(name, found)
    program.write_json(workdir / 'results.json', results)
    print(f'written: {workdir}/results.json')


def benchmark(groups: list['Points'], settings: Settings) -> dict[str, Any]:
    """Returns the four parts for one table."""
    from metaft.scaling import points as points_lib

    whole = {law: [fit.fit_log_rmsd for fit in (fit_law(law, g) for g in groups)] for law in LAWS}
    largest = {
        law: extrapolation(law, groups, lambda g: points_lib.split_largest(g, LARGEST), settings) for law in LAWS
    }
    return {
        'models': len(groups),
        'fit': {law: float(np.mean(values)) for law, values in whole.items()},
        'largest': largest,
        'shares': {
            share: {law: extrapolation(law, groups, beginning(share)) for law in [*LAWS, f'tail of {TAILS[0]}']}
            for share in SHARES
        },
        'selection': {
            law: extrapolation(law, groups, beginning(SELECTION_SHARE))['pearson']
            for law in [*LAWS, *(f'tail of {num}' for num in TAILS)]
        },
    }


def beginning(share: int) -> Callable[['Points'], tuple['Points', 'Points']]:
    """Returns the function that splits points into those up to 1/share of the largest data size, and the rest."""

    def split(points: 'Points') -> tuple['Points', 'Points']:
        seen_I = points.data_size_I <= points.data_size_I.max() / share
        return points.where(seen_I), points.where(~seen_I)

    return split


def fit_law(law: str, points: 'Points', **options) -> 'Fit':
    """Fits a law of `LAWS`, or the tail of a number of sizes; no intervals unless asked for."""
    from metaft.scaling import fitting
    from metaft.scaling.laws import Law

    if law.startswith('tail of '):
        sizes = np.unique(points.data_size_I)[-int(law.removeprefix('tail of ')) :]
        return fitting.fit(Law('power', (), False), points.where(np.isin(points.data_size_I, sizes)), num_draws=0)
    form, irreducible = LAWS[law]
    return fitting.fit(Law(form, (), irreducible), points, **{'num_draws': 0, **options})


def extrapolation(
    law: str,
    groups: list['Points'],
    split: Callable[['Points'], tuple['Points', 'Points']],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Returns errors at the points kept out, means over models; with settings, the coverage of 95 % intervals too."""
    from metaft.scaling import fitting

    errors, at_largest, covered = [], [], []
    for group in groups:
        seen, rest = split(group)
        options = {} if settings is None else {'num_draws': settings.num_draws, 'seed': settings.seed}
        fit = fit_law(law, seen, **options)
        errors.append(fitting.log_rmsd(fit, rest))
        last = rest.where(np.array([int(np.argmax(rest.data_size_I))]))
        at_largest.append((float(fitting.predict(fit, last)[0]), float(last.loss_I[0])))
        if settings is not None:
            draws_UI = fitting.predict_draws(fit, rest, seed=settings.seed)
            low_I, high_I = np.percentile(draws_UI, [2.5, 97.5], axis=0)
            covered.append(np.mean((low_I <= rest.loss_I) & (rest.loss_I <= high_I)))
    predicted, true = np.array(at_largest).T
    return {
        'log_rmsd': float(np.mean(errors)),
        'log_rmsd_by_model': errors,
        'log_rmsd_at_largest': float(np.sqrt(np.mean(np.log(predicted / true) ** 2))),
        'pearson': float(np.corrcoef(predicted, true)[0, 1]),
        'coverage': float(np.mean(covered)) if covered else None,
    }


def report(name: str, found: dict[str, Any]) -> None:
    """Prints one table's results as Markdown."""
    of = found['published_fit']
    published = {'rectified': f' ({of["rectified"]:.4f})', 'power': f' ({of["vanilla"]:.4f})'}
    head = ('law', 'whole range (published)', f'{LARGEST} largest sizes', 'its coverage',
            *(f'from 1/{share}' for share in SHARES), f'Pearson from 1/{SELECTION_SHARE}')  # fmt: skip
    lines = [head, ('---',) * len(head)]
    for law, pearson in found['selection'].items():
        whole, largest = found['fit'].get(law), found['largest'].get(law)
        shares = [found['shares'][share].get(law) for share in SHARES]
        lines.append(
            (
                law,
                '' if whole is None else f'{whole:.4f}{published.get(law, "")}',
                '' if largest is None else f'{largest["log_rmsd"]:.4f}',
                '' if largest is None else f'{largest["coverage"]:.2f}',
                *('' if one is None else f'{one["log_rmsd"]:.4f}' for one in shares),
                f'{pearson:.4f}',
            )
        )
    print(f'\n{name}, mean log-RMSD over {found["models"]} models')
    print('\n'.join(f'| {" | ".join(line)} |' for line in lines))
    print(f'published selection: {found["published_selection"]:.3f}\n', flush=True)


if __name__ == '__main__':
    program.run(main, Settings)
