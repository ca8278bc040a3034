"""What fitted laws say at a number of examples: which method, at which size, what more would buy, where methods cross.

Costs are relative. Training takes FLOPs in proportion to parameters times examples seen; of the three passes (forward,
back through activations, back through weights) LoRA and prompt tuning leave out the last, but for their few weights.
The number of passes over the data is taken to be the same everywhere.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from metaft.scaling import crossovers, fitting, identification
from metaft.scaling.crossovers import Crossover, points_at
from metaft.scaling.fitting import Fit

PASSES = {'full': 3.0, 'lora': 2.0, 'prompt': 2.0}  # by a word of the group's name; another group counts full's
_MOST_CROSSING = 4  # groups, the best ones, whose pairs are searched for crossovers
_BEYOND = 1.001  # a size this much outside of the measured range is extrapolated


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Step:
    """What more of something would buy: the change of the loss (negative is better), and times the cost."""

    to: float
    change: Interval
    cost_ratio: float
    extrapolated: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Option:
    """One group (a method) at one size.

    Attributes:
      group: its name.
      size: value of the size factor; None where the group's law has none.
      loss: expected of a new measurement, its noise included in the interval.
      cost: relative to the cheapest option; NaN where only other groups say at which size they are.
      best_probability: share of draws of all laws in which this option has the lowest loss.
      twice_the_data, next_size: what these would buy; no next size without a size.
      extrapolated: in words, what lies outside of the measured range.
    """

    group: str
    size: float | None
    loss: Interval
    cost: float
    best_probability: float
    twice_the_data: Step
    next_size: Step | None
    extrapolated: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Basis:
    """What the law of a group rests on: `ranges` by size (lowest, highest, how many), constants left open, noise."""

    form: str
    irreducible: bool
    points: int
    measurements: int
    ranges: Mapping[str, tuple[float, float, int]]
    log_rmsd: float
    noise: float
    not_identified: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where two groups cross, at one value of one factor; `extrapolated` where that is outside of what was measured."""

    first: str
    second: str
    factor: str | None
    value: float | None
    found: Crossover
    extrapolated: bool


@dataclasses.dataclass(frozen=True)
class Advice:
    """The answer; `choice` has the lowest expected loss, `cheapest_alike` costs least of those not clearly worse."""

    examples: float
    size_factor: str | None
    options: Sequence[Option]
    choice: Option
    cheapest_alike: Option
    crossings: Sequence[Crossing]
    crossing_range: tuple[float, float]
    pairs_left_out: int
    basis: Mapping[str, Basis]


def advise(fits: Mapping[str, Fit], examples: float, size_factor: str | None = None) -> Advice:
    """Answers for a number of examples.

    Args:
      fits: one law a group.
      examples: finetuning examples at hand.
      size_factor: the factor that is the model's size and so its cost; None where there is none.
    """
    sizes = {group: _values(fit, size_factor) for group, fit in fits.items()}
    all_sizes = sorted({size for known in sizes.values() for size in known if size is not None})
    pairs = [(group, size) for group, known in sizes.items() for size in known]
    draws = [_draws(fits[group], examples, size_factor, size) for group, size in pairs]
    num = min(map(len, draws))
    wins = np.bincount(np.argmin([d[:num] for d in draws], axis=0), minlength=len(pairs)) / num
    cheapest = min(_cost(group, size, examples) for group, size in pairs if size is not None or not all_sizes)
    options = [
        _option(fits[group], group, size, examples, size_factor, all_sizes, float(win), cheapest)
        for (group, size), win in zip(pairs, wins)
    ]
    best = int(np.argmin([option.loss.value for option in options]))
    alike = [option for option, own in zip(options, draws) if not _is_worse(own[:num], draws[best][:num])]
    lowest = min(float(fit.points.data_size_I.min()) for fit in fits.values())
    highest = max(float(fit.points.data_size_I.max()) for fit in fits.values())
    within = min(lowest, examples), max(highest, examples)
    ranked = sorted(fits, key=lambda group: min(o.loss.value for o in options if o.group == group))
    shown = list(itertools.combinations(sorted(ranked[:_MOST_CROSSING], key=list(fits).index), 2))
    return Advice(
        examples=examples,
        size_factor=size_factor,
        options=options,
        choice=options[best],
        cheapest_alike=min(alike or [options[best]], key=lambda o: (np.nan_to_num(o.cost, nan=np.inf), o.loss.value)),
        crossings=[c for one, two in shown for c in _crossings(fits, one, two, within)],
        crossing_range=within,
        pairs_left_out=len(fits) * (len(fits) - 1) // 2 - len(shown),
        basis={group: _basis(fit) for group, fit in fits.items()},
    )


def usual_sizes(fit: Fit) -> dict[str, float]:
    """Returns for each factor of a fit's points its value of most rows: what it is while another one is varied."""
    found = {}
    for number, name in enumerate(fit.points.factors):
        others_I = fit.points.member_IX[:, number] == 0  # rows of other factors' series hold it at its usual value
        column_I = fit.points.factors_IX[others_I if others_I.any() else slice(None), number]
        distinct, counts = np.unique(column_I, return_counts=True)
        found[name] = float(distinct[np.argmax(counts)])
    return found


