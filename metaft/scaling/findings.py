"""What fitted laws and the runs behind them say of the findings of arXiv 2402.17193, each with a 95 % interval.

Which form holds; whether the model's size helps more than its pretraining, and whether the adapter's size helps; how
the methods' gain from data is ordered; which method wins where; what finetuning costs on other tasks. Differences of
constants come from the bootstrap draws of both fits, differences of measured losses from runs paired by seed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from metaft.errors import DataError
from metaft.scaling import crossovers, laws
from metaft.scaling.advice import Interval, usual_sizes
from metaft.scaling.crossovers import Crossover
from metaft.scaling.fitting import Fit

LEVEL = 0.95


class Comparison(NamedTuple):
    """Mean of a difference over groups; negative: the first of the two is better in most."""

    difference: Interval
    groups: int
    better: int  # groups in which the first is better


class Winner(NamedTuple):
    """Which method has the lowest mean loss at one place, and what is clear of it."""

    sizes: dict[str, float]
    loss: dict[str, float]  # by method
    best: str
    clearly_worse: tuple[str, ...]


def constant(fit: Fit, symbol: str, factor: str | None = None) -> tuple[Interval, np.ndarray]:
    """Returns a constant with its profile interval, and its draws [U].

    Raises:
      DataError: the law has no such constant.
    """
    key = (symbol, None if factor is None else _position(fit, factor))
    if key not in fit.law.symbols:
        raise DataError(f'the {fit.law.form} law of {", ".join(fit.law.factors)} has no {symbol} of {factor}')
    j = fit.law.symbols.index(key)
    value = laws.constants(fit.law, fit.theta_J[None], fit.centre)[0, j]
    low, high = np.exp(fit.limits_J2[j]) if symbol in laws.LOGARITHMIC else fit.limits_J2[j]
    return Interval(float(value), float(low), float(high)), laws.constants(fit.law, fit.draws_UJ, fit.centre)[:, j]


def difference(first: tuple[Interval, np.ndarray], second: tuple[Interval, np.ndarray], paired: bool) -> Interval:
    """Returns first - second of two constants, `paired` where their draws are of one fit."""
    (one, draws_U), (two, other_U) = first, second
    num = min(len(draws_U), len(other_U))
    gap_U = draws_U[:num] - (other_U[:num] if paired else np.random.default_rng(0).permutation(other_U)[:num])
    low, high = np.percentile(gap_U, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(one.value - two.value, float(low), float(high))


def compare_forms(
    first: Mapping[str, Mapping[str, float | None]],
    second: Mapping[str, Mapping[str, float | None]],
    key: str,
    as_ratio: bool,
) -> Comparison | None:
    """Compares two forms by an error of each group; None where fewer than two groups have both.

    Args:
      first, second: `by_group` of `comparison.describe`; None or NaN: not measured.
      key: `heldout_log_rmsd`, `fit_log_rmsd` or `aicc`.
      as_ratio: the difference is of logarithms, so exp of it is a ratio.
    """
    pairs = np.array([(first[group][key], second[group][key]) for group in first if group in second], np.float64)
    pairs = pairs[np.isfinite(pairs).all(axis=1)] if len(pairs) else np.zeros((0, 2))
    gaps = (np.log(pairs[:, 0] / pairs[:, 1]) if as_ratio else pairs[:, 0] - pairs[:, 1]).tolist()
    if len(gaps) < 2:
        return None
    return Comparison(mean_interval(gaps), len(gaps), sum(gap < 0 for gap in gaps))


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of independent values with Student's interval."""
    mean, error = float(np.mean(values)), scipy.stats.sem(values)
    half = scipy.stats.t.ppf(0.5 * (1 + LEVEL), len(values) - 1) * error if error else 0.0
    return Interval(mean, float(mean - half), float(mean + half))


def exponent_differences(fits: Mapping[str, Fit], first: str, second: str) -> dict[str, Interval]:
    """Returns alpha of one factor less alpha of another by group, of the groups whose law has both."""
    return {
        group: difference(constant(fit, 'alpha', first), constant(fit, 'alpha', second), paired=True)
        for group, fit in fits.items()
        if {first, second} <= set(fit.law.factors)
    }


def exponents(fits: Mapping[str, Fit], factor: str) -> dict[str, Interval]:
    """Returns alpha of a factor by group, of the groups whose law has it."""
    return {group: constant(fit, 'alpha', factor)[0] for group, fit in fits.items() if factor in fit.law.factors}


def beta_differences(fits: Mapping[str, Fit]) -> dict[tuple[str, str], Interval]:
    """Returns beta of one group less beta of another for every pair."""
    betas = {group: constant(fit, 'beta') for group, fit in fits.items()}
    return {
        (one, two): difference(betas[one], betas[two], paired=False) for one, two in itertools.combinations(betas, 2)
    }


