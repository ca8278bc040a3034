"""The searcher: what it may never do, whatever the posterior; and what it must do when the posterior is right."""

import dataclasses

import numpy as np
import pytest

from metaft.metadataset.tables import TaskTable
from metaft.search.baselines import InOrder
from metaft.search.freeze_thaw import FreezeThaw, FreezeThawSettings
from metaft.search.replay import replay
from metaft.search.stopping import stopped_by
from tests.search.beliefs import FRACTIONS_T, GaussianBelief, GaussianPrediction, curves, empty, seconds


def random_belief(rng, num_C=8):
    cost_C = np.exp(rng.normal(size=num_C)) * 10.0
    return GaussianBelief(curves(rng.uniform(0.5, 2.5, num_C)), seconds(cost_C), sd=0.4)


def random_table(rng, belief):
    values_CT = (
        belief.mean_CT + 0.4 * rng.normal(size=(len(belief.mean_CT), 1)) + 0.05 * rng.normal(size=belief.mean_CT.shape)
    )
    values_CT[0, 2:] = np.inf
    return TaskTable(
        'made',
        'loss',
        {},
        [{'index': c} for c in range(len(values_CT))],
        FRACTIONS_T,
        values_CT,
        belief.seconds_CT * np.exp(0.05 * rng.normal(size=(len(values_CT), 1))),
        3.0,
        1.0,
    )


@pytest.mark.parametrize('width', [1, 3])
@pytest.mark.parametrize('seed', range(4))
def test_it_never_goes_back_nor_beyond_the_grid_nor_to_a_diverged_run(seed, width):
    rng = np.random.default_rng(seed)
    belief = random_belief(rng)
    table, searcher = random_table(rng, belief), FreezeThaw(belief)
    observations, remaining = empty(8), 60.0
    for _ in range(60):
        suggestions = searcher.suggest(observations, remaining, width)
        assert len({s.configuration_index for s in suggestions}) == len(suggestions) <= width
        if not suggestions:
            break
        for c, t in suggestions:
            assert observations.last_grid_index_C[c] < t < 5 and not observations.diverged_C[c]
            cost = max(float(table.costs_CT[c, t]), float(observations.spent_seconds_C[c]))
            remaining -= cost - float(observations.spent_seconds_C[c])
            observations = observations.observe(c, t, float(table.values_CT[c, t]), cost)
    assert not suggestions and observations.num_measurements > 3


def test_nothing_is_suggested_when_what_remains_reaches_nothing():
    belief = GaussianBelief(curves([1.0, 1.0]), seconds([16.0, 32.0]))
    searcher = FreezeThaw(belief)
    assert searcher.suggest(empty(2), 0.9) == []
    assert searcher.suggest(empty(2), 0.0) == []
    assert [s.configuration_index for s in searcher.suggest(empty(2), 1.5)] == [0]


def test_nothing_is_suggested_when_nothing_can_be_gained():
    belief = GaussianBelief(curves([2.0, 2.5]), seconds([16.0, 16.0]), sd=1e-6)
    observations = empty(2).observe(0, 4, 1.0, cost_seconds=16.0)
    sure = FreezeThaw(GaussianBelief(belief.mean_CT - [[1.0], [0.0]], belief.seconds_CT, sd=1e-6))
    assert sure.suggest(observations, 100.0) == []


def test_renumbering_the_configurations_renumbers_the_suggestions():
    rng = np.random.default_rng(5)
    belief = random_belief(rng)
    order = rng.permutation(8)
    shuffled = GaussianBelief(belief.mean_CT[order], belief.seconds_CT[order], sd=belief.sd)
    observations = empty(8).observe(2, 1, 1.9, 2.0).observe(5, 3, 1.7, 5.0)
    renumbered = (
        empty(8).observe(int(np.argmax(order == 2)), 1, 1.9, 2.0).observe(int(np.argmax(order == 5)), 3, 1.7, 5.0)
    )
    suggestions = FreezeThaw(belief).suggest(observations, 40.0, width=4)
    assert [(int(order[c]), t) for c, t in FreezeThaw(shuffled).suggest(renumbered, 40.0, width=4)] == suggestions


