"""The numbers behind a decision, against what they claim in cases that can be worked out by hand."""

import numpy as np

from metaft.search import acquisition
from tests.search.beliefs import GaussianBelief, GaussianPrediction, curves, empty, seconds

POLICY = dict(cost_exponent=0.5, minimum_step_seconds=0.0)


def certain(values_CT, seconds_CT):
    return GaussianPrediction(values_CT, np.zeros_like(values_CT), seconds_CT)


def test_without_uncertainty_the_best_point_within_reach_is_the_plan_and_nothing_is_better():
    values_CT = np.array([[3.0, 2.5, 2.0, 2.2, 1.0], [2.9, 2.6, 2.4, 2.1, 1.9], [4.0, 4.0, 4.0, 4.0, 4.0]])
    prediction = certain(values_CT, seconds([16.0, 16.0, 16.0]))
    decision = acquisition.evaluate(empty(3), prediction, 8.0, **POLICY)  # half of a full run
    np.testing.assert_allclose(decision.gain_C, 0.0, atol=1e-9)
    assert decision.reach_C.tolist() == [3, 3, 3] and decision.plan == np.argmax(decision.score_C) == 0
    assert decision.improves
    found = empty(3).observe(0, 2, 2.0, cost_seconds=4.0)
    assert not acquisition.evaluate(found, prediction, 4.0, **POLICY).improves


def test_the_gain_agrees_with_the_integral_over_the_posterior():
    belief = GaussianBelief(curves([1.0, 1.5]), seconds([16.0, 16.0]), sd=0.7)
    observations = empty(2).observe(0, 1, 2.0, 2.0)
    prediction = belief(observations)
    decision = acquisition.evaluate(observations, prediction, 100.0, **POLICY)
    draws = np.random.default_rng(0).normal(size=(200_000, 1, 1)) * prediction.sd_CT + prediction.mean_CT
    medians_C = np.array([prediction.mean_CT[0, 2:].min(), prediction.mean_CT[1].min()])
    assert decision.plan == np.argmin(medians_C) and medians_C.min() < 2.0
    for c, last in ((0, 1), (1, -1)):
        integral_T = np.maximum(medians_C.min() - draws[:, c, last + 1 :], 0.0).mean(axis=0)
        np.testing.assert_allclose(decision.gain_C[c], integral_T.max(), rtol=0.02)  # 5 sd of the draws


def test_with_little_budget_only_what_can_still_be_reached_counts():
    values_CT = np.stack([curves([1.5])[0], np.array([2.9, 2.8, 2.7, 2.6, 0.1])])  # the second shines at its very end
    prediction = certain(values_CT, seconds([16.0, 16.0]))
    poor = acquisition.evaluate(empty(2), prediction, 4.0, **POLICY)
    rich = acquisition.evaluate(empty(2), prediction, 16.0, **POLICY)
    assert np.argmax(poor.score_C) == 0 and poor.reach_C.tolist() == [2, 2]
    assert np.argmax(rich.score_C) == 1 and rich.reach_C.tolist() == [4, 4]


def test_start_up_and_measurement_are_paid_from_the_budget():
    prediction = certain(curves([1.0, 1.0]), seconds([16.0, 16.0]))
    observations = empty(2, overhead_seconds_C=np.array([0.0, 9.0]), measurement_seconds=1.0)
    decision = acquisition.evaluate(observations, prediction, 9.5, **POLICY)
    assert decision.reach_C.tolist() == [3, -1]  # 8 + 1 fit; 1 + 9 + 1 do not
    assert np.isneginf(decision.score_C[1]) and decision.gain_C[1] == 0.0 and decision.plan == 0
    started = observations.observe(1, 0, 2.5, cost_seconds=1.0)
    assert acquisition.evaluate(started, prediction, 9.5, **POLICY).reach_C.tolist() == [3, 3]  # 7 + 1


def test_the_cost_exponent_weighs_cheap_against_good():
    prediction = certain(curves([1.0, 1.4]), seconds([16.0, 1.6]))
    choose = lambda exponent: np.argmax(
        acquisition.evaluate(
            empty(2),
            GaussianPrediction(prediction.mean_CT, np.full((2, 5), 0.5), prediction.cost_seconds_CT),
            100.0,
            **{**POLICY, 'cost_exponent': exponent},
        ).score_C
    )
    assert choose(0.0) == 0 and choose(1.0) == 1


def test_a_step_goes_on_to_the_first_point_that_is_worth_a_decision():
    prediction = certain(curves([1.0, 1.0]), seconds([16.0, 64.0]))
    decision = acquisition.evaluate(empty(2), prediction, 100.0, **{**POLICY, 'minimum_step_seconds': 3.0})
    assert decision.next_C.tolist() == [2, 0]  # 1, 2, 4 seconds; 4 seconds
    short = acquisition.evaluate(empty(2), prediction, 2.0, **{**POLICY, 'minimum_step_seconds': 3.0})
    assert short.next_C.tolist() == [1, -1]  # not beyond what can be paid


def test_a_step_is_charged_with_what_the_plan_loses():
    """Enough for the plan's end and nothing else: exploring a rival, however uncertain, would cost the plan its end."""
    mean_CT, sd_CT = curves([0.5, 1.0]), np.array([[0.01] * 5, [0.4] * 5])
    observations = empty(2).observe(0, 3, 1.2, cost_seconds=8.0)
    prediction = GaussianPrediction(mean_CT, sd_CT, seconds([16.0, 16.0]))
    tight = acquisition.evaluate(observations, prediction, 8.0, **POLICY)
    ample = acquisition.evaluate(observations, prediction, 30.0, **POLICY)
    assert tight.plan == ample.plan == 0
    assert np.argmax(tight.score_C) == 0 and tight.score_C[1] < 0
    assert np.argmax(ample.score_C) == 1


def test_costs_ahead_never_decrease_and_are_zero_behind():
    prediction_CT = np.array([[1.0, 2.0, 1.5, 4.0, 8.0]])  # a cost prediction may wiggle
    observations = empty(1, overhead_seconds_C=np.array([5.0])).observe(0, 1, 1.0, cost_seconds=2.0)
    ahead_CT = acquisition.seconds_ahead(observations, prediction_CT)
    assert ahead_CT.tolist() == [[0.0, 0.0, 0.0, 2.0, 6.0]]
