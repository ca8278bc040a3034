"""Searchers without a surrogate, against cases worked out by hand."""

import numpy as np
import pytest

from metaft.errors import InputError
from metaft.metadataset.tables import TaskTable
from metaft.search import baselines
from metaft.search.ranking import rank
from metaft.search.replay import replay
from tests.search.beliefs import FRACTIONS_T, GaussianPrediction, curves, empty, seconds


def table(final_C, full_run_seconds=16.0, configurations=None):
    num_C = len(final_C)
    configurations = configurations or [{'index': c} for c in range(num_C)]
    return TaskTable(
        'made', 'loss', {}, configurations, FRACTIONS_T, curves(final_C), seconds([full_run_seconds] * num_C), 3.0, 1.0
    )


def test_random_search_runs_one_after_another_and_cuts_the_last():
    """Order of seed 0 over three: 2, 0, 1. Forty seconds are two full runs of sixteen and half of the third one."""
    assert baselines.random_search(3, seed=0).order == (2, 0, 1)
    trajectory = replay(baselines.random_search(3, seed=0), table([1.0, 2.0, 1.5]), budget_seconds=40.0)
    steps = [(event.configuration_index, event.grid_index) for event in trajectory.events]
    assert steps == [(2, t) for t in range(5)] + [(0, t) for t in range(5)] + [(1, t) for t in range(4)]
    clock = [1, 2, 4, 8, 16, 17, 18, 20, 24, 32, 33, 34, 36, 40]
    np.testing.assert_allclose([event.seconds for event in trajectory.events], clock)
    assert trajectory.best_value_at(16.0) == 1.5 and trajectory.best_value_at(40.0) == 1.0
    assert trajectory.best_value_at(0.5) == 3.0  # before the first measurement: the model as it is


def test_random_search_is_a_permutation_that_its_seed_fixes():
    orders = {baselines.random_search(20, seed).order for seed in (1, 2, 1)}
    assert len(orders) == 2 and all(sorted(order) == list(range(20)) for order in orders)


def test_the_default_runs_once_and_the_search_ends():
    trajectory = replay(baselines.default_only(1), table([1.0, 2.0, 1.5]), budget_seconds=1000.0)
    assert [event.configuration_index for event in trajectory.events] == [1] * 5
    assert trajectory.events[-1].seconds == 16.0 and trajectory.observations.incumbent().value == 2.0


def test_a_run_that_diverged_makes_room_for_the_next():
    made = table([1.0, 2.0])
    made.values_CT[0, 2:] = np.inf
    trajectory = replay(baselines.InOrder((0, 1)), made, budget_seconds=100.0)
    steps = [(event.configuration_index, event.grid_index) for event in trajectory.events]
    assert steps == [(0, 0), (0, 1), (0, 2)] + [(1, t) for t in range(5)]


def test_mean_rank_orders_by_rank_not_by_value():
    configurations = [{'rank': 1}, {'rank': 2}, {'rank': 4}, {'rank': 8, 'dropout': None}]
    easy = table([1.0, 2.0, 1.5, 2.5], configurations=configurations)
    hard = table([2.6, 2.8, 2.5, 2.9], configurations=configurations)  # 2.6 is a hair worse than 2.5
    large = table([0.1, 2.0, 1.9, 2.5], configurations=configurations)
    assert baselines.mean_rank([easy, hard, large], configurations).order == (0, 2, 1, 3)
    asked = [{'rank': 8}, {'rank': 16}, {'rank': 4}]  # a field that is None is the same as none
    assert baselines.mean_rank([easy], asked).order == (2, 0)
    with pytest.raises(InputError, match='none of the 1 configurations'):
        baselines.mean_rank([easy], [{'rank': 16}])


def test_transfer_only_is_the_ranking_run_by_run_whatever_it_gives():
    prediction = GaussianPrediction(curves([1.5, 1.0, 1.2]), np.full((3, 5), 0.1), seconds([16.0] * 3))
    searcher = baselines.transfer(prediction, None)
    assert searcher.order == tuple(rank([{}] * 3, prediction)['configuration_index']) == (1, 2, 0)
    trajectory = replay(searcher, table([0.5, 2.5, 2.4]), budget_seconds=40.0)  # the ranking is wrong, and kept
    assert [event.configuration_index for event in trajectory.events] == [1] * 5 + [2] * 5 + [0] * 4


def test_successive_halving_promotes_the_best_quarter():
    made = table([1.0 + 0.1 * c for c in range(8)])
    searcher = baselines.SuccessiveHalving(tuple(range(8)), eta=4, rung_points=2, num_rungs=3)  # rungs at 0, 2, 4
    trajectory = replay(searcher, made, budget_seconds=1000.0)
    steps = [(event.configuration_index, event.grid_index) for event in trajectory.events]
    # Four starts, the best of them to the next rung, four more, the best two of eight are 0 and 1.
    assert steps == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2)] + [(c, 0) for c in range(4, 8)] + [(1, 1), (1, 2)]
    many = replay(
        baselines.successive_halving(64, seed=0), table(np.linspace(1.0, 2.0, 64)), budget_seconds=1000.0
    ).observations
    assert set(range(16)) <= set(np.flatnonzero(many.last_grid_index_C >= 4)) and many.started_C.all()


@pytest.mark.parametrize('width', [1, 4])
def test_baselines_never_go_back_nor_beyond(width):
    rng = np.random.default_rng(0)
    made = table(rng.uniform(0.5, 2.5, 12))
    made.values_CT[3, 1:] = np.inf
    for searcher in (baselines.random_search(12, 0), baselines.successive_halving(12, 0), baselines.default_only(4)):
        events = replay(searcher, made, budget_seconds=90.0, width=width).events  # raises where one goes back
        assert events and events[-1].seconds <= 90.0


def test_a_step_that_does_not_fit_is_not_asked_for():
    searcher = baselines.InOrder((0, 1))
    observations = empty(2, overhead_seconds_C=np.array([3.0, 3.0])).observe(0, 2, 1.0, cost_seconds=4.0)
    assert searcher.suggest(observations, 4.0) == [(0, 3)]  # twice the budget costs another 4 s
    assert searcher.suggest(observations, 3.9) == []
    assert searcher.suggest(empty(2, overhead_seconds_C=np.array([3.0, 3.0])), 2.9) == []


def test_a_portfolio_complements_where_mean_rank_repeats():
    configurations = [{'rank': 1}, {'rank': 2}, {'rank': 4}, {'rank': 8}]
    one, two = (
        table(final_C, configurations=configurations) for final_C in ([1.0, 1.1, 2.5, 2.6], [1.2, 1.1, 1.0, 2.6])
    )
    tables = [one, one, two, two, one]
    assert baselines.mean_rank(tables, configurations).order == (0, 1, 2, 3)
    # The first one is the best on average; what it lacks is the second task, where rank 4 is the best.
    assert baselines.portfolio(tables, configurations).order == (0, 2, 1, 3)
    assert baselines.portfolio(tables, [{'rank': 3}, {'rank': 4}]).order == (1,)


def test_the_oracle_runs_the_best_first():
    assert baselines.oracle(table([2.0, 1.0, 1.5])).order == (1, 2, 0)