def test_with_a_perfect_posterior_the_best_run_is_taken_to_its_end():
    rng = np.random.default_rng(1)
    values_CT = curves(rng.uniform(0.5, 2.5, 20))
    seconds_CT = seconds(np.full(20, 10.0))
    table = TaskTable('made', 'loss', {}, [{}] * 20, FRACTIONS_T, values_CT, seconds_CT, 3.0, 1.0)
    searcher = FreezeThaw(GaussianBelief(values_CT, seconds_CT, sd=1e-6))
    trajectory = replay(searcher, table, budget_seconds=10.5)  # one full run and the reserve
    assert trajectory.observations.incumbent().value == values_CT.min()
    assert {event.configuration_index for event in trajectory.events} == {int(values_CT[:, -1].argmin())}


def test_the_last_seconds_finish_the_best_run_rather_than_start_others():
    """At two full runs over thirty equal priors, which are right, it explores and still finishes."""
    finished = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        prior = GaussianBelief(np.tile(curves([1.5]), (30, 1)), seconds(np.full(30, 10.0)), sd=0.4)
        drawn = np.linalg.cholesky(0.95 ** np.abs(np.arange(5)[:, None] - np.arange(5)[None, :]) + 1e-9 * np.eye(5))
        values_CT = prior.mean_CT + 0.4 * rng.normal(size=(30, 5)) @ drawn.T
        table = TaskTable('made', 'loss', {}, [{}] * 30, FRACTIONS_T, values_CT, prior.seconds_CT, 3.0, 1.0)
        trajectory = replay(
            FreezeThaw(prior, FreezeThawSettings(finish_share=0.0, minimum_step_share=0.01)),
            table,
            budget_seconds=20.0,
        )
        incumbent = trajectory.observations.incumbent()
        finished.append(trajectory.observations.last_grid_index_C[incumbent.configuration_index] == 4)
        assert trajectory.observations.started_C.sum() >= 5
        assert trajectory.observations.incumbent().value < np.median(values_CT.min(axis=1))
    assert np.mean(finished) >= 0.75


def test_slots_are_not_filled_with_twins():
    """Two configurations of the same curve promise the same; a third one promises a little less, but its own."""
    correlation_CC = np.array([[1.0, 0.999, 0.0], [0.999, 1.0, 0.0], [0.0, 0.0, 1.0]])
    belief = GaussianBelief(curves([1.0, 1.0, 1.1]), seconds([10.0, 10.0, 10.0]), sd=0.3, correlation_CC=correlation_CC)
    chosen = [s.configuration_index for s in FreezeThaw(belief).suggest(empty(3), 100.0, width=2)]
    assert 2 in chosen and len(chosen) == 2


def test_patience_ends_a_search_where_the_best_rate_of_gain_falls_below_it():
    """Full runs of 16 s that certainly gain 1 and then .5 more: .0625 and .03125 of the metric by the second."""
    values_CT = np.full((2, 5), 3.0)
    values_CT[:, -1] = (2.0, 1.5)
    certain = GaussianBelief(values_CT, seconds([16.0, 16.0]), sd=1e-6)
    stops = {}
    for patience in (0.0, 0.02, 0.05, 0.1):
        searcher = FreezeThaw(share_of(certain, 3.0), FreezeThawSettings(patience=patience))
        both = empty(2).observe(0, 4, 2.0, cost_seconds=16.0)
        stops[patience] = not searcher.suggest(both, 40.0)
        assert stopped_by(searcher, both, 40.0) == ('patience' if stops[patience] else 'budget')
    assert stops == {0.0: False, 0.02: False, 0.05: True, 0.1: True}


def test_patience_stops_replays_early_and_the_more_the_less_of_it():
    rng = np.random.default_rng(3)
    belief = random_belief(rng, num_C=20)
    table = random_table(rng, belief)
    spent, incumbents = [], []
    for patience in (0.0, 1e-3, 1e-2, 1.0):
        searcher = FreezeThaw(share_of(belief, 3.0), FreezeThawSettings(patience=patience))
        trajectory = replay(searcher, table, 300.0)
        spent.append(trajectory.events[-1].seconds if trajectory.events else 0.0)
        incumbents.append(trajectory.best_value_at(300.0))
        left = 300.0 - spent[-1]
        assert stopped_by(searcher, trajectory.observations, left) == ('patience' if patience else 'exhausted')
    assert spent == sorted(spent, reverse=True) and spent[0] > spent[1] > spent[2] > spent[3]
    assert incumbents == sorted(incumbents)


