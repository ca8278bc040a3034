"""The covariance GP equals the dense Gaussian process that its docstring writes down, and transfers."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from metaft.search import scores
from metaft.search.peers.covariance_gp import _OCTAVES, CovarianceGP, _Conditioned, _unexplained
from metaft.search.peers.gaussian import transform
from tests.surrogate import family


def test_it_is_the_dense_posterior():
    tables = [family.task(w, num_runs=12) for w in range(5)]
    target = family.task(9, num_runs=12)
    model = CovarianceGP.fit(tables, target.configurations)
    assert not model.unknown_C[:6].any() and model.unknown_C[6:].all()  # half of the runs are shared
    num_C, num_T = target.values_CT.shape
    y_CT = np.where(
        np.arange(num_T)[None, :] < np.array([3, 0, 6, 1] * 3)[:, None], transform(target, target.values_CT), np.nan
    )
    log_T = np.log2(target.fractions_T)
    own_TT = np.exp(-np.abs(log_T[:, None] - log_T[None, :]) / _OCTAVES)
    own_sd, noise = 0.2, 0.05
    conditioned = _Conditioned.on(y_CT, model, own_sd, own_TT, noise)
    mean_CT, variance_CT = conditioned.posterior(model)

    flat_WN = model.deviation_WCT.reshape(5, -1)
    covariance = flat_WN.T @ flat_WN + np.kron(np.eye(num_C), own_sd**2 * own_TT)
    seen = np.flatnonzero(~np.isnan(y_CT.ravel()))
    gram = covariance[np.ix_(seen, seen)] + noise**2 * np.eye(len(seen))
    error = y_CT.ravel()[seen] - model.mean_CT.ravel()[seen]
    gain = np.linalg.solve(gram, covariance[seen]).T
    np.testing.assert_allclose(mean_CT.ravel(), model.mean_CT.ravel() + gain @ error, atol=1e-8)
    variance = np.diag(covariance) - np.sum(gain * covariance[seen].T, axis=1) + noise**2
    extra_CT = np.where(
        model.unknown_C & np.isnan(y_CT).all(axis=1), np.mean(np.sum(model.deviation_WCT**2, axis=0)), 0.0
    )
    np.testing.assert_allclose(variance_CT, variance.reshape(num_C, num_T) + extra_CT[:, None], atol=1e-8)
    exact = multivariate_normal.logpdf(error, cov=gram)
    constant = -0.5 * len(seen) * np.log(2 * np.pi)
    np.testing.assert_allclose(conditioned.log_likelihood + constant, exact, rtol=1e-8)


@pytest.mark.parametrize(('num_tasks', 'tolerance'), [(60, 0.05), (20, 0.15)])
def test_what_a_task_has_of_its_own_is_found_by_leaving_it_out(num_tasks, tolerance):
    """Three common factors and a part of .3: with the task in the mean, its deviations follow from the others'."""
    rng = np.random.default_rng(0)
    y_WCT = rng.normal(size=(num_tasks, 3)) @ rng.normal(size=(3, 400)) + 0.3 * rng.normal(size=(num_tasks, 400))
    deviation_WCT = (y_WCT - y_WCT.mean(axis=0)).reshape(num_tasks, 40, 10) / np.sqrt(num_tasks)
    assert _unexplained(deviation_WCT) == pytest.approx(0.3, rel=tolerance)


def test_the_part_of_its_own_is_never_less_than_noise_with_few_tasks():
    """Of five tasks the four others cannot explain what is a task's own; they seemed to once (.09 of .3)."""
    rng = np.random.default_rng(0)
    y_WN = 0.3 * rng.normal(size=(5, 400))
    assert _unexplained((y_WN - y_WN.mean(axis=0)).reshape(5, 40, 10) / np.sqrt(5)) > 0.27


def test_a_few_points_tell_which_training_task_it_is_like():
    """Findings A: .49 nats and Spearman .79 at 50 points against -.38 and .60 at none on LCBench; here alike."""
    tables = [family.task(w, num_runs=24) for w in range(12)]
    target = family.task(50, num_runs=24)
    shared = [c for c in range(24) if c < 12]
    target = type(target)(**{
        **vars(target), 'configurations': [target.configurations[c] for c in shared],
        'values_CT': target.values_CT[shared], 'costs_CT': target.costs_CT[shared],
    })  # fmt: skip
    model = CovarianceGP.fit(tables, target.configurations)
    found = []
    for num_runs in (0, 4):
        observed_CT = np.where(np.arange(12)[:, None] < num_runs, target.values_CT, np.nan)
        prediction = model.predict(target, observed_CT, np.full(observed_CT.shape, np.nan))
        found.append(scores.score(prediction, target, observed_CT))
    assert found[1]['mse'] < 0.3 * found[0]['mse'] and found[1]['log_likelihood'] > found[0]['log_likelihood'] + 0.5
    assert found[1]['spearman'] > 0.95
