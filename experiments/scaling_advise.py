"""With so many examples: which method, at which size, what loss to expect, what would more of either buy?

    launch/local.sh scaling_advise --fit=runs/laws --examples=5000

Reads the laws that `scaling_fit` left in --fit, one a group (a method, or a model), and answers from the form that
extrapolates best: the expected loss of every group at every size with its interval, what twice the data or the next
size would buy and cost, where one group overtakes another at every value of every factor, and what all that rests on.
Takes seconds.

Leaves `advice-EXAMPLES.json` and `advice-EXAMPLES.md` in --workdir, by default beside the fit.
"""

import dataclasses
import fnmatch
import json
import math
import typing
from pathlib import Path

from experiments import program
from experiments.program import setting
from metaft.errors import DataError, InputError

if typing.TYPE_CHECKING:
    from metaft.scaling.fitting import Fit


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_advise`."""

    fit: Path = setting(program.REQUIRED, 'workdir of scaling_fit')
    examples: float = setting(program.REQUIRED, 'finetuning examples at hand')
    groups: tuple[str, ...] = setting((), 'groups to choose among, * and ? allowed; all if empty')
    size_factor: str | None = setting(None, 'factor that is the size of the model, and so its cost; the first if empty')
    form: str | None = setting(None, 'law to answer from; the one that scaling_fit found best if empty')
    workdir: Path | None = setting(None, 'where the answer goes; beside the fit if empty')

    def __post_init__(self):
        if not (math.isfinite(self.examples) and self.examples > 0):
            raise InputError(f'--examples is {self.examples:g}; it must be a positive number')


def main(settings: Settings) -> None:
    """Reads the laws, answers, writes."""
    from metaft.report import scaling_text
    from metaft.scaling.advice import advise

    fits = read_laws(settings.fit, settings.form, settings.groups)
    advice = advise(fits, settings.examples, size_factor(fits, settings.size_factor))
    text = scaling_text.markdown(advice)
    workdir = settings.workdir or settings.fit
    if settings.workdir is not None:
        program.prepare_workdir(workdir, settings, ('fit', 'groups', 'size_factor', 'form'))
    stem = f'advice-{settings.examples:.0f}'
    record = dataclasses.asdict(advice) | {'fit': str(settings.fit), 'versions': program.versions()}
    program.write_json(workdir / f'{stem}.json', record)
    program.write_text(workdir / f'{stem}.md', text)
    print(text)
    print(f'written: {workdir / stem}.json and .md')


def sentences(directory: Path, examples: int) -> list[str]:
    """Returns the answer for another program's report, with what it rests on."""
    from metaft.report import scaling_text
    from metaft.scaling.advice import advise

    fits = read_laws(directory)
    advice = advise(fits, examples, size_factor(fits, None))
    points = sum(basis.points for basis in advice.basis.values())
    return [
        f'By the laws of {directory} ({len(fits)} groups, {points} points; fitted to their own measurements, not to '
        f'this task), with {examples:,} training examples:',
        *scaling_text.sentences(advice),
    ]


def carried(directory: Path, method: str, examples: int, size: float, loss: float, source: str) -> list[str]:
    """Returns what twice the examples or twice the model are expected to bring on a task without laws of its own."""
    from metaft.report import scaling_text
    from metaft.scaling.carrying import carry

    return scaling_text.carried_sentences(carry(read_laws(directory), method, examples, size), loss, source)


def read_laws(directory: Path, form: str | None = None, patterns: tuple[str, ...] = ()) -> dict[str, 'Fit']:
    """Returns the fit of every wanted group, of one form; without irreducible loss where there is no other.

    Raises:
      DataError: no laws there, or none of this form.
      InputError: a pattern that no group matches.
    """
    from metaft.scaling import archive

    everything = archive.read(directory)
    found_forms = list(dict.fromkeys(fit.law.form for _, fit in everything))
    form = form or best_form(directory)
    if form not in found_forms:
        raise DataError(f'{directory} holds no {form} law; found are {", ".join(found_forms) or "none"}')
    fits: dict[str, Fit] = {}
    for group, fit in sorted(((g, f) for g, f in everything if f.law.form == form), key=lambda p: p[1].law.irreducible):
        fits[group] = fit  # the one with the term comes last
    order = [group for group in dict.fromkeys(group for group, _ in everything) if group in fits]
    for pattern in patterns:
        if not fnmatch.filter(order, pattern):
            raise InputError(f'--groups names {pattern!r}, which no group matches; found are {", ".join(order)}')
    wanted = [g for g in order if not patterns or any(fnmatch.fnmatchcase(g, pattern) for pattern in patterns)]
    return {group: fits[group] for group in wanted}


def best_form(directory: Path) -> str:
    """Returns the form with the lowest held-out error, or by AICc where nothing was held out."""
    path = directory / 'results.json'
    try:
        best = json.loads(path.read_text())['best']
    except (OSError, ValueError, KeyError):
        raise DataError(f'{path} does not say which form is best; give --form, or run scaling_fit again') from None
    form = best.get('heldout_log_rmsd') or best.get('aicc')
    if form is None:
        raise DataError(f'{path} names no best form, since no two speak of the same groups; give --form')
    return form


def size_factor(fits: dict[str, 'Fit'], asked: str | None) -> str | None:
    """Returns the factor that is the size; InputError where the laws do not speak of the one that was asked for."""
    factors = list(dict.fromkeys(name for fit in fits.values() for name in fit.law.factors))
    if asked is not None and asked not in factors:
        raise InputError(f'--size_factor is {asked!r}; the factors of the laws are {", ".join(factors) or "none"}')
    return asked or next(iter(factors), None)


if __name__ == '__main__':
    program.run(main, Settings)
