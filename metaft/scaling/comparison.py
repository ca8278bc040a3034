"""Every form fitted to every group, and what is said of them: errors in and outside of the fit, constants, refusals."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from metaft.scaling import fitting, identification, laws, points, series
from metaft.scaling.fitting import Fit
from metaft.scaling.laws import Law
from metaft.scaling.points import Points


@dataclasses.dataclass(frozen=True)
class FormFits:
    """One form, with or without irreducible loss, on all groups.

    Attributes:
      fits: by group.
      held_out: by fitted group, the points kept out, as the form sees them; may be empty.
      refused: by group, why there is no fit.
      constant_factors: by group, factors that its law leaves out since they have one value there (full tuning has no
        adapter size).
    """

    fits: Mapping[str, Fit]
    held_out: Mapping[str, Points]
    refused: Mapping[str, str]
    constant_factors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def errors(self) -> dict[str, dict[str, float]]:
        """Returns by group `fit_log_rmsd`, `heldout_log_rmsd` (NaN: nothing was kept out), `aicc` and `points`."""
        return {
            group: {
                'fit_log_rmsd': fit.fit_log_rmsd,
                'heldout_log_rmsd': fitting.log_rmsd(fit, self.held_out[group]),
                'aicc': fit.aicc,
                'points': len(fit.points),
            }
            for group, fit in self.fits.items()
        }


def fit_form(
    form: str,
    irreducible: bool,
    groups: Mapping[str, Points],
    heldout_largest: int = 0,
    unshared: tuple[str, ...] = (),
    **options,
) -> FormFits:
    """Fits a form to every group that carries it.

    Args:
      form: a name of `laws.FORMS`.
      irreducible: with the term E or without.
      groups: by name.
      heldout_largest: data sizes of each group to keep out of the fit, the largest.
      unshared: factors that take no part in beta and E (see `series`).
      **options: of `fitting.fit`.
    """
    fits, held_out, refused, constant = {}, {}, {}, {}
    for name, group in groups.items():
        kept, rest = points.split_largest(group, heldout_largest)
        if form not in laws.WITHOUT_FACTORS:
            varied = [factor for factor, values in zip(group.factors, kept.factors_IX.T) if len(np.unique(values)) > 1]
            if 0 < len(varied) < len(group.factors):
                constant[name] = tuple(factor for factor in group.factors if factor not in varied)
                kept, rest = kept.only(varied), rest.only(varied)
        law = Law(form, () if form in laws.WITHOUT_FACTORS else kept.factors, irreducible)
        as_seen = (
            (lambda part: series.of_factors(part, part.factors)) if form in laws.BY_SERIES else (lambda part: part)
        )
        alone = tuple(factor for factor in unshared if factor in kept.factors)
        if reason := identification.refusal(law, as_seen(kept)):
            refused[name] = reason
            continue
        fits[name] = (
            series.fit(law, kept, alone, **options) if form in laws.BY_SERIES else fitting.fit(law, kept, **options)
        )
        held_out[name] = as_seen(rest) if len(rest) else rest
    return FormFits(fits, held_out, refused, constant)


def describe(with_e: FormFits, without_e: FormFits) -> dict[str, Any]:
    """Returns all that is said of a form, ready for JSON: means over groups, and the constants of each group.

    A constant that the data leave open is None in `constants`; `intervals` and `not_identified` say what fits alike.
    """
    open_of = {group: identification.open_constants(fit) for group, fit in with_e.fits.items()}
    return {
        **_means(with_e),
        'groups_fitted': len(with_e.fits),
        'constants': {
            group: {name: None if name in open_of[group] else value for name, value in constants(fit).items()}
            for group, fit in with_e.fits.items()
        },
        'intervals': {group: identification.intervals(fit) for group, fit in with_e.fits.items()},
        'not_identified': {group: found for group, found in open_of.items() if found},
        'refused': dict(with_e.refused),
        'constant_factors': dict(with_e.constant_factors),
        'by_group': with_e.errors(),
        'without_irreducible': {
            **_means(without_e),
            'constants': {group: constants(fit) for group, fit in without_e.fits.items()},
            'refused': dict(without_e.refused),
            'by_group': without_e.errors(),
        },
    }


def constants(fit: Fit) -> dict[str, float]:
    """Returns the constants of a fit by name, in the units of the data."""
    values = laws.constants(fit.law, fit.theta_J[None], fit.centre)[0]
    return dict(zip(fit.law.names, values.tolist()))


def best(described: Mapping[str, Mapping[str, Any]], key: str) -> str | None:
    """Returns the form with the lowest mean `key`; None where no two forms speak of the same groups and points."""
    seen = {form: {group: e['points'] for group, e in said['by_group'].items()} for form, said in described.items()}
    comparable = [form for form in described if seen[form] and math.isfinite(described[form][key] or math.nan)]
    if key == 'aicc' or any(set(seen[form]) != set(seen[comparable[0]]) for form in comparable):
        comparable = [form for form in comparable if seen[form] == seen[comparable[0]]]
    return min(comparable, key=lambda form: described[form][key]) if comparable else None


def _means(form: FormFits) -> dict[str, float]:
    errors = form.errors().values()
    keys = ('fit_log_rmsd', 'heldout_log_rmsd', 'aicc')
    return {key: float(np.mean([e[key] for e in errors])) if errors else math.nan for key in keys}
