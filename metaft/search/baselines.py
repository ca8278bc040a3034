"""Searchers that take no feedback from a surrogate: random, default only, mean rank and portfolio of other tasks,
transfer only, successive halving, oracle.

They measure every grid point on the way and reckon a run's next step from its own last cost, so the last run of a
budget goes as far as the budget reaches.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from metaft.errors import InputError
from metaft.metadataset.tables import TaskTable
from metaft.search.acquisition import Prediction
from metaft.search.observations import Observations, Suggestion
from metaft.search.portfolio import order as portfolio_order
from metaft.search.task_mixture import TaskMixture

_MOST_CHOSEN = 64  # of a zero-shot portfolio; more full runs are hardly paid for


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Full runs one after another, in a fixed order."""

    order: tuple[int, ...]  # configuration indices

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next step of the first `width` runs of the order that are not at their end."""
        last_C = observations.last_grid_index_C
        num_T = len(observations.fractions_T)
        open_runs = [c for c in self.order if last_C[c] < num_T - 1][:width]
        return [
            Suggestion(c, int(last_C[c]) + 1) for c in open_runs if _is_affordable(observations, c, remaining_seconds)
        ]


@dataclasses.dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving: the best 1 / eta of a rung goes on to the next, else a new run starts.

    Reference: ASHA, arXiv 1810.05934, algorithm 2, with the rungs at every `rung_points`-th grid point counted from the
    end.
    """

    order: tuple[int, ...]  # in which new runs start
    eta: int = 4
    rung_points: int = 4  # grid points between rungs; 4 half octaves are a factor of 4 in budget
    num_rungs: int = 3  # 1/16, 1/4, 1 of a full run

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next step of runs between rungs, then of promoted runs (highest rung first), then of new ones."""
        rungs = self._rungs(len(observations.fractions_T))
        last_C = observations.last_grid_index_C
        candidates = [c for c in self.order if last_C[c] >= 0 and last_C[c] not in rungs]
        for rung in reversed(rungs[:-1]):
            value_C = np.where(last_C >= rung, observations.values_CT[:, rung], np.nan)
            at_rung = [c for c in self.order if not np.isnan(value_C[c])]
            best = sorted(at_rung, key=lambda c: value_C[c])[: len(at_rung) // self.eta]
            candidates += [c for c in best if last_C[c] == rung and np.isfinite(value_C[c])]
        candidates += [c for c in self.order if last_C[c] < 0]
        return [
            Suggestion(c, int(last_C[c]) + 1) for c in candidates if _is_affordable(observations, c, remaining_seconds)
        ][:width]

    def _rungs(self, num_grid_points: int) -> list[int]:
        return [t for r in reversed(range(self.num_rungs)) if (t := num_grid_points - 1 - r * self.rung_points) >= 0]


def random_search(num_configurations: int, seed: int) -> InOrder:
    """Full runs in a random order."""
    return InOrder(_random_order(num_configurations, seed))


def default_only(configuration_index: int) -> InOrder:
    """One full run of the default configuration, then nothing."""
    return InOrder((configuration_index,))


def successive_halving(num_configurations: int, seed: int, eta: int = 4) -> SuccessiveHalving:
    """Plain ASHA over configurations in a random order."""
    return SuccessiveHalving(_random_order(num_configurations, seed), eta=eta)


def mean_rank(tables: Sequence[TaskTable], configurations: Sequence[dict]) -> InOrder:
    """Full runs in the order of the mean rank on other tasks; configurations that no table holds are left out.

    A run's rank on a task is the share of that task's runs whose best value is lower.

    Raises:
      InputError: no configuration occurs in any table.
    """
    ranks: dict[tuple, list[float]] = {}
    for table in tables:
        best_C = best_values(table.values_CT)
        share_C = np.mean(best_C[None, :] < best_C[:, None], axis=1)
        for configuration, share in zip(table.configurations, share_C):
            ranks.setdefault(_key(configuration), []).append(float(share))
    known = [c for c, configuration in enumerate(configurations) if _key(configuration) in ranks]
    if not known:
        raise InputError(
            f'none of the {len(configurations)} configurations was run on the {len(tables)} training tasks; '
            'mean rank needs shared configurations'
        )
    return InOrder(tuple(sorted(known, key=lambda c: np.mean(ranks[_key(configurations[c])]))))


def transfer(prediction: Prediction, mixture: TaskMixture | None) -> InOrder:
    """Full runs in the order of the zero-shot portfolio, whatever they give: `tune --search=transfer`.

    Feedback hurts, says arXiv 2411.01195; against this searcher that can be tested.

    Args:
      prediction: of all configurations, before anything was observed.
      mixture: what the known tasks say of them together; None: in the order of the ranking.
    """
    return InOrder(tuple(portfolio_order(prediction, mixture, _MOST_CHOSEN)))


def portfolio(tables: Sequence[TaskTable], configurations: Sequence[dict]) -> InOrder:
    """Full runs in the order of the greedy complementary portfolio of other tasks.

    Each next one lowers the mean over tasks of the portfolio's best share of better runs by most; where none does, the
    mean rank decides. Configurations that no table holds are left out.

    Reference: the zero-shot portfolios of Wistuba et al. 2015 and of Auto-Sklearn 2.0, arXiv 2007.04074, algorithm 1.

    Raises:
      InputError: no configuration occurs in any table.
    """
    by_mean_rank = mean_rank(tables, configurations).order
    share_WC = np.ones((len(tables), len(configurations)))  # not run on a task: as bad as its worst
    for w, table in enumerate(tables):
        best_C = best_values(table.values_CT)
        share_of: dict[tuple, float] = {}
        for configuration, best in zip(table.configurations, best_C):
            share_of.setdefault(_key(configuration), float(np.mean(best_C < best)))
        share_WC[w] = [share_of.get(_key(configuration), 1.0) for configuration in configurations]
    order: list[int] = []
    reached_W = np.ones(len(tables))
    left = list(by_mean_rank)
    while left:
        mean_C = np.mean(np.minimum(reached_W[:, None], share_WC[:, left]), axis=0)
        c = left.pop(int(np.argmin(np.round(mean_C, 12))))  # of equals the first by mean rank
        order.append(c)
        reached_W = np.minimum(reached_W, share_WC[:, c])
    return InOrder(tuple(order))


def oracle(table: TaskTable) -> InOrder:
    """Full runs in the order of their best value: what no search can know."""
    return InOrder(tuple(int(c) for c in np.argsort(best_values(table.values_CT), kind='stable')))


def best_values(values_CT: np.ndarray) -> np.ndarray:
    """Returns the best value along each curve; +inf where a run has none."""
    return np.min(np.where(np.isnan(values_CT), np.inf, values_CT), axis=1)


def _random_order(num_configurations: int, seed: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.random.default_rng(seed).permutation(num_configurations))


def _key(configuration: dict) -> tuple:
    return tuple(sorted((name, value) for name, value in configuration.items() if value is not None))


def _is_affordable(observations: Observations, c: int, remaining_seconds: float) -> bool:
    """Says whether the next step fits, its cost in proportion to the run's own so far; a new run's is not known yet."""
    last, spent = int(observations.last_grid_index_C[c]), float(observations.spent_seconds_C[c])
    if last < 0:
        return remaining_seconds > observations.overhead_seconds_C[c] + observations.measurement_seconds
    growth = observations.fractions_T[last + 1] / observations.fractions_T[last] - 1.0
    return spent * growth + observations.measurement_seconds <= remaining_seconds
