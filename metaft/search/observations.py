"""What one search has seen so far, and the interface that every searcher has, live and replayed.

    suggestions = searcher.suggest(observations, remaining_seconds, width=1)
    for each suggestion: advance that run, then
    observations = observations.observe(configuration_index, grid_index, value, cost_seconds)

Searchers hold no state: the same observations and the same remaining seconds give the same suggestions, so a search
that was killed goes on from its measurements alone.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np

from metaft.errors import InputError


class Suggestion(NamedTuple):
    """Advance this configuration to that grid point; nothing has to be measured on the way."""

    configuration_index: int
    grid_index: int


class Incumbent(NamedTuple):
    """The best measured checkpoint."""

    configuration_index: int
    grid_index: int
    value: float


@dataclasses.dataclass(frozen=True)
class Observations:
    """The dense state of one search. Never changed: `observe` returns a new one.

    Attributes:
      fractions_T: the grid, shares of a full run, ascending.
      values_CT: measured values, lower is better; NaN: not measured, +inf: diverged, from there to the end.
      costs_CT: cumulative seconds of the run's own share; NaN: not measured.
      reference_value: of the model before finetuning, same unit; what an improvement is counted from when nothing is
        measured.
      overhead_seconds_C: what starting a configuration costs beside its own seconds, such as compiling its program. The
        caller lowers it when the program is there; a run that was started is not charged.
      measurement_seconds: what a visit of a grid point costs beside the run's own seconds: deciding, evaluating,
        saving.
    """

    fractions_T: np.ndarray
    values_CT: np.ndarray
    costs_CT: np.ndarray
    reference_value: float
    overhead_seconds_C: np.ndarray
    measurement_seconds: float = 0.0

    def __post_init__(self):
        wanted = (len(self.overhead_seconds_C), len(self.fractions_T))
        for name in ('values_CT', 'costs_CT'):
            if np.shape(getattr(self, name)) != wanted:
                raise InputError(
                    f'{name} has shape {np.shape(getattr(self, name))}, wanted {wanted} (configurations, grid)'
                )
        if np.any(np.diff(self.fractions_T) <= 0):
            raise InputError(f'fractions_T must ascend, found {list(self.fractions_T)}')
        if not np.isfinite(self.reference_value):
            raise InputError(f'reference_value is {self.reference_value}; evaluate the model before finetuning first')
        if not np.all(np.asarray(self.overhead_seconds_C) >= 0) or not self.measurement_seconds >= 0:
            raise InputError('overhead_seconds_C and measurement_seconds must be at least 0')
        for name in ('fractions_T', 'values_CT', 'costs_CT', 'overhead_seconds_C'):
            frozen = np.array(getattr(self, name), np.float64)
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)

    @classmethod
    def empty(
        cls,
        num_configurations: int,
        fractions_T: Sequence[float] | np.ndarray,
        reference_value: float,
        overhead_seconds_C: np.ndarray | None = None,
        measurement_seconds: float = 0.0,
    ) -> Self:
        """Returns the state before anything was measured."""
        nothing_CT = np.full((num_configurations, len(fractions_T)), np.nan)
        overhead_C = np.zeros(num_configurations) if overhead_seconds_C is None else overhead_seconds_C
        return cls(np.asarray(fractions_T), nothing_CT, nothing_CT, reference_value, overhead_C, measurement_seconds)

    def observe(self, configuration_index: int, grid_index: int, value: float, cost_seconds: float) -> Self:
        """Returns the state with one more measurement.

        Args:
          configuration_index: the run.
          grid_index: where it was measured.
          value: lower is better; one that is not finite says that the run diverged.
          cost_seconds: cumulative over the run.

        Raises:
          InputError: outside of the grid, beyond the point where the run diverged, or a cost that is not a finite
            number of at least 0.
        """
        c, t = configuration_index, grid_index
        num_C, num_T = self.values_CT.shape
        if not (0 <= c < num_C and 0 <= t < num_T):
            raise InputError(f'measured configuration {c} at grid point {t}; there are {num_C} and {num_T}')
        if not (np.isfinite(cost_seconds) and cost_seconds >= 0):
            raise InputError(f'cost_seconds is {cost_seconds}; it must be a finite number of at least 0')
        if np.isfinite(value) and np.isposinf(self.values_CT[c, t]):
            raise InputError(f'configuration {c} diverged at or before grid point {t}; it cannot be measured there')
        values_CT, costs_CT = self.values_CT.copy(), self.costs_CT.copy()
        costs_CT[c, t] = cost_seconds
        if np.isfinite(value):
            values_CT[c, t] = value
        else:
            values_CT[c, t:] = np.inf
        return dataclasses.replace(self, values_CT=values_CT, costs_CT=costs_CT)

    def incumbent(self) -> Incumbent | None:
        """Returns the best measured checkpoint of all runs, the first of equals; None when there is none.

        A diverged measurement is never it; a checkpoint of the same run from before stays as good as it was measured.
        """
        finite_CT = np.where(np.isfinite(self.values_CT), self.values_CT, np.inf)
        c, t = np.unravel_index(np.argmin(finite_CT), finite_CT.shape)
        return Incumbent(int(c), int(t), float(finite_CT[c, t])) if np.isfinite(finite_CT[c, t]) else None

    @property
    def best_value(self) -> float:
        """The incumbent's value, or that of the model before finetuning where it is better or nothing is measured."""
        incumbent = self.incumbent()
        return self.reference_value if incumbent is None else min(incumbent.value, self.reference_value)

    @functools.cached_property
    def last_grid_index_C(self) -> np.ndarray:
        """How far each run has come; -1: not started, T - 1: finished or diverged."""
        seen_CT = ~np.isnan(self.values_CT)
        last_C = seen_CT.shape[1] - 1 - np.argmax(seen_CT[:, ::-1], axis=1)
        return np.where(seen_CT.any(axis=1), last_C, -1)

    @functools.cached_property
    def spent_seconds_C(self) -> np.ndarray:
        """What each run has cost so far, its start-up left out."""
        return np.max(np.nan_to_num(self.costs_CT, nan=0.0), axis=1)

    @property
    def started_C(self) -> np.ndarray:
        return self.last_grid_index_C >= 0

    @property
    def diverged_C(self) -> np.ndarray:
        return np.any(np.isposinf(self.values_CT), axis=1)

    @property
    def num_measurements(self) -> int:
        return int(np.isfinite(self.costs_CT).sum())


class Searcher(Protocol):
    """Chooses what to advance."""

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns up to `width` different runs to advance at once; none: stop, nothing can be gained any more."""
