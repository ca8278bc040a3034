"""What a tuner of another library asks of the surrogate: which configuration next, and is a run worth going on with?

Such tuners have trials that come one by one, each with a configuration of its own, instead of a fixed list of
candidates with a budget. `metaft.search.adapters` turns their trials into `Run`s.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaft.errors import InputError
from metaft.metadataset.records import TaskRecord
from metaft.metadataset.tables import lower_is_better
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.surrogate import Surrogate

_FRACTIONS_T = 2.0 ** (-np.arange(12, -1, -1) / 2)  # the grid that the surrogate was trained on: 1/64 ... 1
_HALF_STEP = 2.0**0.25  # a report counts for the grid point that it is nearest to


@dataclasses.dataclass(frozen=True)
class Run:
    """One run so far: values (lower is better, NaN or inf: diverged) and seconds by the share of a full run."""

    configuration: Mapping[str, Any]
    values: Mapping[float, float]
    seconds: Mapping[float, float] = dataclasses.field(default_factory=dict)
    is_over: bool = True

    @classmethod
    def of_reports(
        cls,
        configuration: Mapping[str, Any],
        reports: Mapping[int, float],
        full_run_steps: int,
        metric: str,
        maximize: bool,
        seconds: Mapping[int, float] | None = None,
        is_over: bool = True,
    ) -> 'Run':
        """Returns a run whose `reports` are values by step; maximised ones are shares in [0, 1], as exact match is.

        Raises:
          InputError: a maximised loss.
        """
        if maximize and metric == 'loss':
            raise InputError('a loss is minimised; for accuracies give the advisor metric="exact_match"')
        return cls(
            configuration,
            {step / full_run_steps: lower_is_better(metric, v) if maximize else v for step, v in reports.items()},
            {step / full_run_steps: s for step, s in (seconds or {}).items()},
            is_over,
        )

    @property
    def best(self) -> float:
        """The best value so far, inf for none."""
        return min((v for v in self.values.values() if np.isfinite(v)), default=np.inf)


@dataclasses.dataclass(frozen=True)
class Advisor:
    """A surrogate that was told which task it is.

    Attributes:
      surrogate: trained on other tasks.
      record: of this one; `tune` writes it to meta_features.json of its workdir (`store.read_task`).
      metric: 'loss', or 'exact_match', whose values are 1 - exact match.
    """

    surrogate: Surrogate
    record: TaskRecord
    metric: str = 'loss'

    @property
    def reference_value(self) -> float:
        """The metric before finetuning, lower is better."""
        found = self.record.reference_loss if self.metric == 'loss' else self.record.reference_exact_match
        return lower_is_better(self.metric, found)

    def choose(self, runs: Sequence[Run], candidates: Sequence[Mapping[str, Any]]) -> int:
        """Returns the index of the candidate whose full run has the largest expected improvement over the best run.

        Runs that are under way are taken to end at their predicted median (the kriging believer of Ginsbourger et al.
        2010), so that tuners which start several at once do not start twins.
        """
        everything = [*(run.configuration for run in runs), *candidates]
        values_CT, costs_CT = _observed(runs, len(everything))
        prediction = self._predict(everything, values_CT, costs_CT)
        under_way = [c for c, run in enumerate(runs) if not run.is_over]
        if under_way:
            values_CT[under_way, -1] = prediction.quantile_CT(0.5)[under_way, -1]
            prediction = self._predict(everything, values_CT, costs_CT)
        best = min([self.reference_value, *values_CT[np.isfinite(values_CT)]])
        return int(np.argmax(prediction.expected_improvement_CT(best)[len(runs) :, -1]))

    def is_promising(self, runs: Sequence[Run], index: int, probability: float) -> bool:
        """Says whether the run's end will undercut the best of the others with at least this probability.

        It is where no other run has a value yet.
        """
        best = min((run.best for c, run in enumerate(runs) if c != index), default=np.inf)
        values_CT, costs_CT = _observed(runs, len(runs))
        if np.isposinf(values_CT[index]).any():
            return False
        prediction = self._predict([run.configuration for run in runs], values_CT, costs_CT)
        return bool(prediction.quantile_CT(probability)[index, -1] < best)

    def _predict(
        self, configurations: Sequence[Mapping[str, Any]], values_CT: np.ndarray, costs_CT: np.ndarray
    ) -> Prediction:
        return self.surrogate.predict(
            {name: np.nan if value is None else value for name, value in self.record.meta_features.items()},
            configurations,
            values_CT,
            costs_CT,
            metric=self.metric,
            reference_value=self.reference_value,
            reference_seconds=self.record.reference_seconds,
            fractions_T=_FRACTIONS_T,
            max_examples=self.record.max_examples,
        )


def _observed(runs: Sequence[Run], num_C: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and seconds of the runs on the grid, NaN where there is none, and for the rows after theirs."""
    values_CT, costs_CT = np.full((2, num_C, len(_FRACTIONS_T)), np.nan)
    for c, run in enumerate(runs):
        for fraction, value in sorted(run.values.items()):
            t = int(np.argmin(np.abs(np.log(_FRACTIONS_T / fraction)))) if fraction > 0 else 0
            if not 1 / _HALF_STEP <= fraction / _FRACTIONS_T[t] <= _HALF_STEP:
                continue
            if not np.isfinite(value):
                values_CT[c, t:] = np.inf
                break
            values_CT[c, t] = value
            costs_CT[c, t] = run.seconds.get(fraction, np.nan)
    return values_CT, costs_CT
