"""What a report is made of. An experiment fills it; everything in `metaft.report` reads it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from metaft.search.acquisition import Prediction
from metaft.search.observations import Observations, Suggestion

METRICS = ('loss', 'exact_match')


class Forecast(NamedTuple):
    """A prediction as plain arrays: median and 80 % interval of the value, and the cumulative seconds, [C, T].

    The median, because a chance that a run diverges moves the expectation to where no run ever is.
    """

    median_CT: np.ndarray
    low_CT: np.ndarray
    high_CT: np.ndarray
    cost_seconds_CT: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Reads the arrays off a surrogate's prediction."""
        return cls(
            np.asarray(prediction.quantile_CT(0.5), np.float64),
            np.asarray(prediction.quantile_CT(0.1), np.float64),
            np.asarray(prediction.quantile_CT(0.9), np.float64),
            np.asarray(prediction.cost_seconds_CT, np.float64),
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One way of using the model, evaluated: an entry of `results.json`."""

    configuration: Mapping[str, Any] | None  # None: the model as it is
    budget_steps: int
    validation_loss: float  # nats per answer token
    test_loss: float
    test_exact_match: float  # share in [0, 1]
    validation_exact_match: float | None = None


@dataclasses.dataclass(frozen=True)
class ReportData:
    """All that the page, the picture and the closing lines on the terminal show.

    Attributes:
      task: its name.
      metric: what the search improved, 'loss' or 'exact_match'; the values below are lower-is-better, 1 - exact match
        for the latter.
      asked: what was asked, for a table: model, data files and their sizes, flags.
      budget: given to the search.
      spent: by the search.
      max_examples: of a full run, so that a fraction of it is `fractions_T * max_examples` examples.
      configurations: the candidates, hyperparameters by name.
      observations: where the search ended.
      zero_shot_forecast: before anything was run.
      final_forecast: after the last measurement.
      ranking: the zero-shot one, see `metaft.search.ranking.rank`.
      portfolio: configurations whose best is best, see `metaft.search.portfolio.portfolio`; None: not asked for.
      zero_shot: the model before finetuning.
      incumbent: the best measured checkpoint; None when every run diverged or none was measured.
      default: the default configuration with the same budget of its own; None where it was not run.
      unit: of the budget: 'seconds', 'flops' or 'tokens'.
      next_suggestion: what the search would advance if the same budget were given again; None when it would stop.
      next_command: the command line that does so.
      scaling: sentences on what more data or a larger model would bring, where scaling laws were given.
      warnings: sentences; a task or a base model outside of what the surrogate has seen, say.
      versions: of packages and machine.
      seed: of the job.
    """

    task: str
    metric: str
    asked: Mapping[str, str]
    budget: float
    spent: float
    max_examples: int
    configurations: Sequence[Mapping[str, Any]]
    observations: Observations
    zero_shot_forecast: Forecast
    final_forecast: Forecast
    ranking: pd.DataFrame
    zero_shot: Outcome
    incumbent: Outcome | None
    default: Outcome | None = None
    portfolio: pd.DataFrame | None = None
    unit: str = 'seconds'
    next_suggestion: Suggestion | None = None
    next_command: str = ''
    scaling: Sequence[str] = ()
    warnings: Sequence[str] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f'metric is {self.metric!r}; one of {", ".join(METRICS)}')
        wanted = self.observations.values_CT.shape
        if len(self.configurations) != wanted[0]:
            raise ValueError(f'{len(self.configurations)} configurations, but observations of {wanted[0]}')
        for name in ('zero_shot_forecast', 'final_forecast'):
            for array in getattr(self, name):
                if np.shape(array) != wanted:
                    raise ValueError(f'{name} has an array of shape {np.shape(array)}, wanted {wanted}')

    @property
    def examples_T(self) -> np.ndarray:
        """Training examples seen at each grid point."""
        return self.observations.fractions_T * self.max_examples


def started_runs(data: ReportData) -> pd.DataFrame:
    """Returns a row a started run, the best first: where it stands, what it gave and cost, and what was predicted.

    Columns: configuration_index, state ('incumbent', 'finished', 'frozen', 'diverged'), fraction (where it stands),
    last_value (there), best_value, at_fraction (the best), and at its last measurement spent_seconds and what had been
    predicted before anything ran: predicted_value (median), predicted_low, predicted_high (80 %), predicted_seconds.
    """
    observations, forecast = data.observations, data.zero_shot_forecast
    incumbent = observations.incumbent()
    rows = []
    for c in np.flatnonzero(observations.started_C):
        finite_T = np.where(np.isfinite(observations.values_CT[c]), observations.values_CT[c], np.inf)
        last, best = int(np.flatnonzero(np.isfinite(observations.costs_CT[c]))[-1]), int(np.argmin(finite_T))
        has_value = bool(np.isfinite(finite_T[best]))
        state = 'diverged' if observations.diverged_C[c] else 'finished' if last == len(finite_T) - 1 else 'frozen'
        if incumbent is not None and incumbent.configuration_index == c:
            state = 'incumbent'
        row = (
            c,
            state,
            observations.fractions_T[last],
            finite_T[last],
            finite_T[best] if has_value else np.nan,
            observations.fractions_T[best] if has_value else np.nan,
            observations.costs_CT[c, last],
            forecast.median_CT[c, last],
            forecast.low_CT[c, last],
            forecast.high_CT[c, last],
            forecast.cost_seconds_CT[c, last],
        )
        rows.append(row)
    names = (
        'configuration_index',
        'state',
        'fraction',
        'last_value',
        'best_value',
        'at_fraction',
        'spent_seconds',
        'predicted_value',
        'predicted_low',
        'predicted_high',
        'predicted_seconds',
    )
    frame = pd.DataFrame(rows, columns=list(names)).astype(
        {'configuration_index': int, **dict.fromkeys(names[2:], float)}
    )
    return frame.sort_values('best_value', kind='stable', na_position='last', ignore_index=True)
