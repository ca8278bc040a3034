"""Where one finetuning method overtakes another: the data size at which two fitted laws give the same loss.

Solved numerically on the fitted curves. The closed form of arXiv 2402.17193, D = H X^gamma, holds only where both
irreducible losses cancel, and H = (A_1 / A_2)^(1 / (beta_1 - beta_2)) is hypersensitive to its constants.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from metaft.errors import DataError
from metaft.scaling import fitting
from metaft.scaling.fitting import Fit
from metaft.scaling.points import Points

_GRID = 400  # logarithmic steps in which a change of sign is looked for; linear interpolation within


@dataclasses.dataclass(frozen=True)
class Crossover:
    """The first data size, from below, at which the better of two methods changes.

    Attributes:
      data_size: None where one method is better over the whole range.
      better_below, better_above: 'first' or 'second'; equal where there is no crossover.
      probability: share of bootstrap draws with a crossover within the range.
      low, high: 95 % interval over those draws; None where fewer than half have one.
    """

    data_size: float | None
    better_below: str
    better_above: str
    probability: float
    low: float | None
    high: float | None


def crossover(
    first: Fit, second: Fit, factors: Mapping[str, float], smallest: float, largest: float, along: str | None = None
) -> Crossover:
    """Solves first(D) = second(D) for D between `smallest` and `largest`, at fixed other sizes.

    Args:
      first, second: fits of the two methods.
      factors: the other sizes, by name.
      smallest, largest: the range of finetuning examples to look in.
      along: see `points_at`.

    Raises:
      DataError: an empty range, or a size missing from `factors`.
    """
    if not 0 < smallest < largest:
        raise DataError(f'a range of data sizes from {smallest:g} to {largest:g} has nothing in it')
    sizes_I = np.geomspace(smallest, largest, _GRID + 1)
    log_size_I = np.log(sizes_I)
    ends = [points_at(fit, sizes_I, factors, along) for fit in (first, second)]
    gaps = []  # log loss of the first minus that of the second, at the estimates and at the draws
    for predict, axis in ((fitting.predict, 0), (fitting.predict_draws, 1)):
        one, two = (np.log(predict(fit, at)) for fit, at in zip((first, second), ends))
        count = min(one.shape[0], two.shape[0]) if axis else None
        gaps.append(one[:count] - two[:count])
    estimate = _first_root(log_size_I, gaps[0])
    roots = [root for gap_I in gaps[1] if (root := _first_root(log_size_I, gap_I)) is not None]
    probability = len(roots) / len(gaps[1])
    low, high = np.exp(np.percentile(roots, [2.5, 97.5])) if probability >= 0.5 else (None, None)
    below, above = gaps[0][0], gaps[0][-1] if estimate is None else -gaps[0][0]
    return Crossover(
        data_size=None if estimate is None else float(np.exp(estimate)),
        better_below='first' if below < 0 else 'second',
        better_above='first' if above < 0 else 'second',
        probability=probability,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


def points_at(fit: Fit, sizes_I: np.ndarray, factors: Mapping[str, float], along: str | None = None) -> Points:
    """Returns points to predict at: data sizes, with the other sizes fixed.

    Args:
      fit: of any form.
      sizes_I: finetuning examples.
      factors: the other sizes, by name; those that the law does not speak of are not looked at.
      along: the factor whose series is meant, where a law keeps one a factor; the first where it has none of that name.

    Raises:
      DataError: a size that the law speaks of is missing from `factors`.
    """
    names = fit.points.factors
    along = along if along in fit.law.factors else next(iter(fit.law.factors), None)
    wanted = fit.law.factors if fit.law.form == 'all_factors' else tuple(filter(None, [along]))
    for name in wanted:
        if name not in names or name not in factors:
            raise DataError(
                f'the {fit.law.form} law is compared at a value of {name}; found are {", ".join(factors) or "none"}'
            )
    ones_I = np.ones_like(sizes_I)
    row_X = np.array([factors.get(name, 1.0) for name in names])
    member_X = np.array([float(name == along) for name in names])
    return Points(ones_I, sizes_I, np.outer(ones_I, row_X), ones_I, np.outer(ones_I, member_X), names)


def _first_root(x_I: np.ndarray, gap_I: np.ndarray) -> float | None:
    """Returns where a sampled function first changes sign, by linear interpolation."""
    turns = np.flatnonzero(np.sign(gap_I[:-1]) * np.sign(gap_I[1:]) < 0)
    if not len(turns):
        return None
    i = turns[0]
    return float(x_I[i] - gap_I[i] * (x_I[i + 1] - x_I[i]) / (gap_I[i + 1] - gap_I[i]))
