"""Portfolios: what is drawn together is what was asked for, and the choice is of a set rather than of its members."""

import dataclasses
import itertools

import numpy as np
import pytest

from metaft.search import portfolio
from metaft.search.portfolio import CopulaSettings
from tests.search.beliefs import GaussianPrediction, curves, seconds


def prediction(final_C, sd_C):
    num_C = len(final_C)
    sd_CT = np.tile(np.asarray(sd_C, float)[:, None], (1, 5))
    return GaussianPrediction(curves(final_C), sd_CT, seconds([10.0] * num_C))


def test_samples_have_the_distributions_of_the_prediction_and_the_correlations_of_the_copula():
    """4,096 draws: means within 5 standard errors, correlations within .08 (5 of them, and the features' .06 / 2)."""
    x_CE = np.array([[0.0], [0.5], [8.0]])
    asked = prediction([1.0, 2.0, 3.0], [0.1, 0.2, 0.3])
    drawn_QC = portfolio.joint_samples(asked, x_CE, 4096, settings=CopulaSettings(shared=0.3, similar=0.5, length=1.0))
    np.testing.assert_allclose(drawn_QC.mean(axis=0), [1.0, 2.0, 3.0], atol=5 * 0.3 / 64)
    np.testing.assert_allclose(drawn_QC.std(axis=0), [0.1, 0.2, 0.3], rtol=0.06)
    correlation_CC = np.corrcoef(drawn_QC.T)
    near = 0.3 + 0.5 * np.exp(-0.5 * 0.5**2)
    np.testing.assert_allclose(correlation_CC[[0, 0, 1], [1, 2, 2]], [near, 0.3, 0.3], atol=0.08)


def test_a_second_pick_is_not_the_first_ones_twin():
    """Two twins promise 1.0 and 1.01, a stranger 1.05: the stranger complements either of them."""
    asked = prediction([1.0, 1.01, 1.05], [0.3, 0.3, 0.3])
    configurations = [{'learning_rate': rate} for rate in (0.001, 0.0011, 0.1)]
    frame = portfolio.portfolio(configurations, asked, np.array([[0.0], [0.01], [9.0]]), reference_value=3.0, size=2)
    assert frame['configuration_index'].tolist() == [0, 2] and frame['place'].tolist() == [1, 3]
    assert frame['expected_best'].is_monotonic_decreasing and frame['expected_best'][1] < 0.95
    assert frame['learning_rate'].tolist() == [0.001, 0.1]


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


def test_a_portfolio_has_as_many_as_there_are_and_its_seed_fixes_it():
    asked, x_CE = prediction([1.0, 1.2], [0.2, 0.2]), np.array([[0.0], [1.0]])
    first, again = (portfolio.joint_samples(asked, x_CE, 64, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert sorted(portfolio.choose(first, 5, 3.0)[0]) == [0, 1]


@pytest.mark.parametrize('change', [{'shared': -0.1}, {'shared': 0.7, 'similar': 0.7}, {'length': 0.0}])
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match='at most 1'):
        dataclasses.replace(CopulaSettings(), **change)
