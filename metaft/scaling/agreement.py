"""Do the constants of single runs' power laws agree with those of the curves that a surrogate predicts for them?

A run's law is L(t) = A t^-beta + E over the examples t seen. Most runs leave A, beta and E open (`identification`),
and some rise: so what is compared besides is the mean exponent over the last octaves, log(L(t/8) / L(t)) / log 8 of the
fitted law, which every curve settles.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from metaft.scaling import fitting, identification, laws, points
from metaft.scaling.advice import Interval
from metaft.scaling.laws import Law

CONSTANTS = ('A', 'beta', 'E', 'slope')
POSITIVE = ('A', 'E')  # compared by their logarithms
_LAW = Law('power')
_SPAN = 8.0  # of the mean exponent


class RunLaw(NamedTuple):
    """Constants of one curve, and which of them it settles; `slope` is the mean exponent over the last octaves."""

    constants: dict[str, float]
    is_settled: dict[str, bool]
    log_rmsd: float


class Agreement(NamedTuple):
    """Of one constant over runs: rank correlation, and median differences of the surrogate and of a constant guess."""

    runs: int
    tasks: int
    spearman: Interval
    difference: Interval
    guess_difference: Interval


def run_law(losses_T: np.ndarray, examples_T: np.ndarray, num_draws: int = 0, seed: int = 0) -> RunLaw:
    """Fits the power law to one curve of positive losses; without draws nothing counts as settled but the slope."""
    fit = fitting.fit(_LAW, points.make(losses_T, examples_T), num_draws=num_draws, seed=seed)
    constants = dict(zip(_LAW.names, laws.constants(_LAW, fit.theta_J[None], fit.centre)[0].tolist()))
    last = float(np.max(examples_T))
    early, late = fitting.predict(fit, points.make([1.0, 1.0], [last / _SPAN, last]))
    constants['slope'] = math.log(early / late) / math.log(_SPAN)
    opened = identification.open_constants(fit) if num_draws else _LAW.names
    return RunLaw(constants, {name: name not in opened for name in CONSTANTS}, fit.fit_log_rmsd)


def agreement(table: pd.DataFrame, constant: str, num_draws: int = 1000, seed: int = 0) -> Agreement | None:
    """Compares a constant over runs, intervals by resampling tasks; None for fewer than three tasks.

    Args:
      table: a row a run: `task`, and the constant as `recorded`, `predicted` and `guess`, numbers of one scale.
      constant: its name; those of `POSITIVE` are compared as logarithms.
      num_draws: bootstrap resamples of tasks.
      seed: of the resampling.
    """
    columns = table[['recorded', 'predicted', 'guess']].to_numpy(np.float64)
    if constant in POSITIVE:
        columns = np.log(np.maximum(columns, 1e-300))
    rows_of = [np.flatnonzero(table['task'] == task) for task in table['task'].unique()]
    if len(rows_of) < 3:
        return None
    random = np.random.default_rng(seed)
    drawn = [random.integers(len(rows_of), size=len(rows_of)) for _ in range(num_draws)]
    draws = np.array([_measures(columns[np.concatenate([rows_of[i] for i in chosen])]) for chosen in drawn])
    intervals = [
        Interval(float(value), *map(float, np.nanpercentile(draws[:, j], [2.5, 97.5])))
        for j, value in enumerate(_measures(columns))
    ]
    return Agreement(len(table), len(rows_of), *intervals)


def _measures(columns_I3: np.ndarray) -> tuple[float, float, float]:
    recorded, predicted, guess = columns_I3.T
    constant = np.ptp(recorded) == 0 or np.ptp(predicted) == 0
    spearman = math.nan if constant else float(scipy.stats.spearmanr(recorded, predicted).statistic)
    return spearman, float(np.median(abs(predicted - recorded))), float(np.median(abs(guess - recorded)))
