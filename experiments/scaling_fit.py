"""Which scaling law do these losses follow, with which constants, and how well does it extrapolate?

    launch/local.sh scaling_fit --table=losses.csv --workdir=runs/laws --heldout_largest=2

Reads a tidy table (a row a measurement; CSV or Parquet; --loss_column, --data_size_column, --factor_columns,
--group_column) or a wide one (columns named by data sizes, one law a row), fits every form that applies to every
group, with and without irreducible loss, and compares them by their error at the data sizes kept out and by AICc.
Thirty groups take about a minute on two cores.

Leaves in the working directory `results.json` (errors by form, constants with 95 % intervals, what is not identified
or was refused, what was left out), `laws.json` (the fits with their draws, for `scaling_advise`), `curves.png` (the
best form, held-out points as crosses) and `residuals.png`.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from experiments import program
from experiments.program import setting
from metaft.errors import DataError, InputError
from metaft.report import law_plots
from metaft.scaling import archive, comparison, fitting, laws, tables
from metaft.scaling.comparison import FormFits


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_fit`."""

    table: Path = setting(program.REQUIRED, 'CSV or Parquet file with the losses')
    workdir: Path = setting(Path('runs/scaling_fit'), 'where results go')
    loss_column: str = setting('loss', 'column of the loss, of a tidy table')
    data_size_column: str = setting('data_size', 'column of the number of finetuning examples, of a tidy table')
    factor_columns: tuple[str, ...] = setting((), 'columns of other sizes, such as model_size,pretraining_tokens')
    unshared_factors: tuple[str, ...] = setting((), 'factor columns whose runs take no part in fitting beta and E')
    group_column: str | None = setting(None, 'column that tells laws apart; of a wide table its first column of text')
    heldout_largest: int = setting(0, 'number of largest data sizes of each group to keep out of the fit')
    forms: tuple[str, ...] = setting((), 'laws to fit; all that apply if empty', choices=laws.FORMS)
    objective: str = setting('least_squares', 'what is minimised, on the log loss', choices=fitting.OBJECTIVES)
    num_draws: int = setting(200, 'bootstrap resamples for the intervals')
    seed: int = setting(0, 'seed of the bootstrap')
    allow_mixed_units: bool = setting(False, 'accept sizes that look like thousands among ones')

    def __post_init__(self):
        if self.heldout_largest < 0:
            raise InputError(f'--heldout_largest is {self.heldout_largest}; it must be 0 or more')
        if self.num_draws < 20:
            raise InputError(f'--num_draws is {self.num_draws}; 95 % intervals need 20 or more')
        strangers = set(self.unshared_factors) - set(self.factor_columns)
        if strangers:
            raise InputError(f'--unshared_factors names {", ".join(sorted(strangers))}, not among --factor_columns')


def main(settings: Settings) -> None:
    """Reads, fits, compares, writes."""
    columns = tables.Columns(
        settings.loss_column, settings.data_size_column, settings.factor_columns, settings.group_column
    )
    groups, left_out = tables.read(settings.table, columns, settings.allow_mixed_units)
    wanted = wanted_forms(settings, next(iter(groups.values())).factors)
    identity = [field.name for field in dataclasses.fields(Settings) if field.name not in ('table', 'workdir')]
    digest = hashlib.sha256(settings.table.read_bytes()).hexdigest()
    workdir = program.prepare_workdir(settings.workdir, settings, identity, {'table': digest})
    if (workdir / 'results.json').exists():
        print(f'nothing to do: {workdir / "results.json"} is of this table and these settings')
        return

    options: dict[str, Any] = {
        'heldout_largest': settings.heldout_largest,
        'unshared': settings.unshared_factors,
        'objective': settings.objective,
        'num_draws': settings.num_draws,
        'seed': settings.seed,
    }
    forms: dict[str, tuple[FormFits, FormFits]] = {}
    for form in wanted:
        print(f'fitting the {form} law to {len(groups)} groups', flush=True)
        with_e, without_e = (comparison.fit_form(form, irreducible, groups, **options) for irreducible in (True, False))
        forms[form] = with_e, without_e
    if not any(variant.fits for variants in forms.values() for variant in variants):
        group, reason = next(iter(next(iter(forms.values()))[1].refused.items()))
        raise DataError(f'{settings.table}: no law can be fitted to any of {len(groups)} groups; {group}: {reason}')

    described = {form: comparison.describe(*variants) for form, variants in forms.items()}
    keys = ('fit_log_rmsd', 'heldout_log_rmsd', 'aicc')
    results: dict[str, Any] = {
        'groups': len(groups),
        'points': sum(map(len, groups.values())),
        'left_out': dataclasses.asdict(left_out),
        'forms': described,
        'best': {key: comparison.best(described, key) for key in keys},
        'objective': settings.objective,
        'seed': settings.seed,
        'versions': program.versions(),
    }
    program.write_json(workdir / 'laws.json', [archive.to_record(*item) for item in all_fits(forms)])
    draw(forms, results['best']['heldout_log_rmsd'] or results['best']['aicc'], workdir)
    program.write_json(workdir / 'results.json', results)
    report(results, workdir)


