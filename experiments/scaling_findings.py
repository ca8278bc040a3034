"""Which findings of arXiv 2402.17193 hold in a scaling study? Each one with its interval.

    launch/local.sh scaling_findings --table=runs/study/study.csv --fit=runs/study_laws --workdir=runs/study_findings

Reads the table of `scaling_study` and the laws that `scaling_fit` made of it, one a task and method, and asks: is the
multiplicative form better than the additive one; does the model's size help more than its pretraining, and does the
adapter's size help; which method gains most from data; which method wins at which data, model and pretraining size, by
the runs themselves and by the laws' crossovers; what does finetuning cost on other tasks; and, where the study tuned
learning rates at every size, what that changes. Takes seconds.

Leaves `findings.json`, `findings.md` and `methods.png` in --workdir.
"""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from experiments import program, scaling_advise
from experiments.program import setting
from metaft.errors import DataError
from metaft.scaling import laws

if typing.TYPE_CHECKING:
    import pandas as pd

    from metaft.scaling.crossovers import Crossover
    from metaft.scaling.findings import Winner
    from metaft.scaling.fitting import Fit
    from metaft.scaling.points import Points

EACH_SIZE = '/each_size'  # the end of the names of groups whose learning rates were tuned at every size
COLUMNS = ('group', 'task', 'method', 'model_size', 'pretraining_tokens', 'adapter_size', 'data_size', 'seed',
           'learning_rate', 'loss')  # fmt: skip
