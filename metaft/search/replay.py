"""Any searcher over a recorded table, under a budget in seconds, by the code that drives live runs."""

import dataclasses
from typing import NamedTuple

import numpy as np

from metaft.errors import BudgetError, DataError
from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher


class Event(NamedTuple):
    """One measurement of a replay."""

    seconds: float  # of the budget, spent when it came
    configuration_index: int
    grid_index: int
    value: float
    best_value: float  # the incumbent's after it; inf while every run diverged


class Trajectory(NamedTuple):
    """What a replayed search did."""

    events: tuple[Event, ...]
    observations: Observations

    def best_value_at(self, seconds: float) -> float:
        """Returns the incumbent's value when that much was spent; the reference value while there was none."""
        values = [
            event.best_value for event in self.events if event.seconds <= seconds and np.isfinite(event.best_value)
        ]
        return values[-1] if values else self.observations.reference_value


def replay(
    searcher: Searcher,
    table: TaskTable,
    budget_seconds: float,
    *,
    width: int = 1,
    overhead_seconds_C: np.ndarray | None = None,
    measurement_seconds: float = 0.0,
) -> Trajectory:
    """Replays a searcher.

    Time goes by as recorded: a run costs its own share, so runs advanced at once cost their sum. Points that a step
    passes are seen where they were recorded. The first one that does not fit into what remains ends the search. A run
    that diverges on the way costs what it cost until then.

    Args:
      searcher: over the rows of the table.
      table: complete, see `complete_rows`.
      budget_seconds: of the search.
      width: runs advanced at once.
      overhead_seconds_C: spent when a run is started.
      measurement_seconds: spent at every step, for its decision and measurement.

    Raises:
      BudgetError: the budget is not positive.
      DataError: the searcher asked for a point that was not recorded, or for one that it had already.
    """
    if not budget_seconds > 0:
        raise BudgetError(f'a budget of {budget_seconds} seconds buys nothing; give a positive one')
    observations = Observations.empty(
        len(table.configurations), table.fractions_T, table.reference_value, overhead_seconds_C, measurement_seconds
    )
    spent = 0.0
    events: list[Event] = []
    while suggestions := searcher.suggest(observations, budget_seconds - spent, width):
        for c, t in suggestions:
            spent += measurement_seconds
            spent += 0.0 if observations.started_C[c] else float(observations.overhead_seconds_C[c])
            for u, value, cost_seconds in _recorded(table, observations, c, t):
                spent += cost_seconds - float(observations.spent_seconds_C[c])
                if spent > budget_seconds:
                    return Trajectory(tuple(events), observations)
                observations = observations.observe(c, u, value, cost_seconds)
                incumbent = observations.incumbent()
                events.append(Event(spent, c, u, value, np.inf if incumbent is None else incumbent.value))
    return Trajectory(tuple(events), observations)


def complete_rows(table: TaskTable) -> TaskTable:
    """Returns the table with only the rows that were measured at every grid point or until they diverged."""
    kept = [c for c in range(len(table.configurations)) if _is_complete(table.values_CT[c], table.costs_CT[c])]
    return dataclasses.replace(
        table,
        configurations=[table.configurations[c] for c in kept],
        values_CT=table.values_CT[kept],
        costs_CT=table.costs_CT[kept],
    )


def _recorded(table: TaskTable, observations: Observations, c: int, t: int) -> list[tuple[int, float, float]]:
    """Returns (grid index, value, cumulative seconds) of the points of a step, cut short where the run diverged."""
    last = int(observations.last_grid_index_C[c])
    if not last < t < len(table.fractions_T):
        raise DataError(
            f'the searcher asked for configuration {c} at grid point {t}; it stands at {last} of '
            f'{len(table.fractions_T) - 1}'
        )
    points = []
    for u in range(last + 1, t + 1):
        value, seconds = float(table.values_CT[c, u]), float(table.costs_CT[c, u])
        if not (np.isnan(value) or np.isnan(seconds)):
            points.append((u, value, seconds))
        elif u == t:
            raise DataError(
                f'task {table.task!r}: configuration {c} was not measured at grid point {t}; '
                'replay complete_rows(table)'
            )
        if np.isposinf(value):
            break
    return points


def _is_complete(values_T: np.ndarray, costs_T: np.ndarray) -> bool:
    until = int(np.argmax(np.isposinf(values_T))) if np.isposinf(values_T).any() else len(values_T) - 1
    return bool(not np.isnan(values_T[: until + 1]).any() and np.isfinite(costs_T[: until + 1]).all())