def _values(fit: Fit, factor: str | None) -> list[float | None]:
    if factor not in fit.law.factors:
        return [None]
    return [float(value) for value in np.unique(fit.points.factors_IX[:, fit.points.factors.index(factor)])]


def _at(fit: Fit, examples: float, factor: str | None, value: float | None):
    sizes = usual_sizes(fit) | ({factor: value} if factor is not None and value is not None else {})
    return points_at(fit, np.array([float(examples)]), sizes, factor)


def _draws(fit: Fit, examples: float, factor: str | None, value: float | None) -> np.ndarray:
    return fitting.predict_draws(fit, _at(fit, examples, factor, value))[:, 0]


def _cost(group: str, size: float | None, examples: float) -> float:
    words = re.split(r'[^a-z]+', group.lower())
    return next((PASSES[word] for word in words if word in PASSES), PASSES['full']) * (size or 1.0) * examples


def _is_worse(draws_U: np.ndarray, best_U: np.ndarray) -> bool:
    """Returns whether the 95 % interval of the difference to the best option excludes none."""
    return bool(np.percentile(draws_U - best_U, 2.5) > 0)


def _option(fit, group, size, examples, factor, all_sizes, win, cheapest) -> Option:
    at = _at(fit, examples, factor, size)
    low, high = np.percentile(fitting.predict_draws(fit, at, seed=0)[:, 0], [2.5, 97.5])
    cost = _cost(group, size, examples) if size is not None or not all_sizes else math.nan
    after = next((other for other in all_sizes if size is not None and other > size * _BEYOND), None)
    if size is not None and after is None:
        after = 2 * size
    return Option(
        group=group,
        size=size,
        loss=Interval(float(fitting.predict(fit, at)[0]), float(low), float(high)),
        cost=cost / cheapest,
        best_probability=win,
        twice_the_data=_step(fit, group, (examples, size), (2 * examples, size), factor, 2 * examples),
        next_size=None if after is None else _step(fit, group, (examples, size), (examples, after), factor, after),
        extrapolated=_outside(fit, examples, factor, size),
    )


def _step(fit, group, here, there, factor, to) -> Step:
    (at, draws), (at_there, draws_there) = (
        (float(fitting.predict(fit, _at(fit, examples, factor, size))[0]), _draws(fit, examples, factor, size))
        for examples, size in (here, there)
    )
    low, high = np.percentile(draws_there - draws, [2.5, 97.5])
    ratio = _cost(group, there[1], there[0]) / _cost(group, here[1], here[0])
    change = Interval(at_there - at, float(low), float(high))
    return Step(float(to), change, ratio, _outside(fit, there[0], factor, there[1]))


def _outside(fit: Fit, examples: float, factor: str | None, value: float | None) -> tuple[str, ...]:
    asked = [('examples', examples, fit.points.data_size_I)]
    if value is not None:
        asked.append((factor, value, fit.points.factors_IX[:, fit.points.factors.index(factor)]))
    found = []
    for name, size, measured_I in asked:
        low, high = float(measured_I.min()), float(measured_I.max())
        if size > high * _BEYOND:
            found.append(f'{size:,.4g} {name} is {size / high:.3g} times the largest measured, {high:,.4g}')
        elif size < low / _BEYOND:
            found.append(f'{size:,.4g} {name} is {size / low:.2g} of the smallest measured, {low:,.4g}')
    return tuple(found)


def _crossings(fits: Mapping[str, Fit], one: str, two: str, within: tuple[float, float]) -> list[Crossing]:
    """Returns the crossing of two groups at every measured value of every factor, the others at their usual values."""
    first, second = fits[one], fits[two]
    names = list(dict.fromkeys([*first.law.factors, *second.law.factors]))
    places: list[tuple[str | None, float | None]] = [
        (name, value)
        for name in names
        for value in sorted({v for fit in (first, second) for v in _values(fit, name) if v is not None})
    ]
    overlap = (
        max(first.points.data_size_I.min(), second.points.data_size_I.min()),
        min(first.points.data_size_I.max(), second.points.data_size_I.max()),
    )
    found = []
    for name, value in places or [(None, None)]:
        sizes = usual_sizes(second) | usual_sizes(first) | ({} if name is None else {name: value})
        crossing = crossovers.crossover(first, second, sizes, *within, along=name)
        at = crossing.data_size
        outside = at is not None and not overlap[0] <= at <= overlap[1]
        found.append(Crossing(one, two, name, value, crossing, outside))
    return found


def _basis(fit: Fit) -> Basis:
    measured = {'examples': fit.points.data_size_I} | dict(zip(fit.points.factors, fit.points.factors_IX.T))
    is_first_I = np.unique(np.column_stack(list(measured.values())), axis=0, return_index=True)[1]  # not once a series
    return Basis(
        form=fit.law.form,
        irreducible=fit.law.irreducible,
        points=len(is_first_I),
        measurements=int(fit.points.repeats_I[is_first_I].sum()),
        ranges={name: (float(v.min()), float(v.max()), len(np.unique(v))) for name, v in measured.items()},
        log_rmsd=fit.fit_log_rmsd,
        noise=fit.noise,
        not_identified=identification.open_constants(fit),
    )
