"""Drives a package that asks and is told, as a searcher: it tells what came of the last step, then asks for the next.

These searchers keep their package's state, unlike ours: a replay of one goes from its beginning to its end. A step that
continues a run pays only for what is new, also where the package believes that it starts anew: peers get thawing free.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Suggestion

_MAX_KNOWN = 500  # answers in a row from what is measured already, before a search counts as stuck
_WORST = 1.5  # times the untrained model's loss: as bad as diverged


class Package(Protocol):
    """One package on one task."""

    def ask(self, observations: Observations) -> Suggestion | None:
        """Returns what to measure; None: it has nothing more to ask."""

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        """Takes the outcome in [0, 1], lower is better; 1: diverged."""


@dataclasses.dataclass
class Driven:
    """The searcher."""

    package: Package
    unit: Callable[[float], float]  # from a value to a loss in [0, 1]
    asked: Suggestion | None = None

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next measurement; one at a time, whatever the width."""
        if self.asked is not None:
            self.package.tell(self.asked, self._loss(observations, self.asked))
            self.asked = None
        for _ in range(_MAX_KNOWN):
            suggestion = self.package.ask(observations)
            if suggestion is None:
                return finish(observations)
            if suggestion.grid_index > observations.last_grid_index_C[suggestion.configuration_index]:
                self.asked = suggestion
                return [suggestion]
            self.package.tell(suggestion, self._loss(observations, suggestion))
        return []

    def _loss(self, observations: Observations, suggestion: Suggestion) -> float:
        """Returns the loss where it was asked for; where the run jumped over that point, the next one measured."""
        ahead_T = observations.values_CT[suggestion.configuration_index, suggestion.grid_index :]
        return self.unit(float(ahead_T[~np.isnan(ahead_T)][0]))


def finish(observations: Observations) -> list[Suggestion]:
    """Returns the next step of the unfinished run with the best last value: what is left when a table is used up."""
    last_C, num_T = observations.last_grid_index_C, len(observations.fractions_T)
    value_C = observations.values_CT[np.arange(len(last_C)), np.maximum(last_C, 0)]
    open_runs = [c for c in np.argsort(value_C, kind='stable') if 0 <= last_C[c] < num_T - 1]
    return [Suggestion(int(c), int(last_C[c]) + 1) for c in open_runs[:1]]


def unit(table: TaskTable) -> Callable[[float], float]:
    """Returns the map of a task's values to [0, 1] by what is known before the search: shares are there already."""
    high = worst(table)
    return lambda value: float(np.clip(value / high, 0.0, 1.0)) if np.isfinite(value) else 1.0


def worst(table: TaskTable) -> float:
    """Returns the value that counts as bad as diverged."""
    return _WORST * table.reference_value if table.metric == 'loss' else 1.0


def resources(fractions_T: np.ndarray) -> np.ndarray:
    """Returns the grid as whole numbers of resource, the smallest for which no two points agree."""
    scale = np.ceil(1.0 / fractions_T[0] - 1e-9)
    while len(np.unique(np.round(scale * fractions_T))) < len(fractions_T):
        scale *= 2
    return np.round(scale * fractions_T).astype(int)


def grid_index(resource: float, resource_T: np.ndarray) -> int:
    """Returns the first grid point with at least that resource."""
    return min(int(np.searchsorted(resource_T, resource - 1e-6)), len(resource_T) - 1)


def smallest_rung(resource_T: np.ndarray, eta: int = 3, num_rungs: int = 4) -> float:
    """Returns the least resource of Hyperband with at most `num_rungs` rungs, not below the grid's first point."""
    return max(float(resource_T[0]), float(resource_T[-1]) / eta ** (num_rungs - 1))