def wanted_forms(settings: Settings, factors: tuple[str, ...]) -> list[str]:
    """Returns the forms to fit; InputError where those that were asked for need other factors."""
    applicable = laws.applicable(factors)
    wanted = [form for form in applicable if not settings.forms or form in settings.forms]
    if not wanted:
        found = f'factors {", ".join(factors)}' if factors else 'no --factor_columns'
        raise InputError(f'--forms is {",".join(settings.forms)}; with {found} there are {", ".join(applicable)}')
    return wanted


def all_fits(forms: dict[str, tuple[FormFits, FormFits]]):
    """Yields (group, fit) of every form and variant."""
    for variants in forms.values():
        for variant in variants:
            yield from variant.fits.items()


def draw(forms: dict[str, tuple[FormFits, FormFits]], best: str | None, workdir: Path) -> None:
    """Plots the best form's curves, and the residuals of all."""
    shown = {form: variants[0] for form, variants in forms.items() if variants[0].fits}
    if best in shown:
        law_plots.plot_curves(shown[best].fits, shown[best].held_out, workdir / 'curves.png')
    if shown:
        law_plots.plot_residuals({form: variant.fits for form, variant in shown.items()}, workdir / 'residuals.png')


def report(results: dict[str, Any], workdir: Path) -> None:
    """Prints what results.json holds, form by form."""
    left_out = results['left_out']
    print(f'{results["groups"]} groups, {results["points"]} points', end='; ')
    print(f'left out: {left_out["size_zero"]} of size 0, {left_out["empty_cells"]} empty cells', end='')
    print(f', columns {", ".join(left_out["columns"])}' if left_out['columns'] else '')
    print(
        f'{"mean over groups":<26}{"fit log-RMSD":>14}{"held-out":>12}{"AICc":>10}{"fitted":>8}{"open constants":>16}'
    )
    for form, said in results['forms'].items():
        for name, part in ((form, said), ('  without E', said['without_irreducible'])):
            opened = sum(map(len, said['not_identified'].values())) if name == form else ''
            print(
                f'{name:<26}{part["fit_log_rmsd"]:>14.5f}{part["heldout_log_rmsd"]:>12.5f}{part["aicc"]:>10.1f}'
                f'{len(part["by_group"]):>8}{opened:>16}'
            )
        for group, reason in list(said['refused'].items())[:3]:
            print(f'    refused {group}: {reason}')
        for group, names in list(said['constant_factors'].items())[:3]:
            print(f'    {group}: {", ".join(names)} has one value, so its law leaves it out')
    print(f'best: {", ".join(f"{form} by {key}" for key, form in results["best"].items() if form)}')
    print(f'written: {workdir}/results.json, laws.json, curves.png, residuals.png')


if __name__ == '__main__':
    program.run(main, Settings)
