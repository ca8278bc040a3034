"""What more data or a larger model is expected to bring on a task without laws of its own, carried over from others'.

Levels of the loss differ from task to task; what doubling something multiplies it by differs less. So the laws of every
measured task with the same method are asked for that factor, at the measured sizes nearest to those at hand, and what
they say together is the span from the lowest end of their intervals to the highest.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from metaft.scaling import fitting
from metaft.scaling.advice import Interval, usual_sizes
from metaft.scaling.crossovers import points_at
from metaft.scaling.fitting import Fit


@dataclasses.dataclass(frozen=True)
class Carried:
    """What doubling one thing multiplies the loss by.

    Attributes:
      what: 'examples' or the name of the size factor.
      by_group: the factor of each law, with its interval.
      span: geometric mean of the factors, the lowest end and the highest.
      away: by how much the size at hand is larger than the largest measured one (above 1), or smaller than the
        smallest (below 1); 1: within.
    """

    what: str
    by_group: Mapping[str, Interval]
    span: Interval
    away: float


def carry(
    fits: Mapping[str, Fit], method: str, examples: float, size: float, size_factor: str = 'model_size'
) -> list[Carried]:
    """Returns what twice the examples, and twice the size, are expected to multiply the loss by.

    Args:
      fits: laws of tasks and methods, whose group names hold the method as a word.
      method: of the run at hand; a variant ('lora_plus') goes by the word it begins with.
      examples: finetuning examples at hand.
      size: of the model at hand, in the laws' unit.
      size_factor: its name there.

    Returns:
      nothing where no law is of this method; no entry for the size where no law has it.
    """
    word = re.split(r'[^a-z]+', method.lower())[0]
    own = {group: fit for group, fit in fits.items() if word in re.split(r'[^a-z]+', group.lower())}
    sized = {group: fit for group, fit in own.items() if size_factor in fit.law.factors}
    found = []
    if own:
        measured = np.concatenate([fit.points.data_size_I for fit in own.values()])
        by_group = {group: _doubling(fit, examples, size, size_factor, (2.0, 1.0)) for group, fit in own.items()}
        found.append(Carried('examples', by_group, _span(by_group), _away(examples, measured)))
    if sized:
        measured = np.concatenate([_column(fit, size_factor) for fit in sized.values()])
        by_group = {group: _doubling(fit, examples, size, size_factor, (1.0, 2.0)) for group, fit in sized.items()}
        found.append(Carried(size_factor, by_group, _span(by_group), _away(size, measured)))
    return found


def _doubling(fit: Fit, examples: float, size: float, factor: str, times: tuple[float, float]) -> Interval:
    """Returns what so many times the examples and the size multiply the loss by, from the nearest measured place."""
    examples = float(np.clip(examples, fit.points.data_size_I.min(), fit.points.data_size_I.max()))
    sizes = usual_sizes(fit)
    if factor in fit.law.factors:
        sizes[factor] = float(np.clip(size, _column(fit, factor).min(), _column(fit, factor).max()))
    larger = sizes | ({factor: sizes[factor] * times[1]} if factor in sizes else {})
    here = points_at(fit, np.array([examples]), sizes, factor)
    there = points_at(fit, np.array([examples * times[0]]), larger, factor)
    value = fitting.predict(fit, there)[0] / fitting.predict(fit, here)[0]
    ratio_U = fitting.predict_draws(fit, there)[:, 0] / fitting.predict_draws(fit, here)[:, 0]
    return Interval(float(value), *map(float, np.percentile(ratio_U, [2.5, 97.5])))


def _column(fit: Fit, factor: str) -> np.ndarray:
    return fit.points.factors_IX[:, fit.points.factors.index(factor)]


def _span(by_group: Mapping[str, Interval]) -> Interval:
    mean = math.exp(np.mean([math.log(one.value) for one in by_group.values()]))
    return Interval(mean, min(one.low for one in by_group.values()), max(one.high for one in by_group.values()))


def _away(value: float, measured: np.ndarray) -> float:
    return value / float(np.clip(value, measured.min(), measured.max()))