PAIRS = (('multiplicative', 'additive'), ('rectified_multiplicative', 'multiplicative'))
KEYS = {'heldout_log_rmsd': True, 'fit_log_rmsd': True, 'aicc': False}  # compared as ratios or as differences


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_findings`."""

    table: Path = setting(program.REQUIRED, 'study.csv of scaling_study')
    fit: Path = setting(program.REQUIRED, 'workdir of scaling_fit on that table')
    form: str = setting('multiplicative', 'law whose constants are read', choices=laws.BY_SERIES)
    workdir: Path = setting(Path('runs/scaling_findings'), 'where the findings go')


def main(settings: Settings) -> None:
    """Reads, compares, writes."""
    from metaft.report import findings_text, law_plots

    study = read_study(settings.table)
    fits = scaling_advise.read_laws(settings.fit, settings.form)
    strangers = sorted(set(fits) - set(study['group']))
    if strangers:
        raise DataError(f'{settings.fit} has laws of {", ".join(strangers)}, which {settings.table} does not have')
    results = json.loads((settings.fit / 'results.json').read_text())
    found = findings(study, fits, results['forms'])
    program.prepare_workdir(settings.workdir, settings, ('table', 'fit', 'form'))
    program.write_json(settings.workdir / 'findings.json', found | {'versions': program.versions()})
    text = findings_text.markdown(found)
    program.write_text(settings.workdir / 'findings.md', text)
    shown = {group: fit for group, fit in fits.items() if not group.endswith(EACH_SIZE)}
    tasks = by_task(study, shown)
    rest = {
        task: {method: held_out(study, task, method, fit) for method, fit in own.items()} for task, own in tasks.items()
    }
    law_plots.plot_methods(tasks, rest, settings.workdir / 'methods.png')
    print(text)
    print(f'written: {settings.workdir}/findings.json, findings.md, methods.png')


def read_study(path: Path) -> 'pd.DataFrame':
    """Returns the table; DataError where it is not one of `scaling_study`."""
    import pandas as pd

    try:
        study = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read as a table: {error}') from None
    missing = [name for name in COLUMNS if name not in study.columns]
    if missing:
        raise DataError(f'{path} has no column {", ".join(missing)}; give study.csv as scaling_study writes it')
    return study


def by_task(study: 'pd.DataFrame', fits: dict[str, 'Fit']) -> dict[str, dict[str, 'Fit']]:
    """Returns task -> method -> fit."""
    names = study.drop_duplicates('group').set_index('group')
    found: dict[str, dict[str, Fit]] = {}
    for group, fit in fits.items():
        found.setdefault(names['task'][group], {})[names['method'][group]] = fit
    return found


def held_out(study: 'pd.DataFrame', task: str, method: str, fit: 'Fit') -> 'Points':
    """Returns the means, by model size, of data sizes larger than those that a law was fitted to."""
    from metaft.scaling import points

    runs = study[(study['task'] == task) & (study['method'] == method) & ~study['group'].str.endswith(EACH_SIZE)]
    for name in ('pretraining_tokens', 'adapter_size'):
        runs = runs[runs[name] == most_common(runs[name])]
    runs = runs[runs['data_size'] > fit.points.data_size_I.max()]
    return points.make(runs['loss'], runs['data_size'], [runs['model_size']], ['model_size'])


def findings(study: 'pd.DataFrame', fits: dict[str, 'Fit'], forms: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that is found, by the name of its question."""
    from metaft.report.study_text import OTHERS
    from metaft.scaling import findings as of

    is_own = study['group'].str.endswith(EACH_SIZE)
    one_size, each_size = study[~is_own], study[is_own]
    shared = {group: fit for group, fit in fits.items() if not group.endswith(EACH_SIZE)}
    retuned = {group: fit for group, fit in fits.items() if group.endswith(EACH_SIZE)}
    tasks = by_task(study, shared)
    errors = {form: {g: said['by_group'][g] for g in shared if g in said['by_group']} for form, said in forms.items()}
    against = {
        (first, second): {
            key: of.compare_forms(errors[first], errors[second], key, as_ratio) for key, as_ratio in KEYS.items()
        }
        for first, second in PAIRS
        if first in errors and second in errors
    }
    found: dict[str, Any] = {
        'forms': {' / '.join(pair): compared for pair, compared in against.items()},
        'alpha': {name: of.exponents(shared, name) for name in ('model_size', 'pretraining_tokens', 'adapter_size')},
        'alpha_model_less_pretraining': of.exponent_differences(shared, 'model_size', 'pretraining_tokens'),
        'beta': {group: of.constant(fit, 'beta')[0] for group, fit in shared.items()},
        'beta_differences': {
            task: {f'{one} - {two}': gap for (one, two), gap in of.beta_differences(own).items()}
            for task, own in tasks.items()
        },
        'crossings': {},
        'winners': {},
        'others': {},
        'each_size': {group: of_each_size(one_size, each_size, group, fit) for group, fit in retuned.items()},
    }
    for task, own in tasks.items():
        for factor, other in (('model_size', 'pretraining_tokens'), ('pretraining_tokens', 'model_size')):
            place = f'{task}, by {factor}'
            found['winners'][place], found['crossings'][place] = methods_compared(one_size, task, own, factor, other)
    for task, own in by_task(study, retuned).items():
        place = f'{task}, by model_size, with a rate of each size'
        compared = methods_compared(each_size, task, own, 'model_size', 'pretraining_tokens')
        found['winners'][place], found['crossings'][place] = compared
    place = ('task', 'model_size', 'pretraining_tokens')
    last = one_size[one_size['pretraining_tokens'] == one_size['pretraining_tokens'].max()]
    for column in (name for name in OTHERS if name in study):
        found['others'][column] = of.changes(last, column, ('task', 'method', 'data_size'), place)
    return found


def methods_compared(
    study: 'pd.DataFrame', task: str, fits: dict[str, 'Fit'], factor: str, other: str
) -> tuple[list['Winner'], dict[str, dict[float, 'Crossover']]]:
    """Returns who wins at every value of a factor, by runs where the other one is as usual, and the laws' crossings."""
    from metaft.scaling import findings as of

    runs = study[(study['task'] == task) & (study['data_size'] > 0)]
    runs = runs[runs['adapter_size'] == runs.groupby('method')['adapter_size'].transform(most_common)]
    rows = runs[runs[other] == most_common(runs[other])]
    crossings = {
        f'{one} and {two}': of.crossings(fits[one], fits[two], factor)
        for one, two in (('full', 'lora'), ('full', 'prompt'), ('lora', 'prompt'))
        if one in fits and two in fits
    }
    return of.winners(rows, (factor, 'data_size')), crossings


def of_each_size(one_size: 'pd.DataFrame', each_size: 'pd.DataFrame', group: str, fit: 'Fit') -> dict[str, Any]:
    """Returns what a group's own rate at every model size changes: the rates, losses at each size, and the exponent.

    The exponent with one rate is of a law fitted to the same places, which are fewer than the group's without.
    """
    from metaft.scaling import findings as of
    from metaft.scaling import points, series

    own = each_size[(each_size['group'] == group) & (each_size['data_size'] > 0)]
    run = ['model_size', 'pretraining_tokens', 'adapter_size', 'data_size', 'seed']
    usual = group.removesuffix(EACH_SIZE)
    base = one_size[one_size['group'] == usual].merge(own[run], on=run)
    if base.empty:
        raise DataError(f'the table has {group} without the same runs of {usual}, which it is compared with')
    fitted = base[base['data_size'] <= fit.points.data_size_I.max()]
    factors = fit.law.factors
    data = points.make(fitted['loss'], fitted['data_size'], [fitted[name] for name in factors], factors)
    rates = own.groupby('model_size')['learning_rate'].first()
    return {
        'learning_rate': {float(size): rate for size, rate in rates.items()},
        'one_size_learning_rate': base['learning_rate'].iloc[0],
        'log_ratio': of.log_ratios(own, base, run, 'model_size'),
        'alpha_model_size': of.constant(fit, 'alpha', 'model_size')[0],
        'one_size_alpha_model_size': of.constant(series.fit(fit.law, data), 'alpha', 'model_size')[0],
    }


def most_common(column: 'pd.Series') -> float:
    """Returns the value of most rows: what a factor is while others are varied."""
    return column.mode()[0]


if __name__ == '__main__':
    program.run(main, Settings)
