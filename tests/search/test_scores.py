"""Scores of predicted curves, in closed form."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm

from metaft.search import scores
from metaft.search.peers import gaussian
from metaft.surrogate import transforms
from tests.surrogate import family


def shares(values_CT):
    table = family.task(0, num_runs=len(values_CT))
    num_T = values_CT.shape[1]
    return dataclasses.replace(
        table, metric='exact_match', fractions_T=table.fractions_T[-num_T:], values_CT=values_CT,
        costs_CT=table.costs_CT[:, -num_T:], reference_value=1.0,
    )  # fmt: skip


def test_a_gaussian_is_scored_as_by_hand():
    values_CT = np.array([[0.9, 0.5, 0.2], [0.8, 0.7, 0.6], [1.0, 0.9, 0.4], [0.6, 0.3, 0.3]])
    table = shares(values_CT)
    observed_CT = np.full((4, 3), np.nan)
    observed_CT[0], observed_CT[1, 0] = values_CT[0], values_CT[1, 0]
    mean_CT = values_CT + np.array([0.04, -0.04, 0.08, 0.0])[:, None]
    prediction = gaussian.GaussianCurves(mean_CT, np.full((4, 3), 0.04), 1.2 * table.costs_CT)
    found = scores.score(prediction, table, observed_CT)
    is_target_CT = np.isnan(observed_CT)
    error_CT = (mean_CT - values_CT) / 0.8  # scaled to [0, 1]: the best value is .2, the worst 1
    error_CT[2, 0] = 0.0  # the worst: 1.08 is as bad as 1
    is_inside_CT = is_target_CT & (values_CT < 1.0)
    nats = norm.logpdf(error_CT, scale=0.04 / 0.8)[is_inside_CT].mean()
    assert found['log_likelihood'] == pytest.approx(nats)
    assert found['mse'] == pytest.approx(np.mean(error_CT[is_target_CT] ** 2))
    assert found['coverage_80'] == pytest.approx(6 / 8)  # one standard deviation off is inside, two are not
    assert found['spearman'] == pytest.approx(1.0) and found['cost_ape'] == pytest.approx(0.2)


@pytest.mark.parametrize('metric, reference', [('loss', 3.0), ('exact_match', 1.0)])
def test_the_slope_is_that_of_the_transformation(metric, reference):
    values = np.linspace(0.1, 0.9, 9)
    high, low = (transforms.transform(values + h, metric, reference).astype(float) for h in (1e-3, -1e-3))
    np.testing.assert_allclose(
        np.exp(transforms.log_slope(values, metric, reference)), np.abs(high - low) / 2e-3, rtol=1e-3
    )


def test_densities_of_both_kinds_of_predictions_integrate_to_one_in_the_metrics_unit():
    table = family.task(0, num_runs=1)
    nothing_CT = np.full(table.values_CT.shape, np.nan)
    mean_CT = np.full(table.values_CT.shape, -0.4)
    ours = gaussian.transformed(table, mean_CT, 0.1 + 0.0 * mean_CT, nothing_CT, nothing_CT)
    plain = gaussian.GaussianCurves(1.0 + mean_CT, 0.1 + 0.0 * mean_CT, table.costs_CT)
    grid = np.linspace(0.0, 4.0, 4001)
    for prediction in (ours, plain):
        density = [np.exp(scores.own_log_density_CT(prediction, np.full(mean_CT.shape, v))[0, 0]) for v in grid[::10]]
        assert np.trapezoid(density, grid[::10]) == pytest.approx(1.0, abs=2e-3)


def test_a_loss_far_above_the_untrained_model_is_the_worst_and_no_density_is_asked_of_it():
    table = family.task(0, num_runs=4)
    table.values_CT[3, -1] = np.inf
    table.values_CT[2, -1] = 400.0
    scale = scores.Scale.of(table)
    assert scale.high == pytest.approx(scale.low + 1.5 * (family.START - scale.low))
    assert list(scale(np.array([np.inf, 400.0, scale.low]))) == [1.0, 1.0, 0.0]
    prediction = gaussian.GaussianCurves(
        np.where(table.values_CT > 300, 3.0, table.values_CT), np.full(table.values_CT.shape, 0.1), table.costs_CT
    )
    found = scores.score(prediction, table, np.full(table.values_CT.shape, np.nan))
    exact = norm.logpdf(0.0, scale=0.1) + np.log(scale.high - scale.low)
    assert found['log_likelihood'] == pytest.approx(exact)