def share_of(belief, reference_value):
    """Returns the belief with improvements as shares of the value before finetuning, as a surrogate gives them."""

    @dataclasses.dataclass(frozen=True)
    class Share(GaussianPrediction):
        def expected_improvement_CT(self, best_value):
            return super().expected_improvement_CT(best_value) / reference_value

    return lambda observations: Share(**vars(belief(observations)))


def test_why_a_search_is_over():
    belief = GaussianBelief(curves([1.0, 1.0]), seconds([16.0, 32.0]))
    assert stopped_by(FreezeThaw(belief), empty(2), 0.9) == 'budget'
    ended = empty(1).observe(0, 4, 1.0, 16.0)
    assert stopped_by(InOrder((0,)), ended, 50.0) == 'exhausted'
    assert stopped_by(InOrder((0,)), empty(1), 0.0) == 'budget'
    sure = GaussianBelief(curves([2.0, 2.5]) - [[1.0], [0.0]], seconds([16.0] * 2), sd=1e-6)
    assert stopped_by(FreezeThaw(sure), empty(2).observe(0, 4, 1.0, 16.0), 100.0) == 'exhausted'


def test_slots_share_what_remains():
    """Eight slots, seconds for two and a half full runs: what is begun can be finished."""
    belief = GaussianBelief(curves(np.linspace(1.0, 1.2, 8)), seconds([10.0] * 8), sd=0.3)
    for remaining, wanted in ((10.5, 1), (25.0, 3), (100.0, 8)):
        assert len(FreezeThaw(belief).suggest(empty(8), remaining, width=8)) == wanted


def test_settings_are_checked():
    with pytest.raises(ValueError, match='cost_exponent is -1'):
        FreezeThawSettings(cost_exponent=-1)
    with pytest.raises(ValueError, match=r'reserve_share is 1.5; it must be in \[0, 1\)'):
        FreezeThawSettings(reserve_share=1.5)


# Remade only where the search's behaviour is meant to change; last when replays began to see what a step passes.
GOLDEN = [(6, 0), (6, 1), (5, 0), (5, 1), (5, 2), (5, 3), (5, 4), (6, 2), (3, 0), (2, 0), (6, 3), (4, 0)]
INSURED = [(6, 0), (6, 1), (6, 2), (5, 0), (5, 1), (5, 2), (5, 3), (5, 4), (3, 0), (2, 0), (6, 3), (6, 4), (4, 0)]


@pytest.mark.parametrize(('share', 'wanted'), [(0.0, GOLDEN), (0.5, INSURED)])
def test_it_does_what_it_did(share, wanted):
    rng = np.random.default_rng(11)
    belief = random_belief(rng)
    searcher, table = FreezeThaw(belief, FreezeThawSettings(finish_share=share)), random_table(rng, belief)
    start_up = np.linspace(0.0, 1.0, 8)
    trajectory = replay(searcher, table, 40.0, overhead_seconds_C=start_up, measurement_seconds=0.1)
    assert [(event.configuration_index, event.grid_index) for event in trajectory.events] == wanted


@pytest.mark.parametrize('seed', range(4))
def test_what_is_spent_is_insured(seed):
    """Thirty runs of 10 seconds, 200 seconds in all: .6 goes to finished runs, but for one run."""
    rng = np.random.default_rng(seed)
    belief = GaussianBelief(curves(rng.uniform(0.5, 2.5, 30)), seconds(np.full(30, 10.0)), sd=0.4)
    values_CT = belief.mean_CT + 0.4 * rng.normal(size=(30, 1))
    table = TaskTable('made', 'loss', {}, [{}] * 30, FRACTIONS_T, values_CT, belief.seconds_CT, 3.0, 1.0)
    seen = {}
    for name, share in {'bare': 0.0, 'insured': 0.6}.items():
        searcher = FreezeThaw(belief, FreezeThawSettings(finish_share=share))
        seen[name] = replay(searcher, table, 200.0).observations
    spent_C, is_over_C = seen['insured'].spent_seconds_C, seen['insured'].last_grid_index_C == 4
    assert spent_C[is_over_C].sum() > 0.6 * spent_C.sum() - 10.0
    assert is_over_C.sum() >= (seen['bare'].last_grid_index_C == 4).sum()
