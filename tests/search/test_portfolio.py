"""Portfolios: what is drawn together is what was asked for, and the choice is of a set rather than of its members."""

import dataclasses
import itertools

import numpy as np
import pytest

from metaft.search import portfolio
from metaft.search.task_mixture import TaskMixture
from tests.search.beliefs import GaussianPrediction, curves, seconds


def prediction(final_C):
    return GaussianPrediction(curves(final_C), np.full((len(final_C), 5), 0.1), seconds([10.0] * len(final_C)))


def mixture(final_WC, log_prior_W=None):
    prior_W = np.zeros(len(final_WC)) if log_prior_W is None else np.array(log_prior_W)
    curve_WCT = np.stack([curves(final_C, 0.0) for final_C in final_WC])
    return TaskMixture(curve_WCT, prior_W, np.full(5, 0.1), lambda values: values)


def test_samples_are_as_on_one_of_the_known_tasks_each():
    """4,096 draws: means within 5 standard errors; the shift and the noise are added."""
    found = mixture([[-2.0, -1.0], [-1.0, -2.0]], np.log([3.0, 1.0]))
    drawn_QC = found.joint_samples(4096)
    np.testing.assert_allclose(drawn_QC.mean(axis=0), [-1.75, -1.25], atol=5 * 0.7 / 64)
    difference_Q = drawn_QC[:, 0] - drawn_QC[:, 1]
    np.testing.assert_allclose(np.mean(difference_Q < 0), 0.75, atol=0.04)  # tasks, and no mean of them
    np.testing.assert_allclose(difference_Q[difference_Q < 0].std(), 0.1 * np.sqrt(2.0), rtol=0.06)
    np.testing.assert_allclose((drawn_QC.mean(axis=1) + 1.5).std(), np.hypot(0.5, 0.1 / np.sqrt(2.0)), rtol=0.06)
    np.testing.assert_array_equal(found.joint_samples(64, seed=3), found.joint_samples(64, seed=3))


def test_a_second_pick_is_good_where_the_first_is_not():
    """Two twins are best on two tasks of three and ranked first, only the stranger is good on the third."""
    known = mixture([[-1.0, -0.9, 0.5], [-1.0, -0.9, 0.5], [0.5, 0.5, -0.8]])
    configurations = [{'learning_rate': rate} for rate in (0.001, 0.0011, 0.1)]
    asked = prediction([1.0, 1.01, 1.05])
    frame = portfolio.portfolio(configurations, asked, known, reference_value=3.0, size=2)
    assert frame['configuration_index'].tolist() == [0, 2] and frame['place'].tolist() == [1, 3]
    assert frame['expected_best'].is_monotonic_decreasing and frame['learning_rate'].tolist() == [0.001, 0.1]
    # Each is N(1, .1) and N(1.05, .1) alone, as predicted: twins would have 1.0, strangers .965 (Clark 1961), and what
    # is good where the other is not has less.
    assert frame['expected_best'][0] == pytest.approx(1.0, abs=0.003) and 0.94 < frame['expected_best'][1] < 0.963
    # Where the third task is hardly possible, the second best of the others is next.
    sure = dataclasses.replace(known, log_prior_W=np.array([0.0, 0.0, -8.0]))
    assert portfolio.order(asked, sure, 2) == [0, 1, 2]


def test_without_known_tasks_it_is_the_head_of_the_ranking():
    asked = prediction([1.05, 1.0, 1.01])
    assert portfolio.order(asked, None, 2) == [1, 2, 0]
    frame = portfolio.portfolio([{}] * 3, asked, None, reference_value=1.0, size=2)
    assert frame['configuration_index'].tolist() == [1, 2] and frame['expected_best'].tolist() == [1.0, 1.0]


def test_after_the_portfolio_comes_the_ranking_and_each_run_once():
    rng = np.random.default_rng(0)
    asked, known = prediction(rng.normal(size=30)), mixture(rng.normal(size=(4, 30)))
    found = portfolio.order(asked, known, 5)
    assert sorted(found) == list(range(30))
    rest = asked.quantile_CT(0.5)[found[5:], -1]
    assert (np.diff(rest) >= 0).all() and found[:5] == portfolio.choose(known.joint_samples(), 5, np.inf)[0]
    assert sorted(portfolio.order(asked, known, 99)) == list(range(30))


def test_what_moves_together_is_taken_from_the_top():
    drawn_QC = np.array([1.3, 1.0, 1.1])[None, :] + np.random.default_rng(0).normal(size=(500, 1))
    chosen, expected = portfolio.choose(drawn_QC, 3, reference_value=9.0)
    assert chosen[0] == 1 and len(set(chosen)) == 3
    np.testing.assert_allclose(expected, np.mean(drawn_QC[:, 1]))  # the others never undercut it


def test_the_greedy_choice_is_nearly_the_best_one():
    """Its gain over the fallback is at least 1 - 1/e of the best one's; here it is within 2 %."""
    for seed in range(10):
        drawn_QC = np.random.default_rng(seed).normal(size=(200, 8))
        drawn_QC[:, 0] = np.inf  # diverges always
        gain = lambda chosen: np.mean(1.0 - np.minimum(1.0, drawn_QC[:, list(chosen)].min(axis=1)))  # noqa: B023
        chosen, expected = portfolio.choose(drawn_QC, 3, reference_value=1.0)
        assert 0 not in chosen
        np.testing.assert_allclose(1.0 - expected[-1], gain(chosen))
        assert gain(chosen) >= 0.98 * max(map(gain, itertools.combinations(range(8), 3)))
