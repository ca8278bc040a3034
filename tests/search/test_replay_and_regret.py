"""The replayed clock, the recorded table's holes, and the regret in closed form."""

import numpy as np
import pytest

from metaft.errors import BudgetError, DataError
from metaft.metadataset.tables import TaskTable
from metaft.search import regret
from metaft.search.baselines import InOrder
from metaft.search.observations import Suggestion
from metaft.search.replay import complete_rows, replay
from tests.search.beliefs import FRACTIONS_T, curves, seconds


def table():
    return TaskTable(
        'made',
        'loss',
        {},
        [{'a': c} for c in range(3)],
        FRACTIONS_T,
        curves([1.0, 2.0, 2.5]),
        seconds([16.0] * 3),
        3.0,
        1.0,
    )


class Listed:
    """Suggests what it was given, one batch a call."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def suggest(self, observations, remaining_seconds, width=1):
        return [Suggestion(*s) for s in next(self.batches, ())]


def test_start_up_and_steps_run_on_the_clock_and_points_that_are_passed_do_not():
    trajectory = replay(
        Listed((((0, 2),), ((0, 4),), ((1, 0),))),
        table(),
        budget_seconds=100.0,
        overhead_seconds_C=np.array([5.0, 7.0, 0.0]),
        measurement_seconds=0.5,
    )
    # 5 + 4 + .5, then 12 + .5, then 7 + 1 + .5
    at = {(event.configuration_index, event.grid_index): event.seconds for event in trajectory.events}
    np.testing.assert_allclose([at[0, 2], at[0, 4], at[1, 0]], [9.5, 22.0, 30.5])
    assert list(at) == [(0, t) for t in range(5)] + [(1, 0)]  # those on the way are seen too


def test_a_step_beyond_the_budget_gives_what_it_passed_and_no_more():
    trajectory = replay(Listed((((0, 2),), ((0, 4),))), table(), budget_seconds=15.9)
    assert [event.grid_index for event in trajectory.events] == [0, 1, 2, 3]  # the last point costs 16


def test_runs_advanced_at_once_cost_their_sum():
    events = replay(InOrder((0, 1)), table(), budget_seconds=32.0, width=2).events
    assert [event.seconds for event in events][-1] == 32.0 and len(events) == 10
    assert [event.configuration_index for event in events] == [0, 1] * 5


def test_a_run_that_diverges_on_the_way_costs_what_it_cost_until_then():
    made = table()
    made.values_CT[0, 1:] = np.inf
    made.costs_CT[0, 2:] = np.nan  # nothing was recorded after it
    trajectory = replay(Listed((((0, 4),), ((1, 0),))), made, budget_seconds=100.0)
    assert [event[:3] for event in trajectory.events] == [(1.0, 0, 0), (2.0, 0, 1), (3.0, 1, 0)]
    assert np.isposinf(trajectory.events[1].value) and trajectory.best_value_at(2.0) == made.values_CT[0, 0]


def test_what_was_not_recorded_or_was_asked_twice_is_an_error():
    made = table()
    made.values_CT[1, 3] = np.nan
    with pytest.raises(DataError, match='configuration 1 was not measured at grid point 3'):
        replay(InOrder((1,)), made, budget_seconds=100.0)
    with pytest.raises(DataError, match='asked for configuration 0 at grid point 0; it stands at 0'):
        replay(Listed((((0, 0),), ((0, 0),))), made, budget_seconds=100.0)
    with pytest.raises(BudgetError, match='buys nothing'):
        replay(InOrder((1,)), made, budget_seconds=0.0)
    made.values_CT[2, 3:] = np.inf
    made.costs_CT[2, 4] = np.nan
    kept = complete_rows(made)
    assert kept.configurations == [{'a': 0}, {'a': 2}] and kept.values_CT.shape == (2, 5)


def test_regret_is_zero_at_the_best_and_one_at_the_median():
    values_CT = np.array([[3.0, 1.0, 2.0], [5.0, 4.0, np.nan], [2.0, np.inf, np.inf], [np.nan] * 3])  # best: 1, 4, 2
    assert regret.normalized_regret(1.0, values_CT) == 0.0
    assert regret.normalized_regret(2.0, values_CT) == 1.0
    assert regret.normalized_regret(1.25, values_CT) == 0.25
    scaled = regret.normalized_regret(np.array([10.0 * 1.25 + 3.0]), 10.0 * values_CT + 3.0)
    np.testing.assert_allclose(scaled, [0.25])  # unit and offset do not matter
    with pytest.raises(DataError, match='no scale'):
        regret.normalized_regret(1.0, np.ones((3, 2)))


def test_regret_over_time_never_rises_once_something_is_measured():
    made = table()
    trajectory = replay(InOrder((2, 1, 0)), made, budget_seconds=48.0)
    over_time = regret.regret_at(trajectory, made, np.array([0.0, 16.0, 32.0, 48.0]))
    np.testing.assert_allclose(over_time, [2.0, 1.5, 1.0, 0.0])  # 3, 2.5, 2, 1 with best 1 and median 2


def test_the_interval_holds_the_mean_and_covers():
    """Of 200 samples of 20 tasks, 95 % intervals hold the truth in at least 85 %: a false alarm below 1e-6."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        regrets = 1.0 + rng.normal(size=(20, 1)) + 0.1 * rng.normal(size=(20, 5))
        found = regret.interval(regrets, seed=seed)
        assert found.low <= found.mean <= found.high
        hits += found.low <= 1.0 <= found.high
    assert hits >= 170
    assert regret.interval(np.full((4, 2), 0.3)) == (0.3, 0.3, 0.3)
    assert regret.interval(np.array([[0.1, np.nan, 0.3]])).mean == 0.2
    with pytest.raises(DataError, match='wanted'):
        regret.interval(np.array([[np.nan, np.nan]]))