def crossings(first: Fit, second: Fit, factor: str) -> dict[float, Crossover]:
    """Returns where two methods cross within the data sizes that both were measured at, at every size of a factor."""
    both = (first.points, second.points)
    within = max(p.data_size_I.min() for p in both), min(p.data_size_I.max() for p in both)
    one, two = (p.factors_IX[:, p.factors.index(factor)] for p in both)
    usual = usual_sizes(second) | usual_sizes(first)
    return {
        float(size): crossovers.crossover(first, second, usual | {factor: float(size)}, *within, along=factor)
        for size in np.intersect1d(one, two)
    }


def winners(runs: pd.DataFrame, by: Sequence[str]) -> list[Winner]:
    """Says for every place which method's runs have the lowest mean loss, and which are clearly worse.

    A method is clearly worse where the 95 % interval of its log loss less the best one's, runs paired by seed, lies
    above none. The spread of such differences is pooled over the places of a pair of methods: three seeds alone tell
    little of it.

    Args:
      runs: columns `method`, `seed`, `loss` and those of `by`; one run a method, seed and place, other rows averaged.
      by: columns that make a place.
    """
    table = runs.assign(log_loss=np.log(runs['loss'])).pivot_table(
        index=[*by, 'seed'], columns='method', values='log_loss', aggfunc='mean'
    )
    spread = {pair: _pooled_spread(table[pair[0]] - table[pair[1]], by) for pair in itertools.permutations(table, 2)}
    found = []
    for place, part in table.groupby(level=list(by), sort=True):
        mean = part.mean().dropna()
        best, worse = str(mean.idxmin()), []
        for method in mean.index:
            gap = (part[method] - part[best]).dropna()
            sd, dof = spread.get((method, best), (math.nan, 0))
            if method != best and len(gap) and dof and gap.mean() > _t(dof) * sd / math.sqrt(len(gap)):
                worse.append(str(method))
        loss = {str(method): float(math.exp(value)) for method, value in mean.items()}
        sizes = {name: float(value) for name, value in zip(by, place)}
        found.append(Winner(sizes, loss, best, tuple(worse)))
    return found


def changes(runs: pd.DataFrame, column: str, by: Sequence[str], place: Sequence[str]) -> dict[tuple, Interval]:
    """Returns the mean change of a loss by finetuning, against the untrained base at the same place.

    Args:
      runs: rows of data size 0 are the untrained bases.
      column: the loss.
      by: columns whose values are told apart; the interval is over the runs with the same.
      place: columns that name a base.
    """
    is_base = runs['data_size'] == 0
    base = runs[is_base].groupby(list(place))[column].mean()
    trained = runs[~is_base]
    before = base.reindex(pd.MultiIndex.from_frame(trained[list(place)])).to_numpy()
    gaps = trained.assign(change=trained[column].to_numpy() - before).dropna(subset=['change'])
    return {key: mean_interval(part['change']) for key, part in gaps.groupby(list(by)) if len(part) > 1}


def log_ratios(first: pd.DataFrame, second: pd.DataFrame, run: Sequence[str], by: str) -> dict[float, Interval]:
    """Returns the mean log ratio of losses, first to second, by the value of one column; runs are paired.

    Args:
      run: columns that name a run, `by` among them; runs that one table lacks are left out.
    """
    paired = first.merge(second, on=list(run), suffixes=('_first', '_second'))
    paired = paired.assign(gap=np.log(paired['loss_first'] / paired['loss_second'])).dropna(subset=['gap'])
    return {float(value): mean_interval(part['gap']) for value, part in paired.groupby(by) if len(part) > 1}


def _pooled_spread(gap: pd.Series, by: Sequence[str]) -> tuple[float, int]:
    """Returns the standard deviation of values about the mean of their place, and its degrees of freedom."""
    gap = gap.dropna()
    if not len(gap):
        return math.nan, 0
    centred = gap - gap.groupby(level=list(by)).transform('mean')
    dof = len(gap) - len(gap.groupby(level=list(by)))
    return (math.sqrt(float((centred**2).sum()) / dof), dof) if dof > 0 else (math.nan, 0)


def _t(dof: int) -> float:
    return float(scipy.stats.t.ppf(0.5 * (1 + LEVEL), dof))


def _position(fit: Fit, factor: str) -> int:
    if factor not in fit.law.factors:
        raise DataError(f'the law speaks of {", ".join(fit.law.factors) or "no factor"}, not of {factor}')
    return fit.law.factors.index(factor)
