"""The posterior is the textbook's, forgets nothing that it should know, and is fitted to what it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.surrogate import curves, ensemble, episodes, prior, process
from metaft.surrogate.memory import Memory
from tests.surrogate import family, networks
from tests.surrogate.networks import KERNEL, PLAIN_E, C

U = curves.NUM_RESAMPLED
LOG_BUDGET_O = np.array([-3.0, 0.0, -0.75, -5.5], np.float32)
ROW_O = np.array([4, 1, 7, 10], np.int32)
Y_O = np.array([0.5, -0.8, 0.3, 1.1], np.float32)

posterior = jax.jit(process.posterior)


@pytest.fixture(scope='module')
def runs():
    return networks.draw_runs()[0]


def test_nothing_observed_is_the_prior(runs):
    found_CF = posterior(KERNEL, runs, np.full(4, -1, np.int32), Y_O, LOG_BUDGET_O, np.float32(0.0))
    np.testing.assert_allclose(found_CF, process.prior(runs.recall), atol=1e-6)
    weighed_CU = np.einsum('CV,CVU->CU', runs.recall.near_CV, runs.recall.curve_CVU)
    wanted_CU = weighed_CU / (runs.recall.near_CV.sum(axis=1, keepdims=True) + process._FLOOR)
    np.testing.assert_allclose(found_CF[:, :U], wanted_CU, rtol=1e-4, atol=1e-6)


def test_the_mean_is_that_of_a_dense_solve_in_double_precision(runs):
    wanted_CU = _dense_mean(runs)
    found_CF = np.asarray(posterior(KERNEL, runs, ROW_O, Y_O, LOG_BUDGET_O, np.float32(0.0)))
    np.testing.assert_allclose(found_CF[:, :U], wanted_CU, atol=1e-4)
    assert np.abs(wanted_CU - np.asarray(process.prior_mean(runs.recall))).max() > 0.5


def _dense_mean(runs) -> np.ndarray:
    """The posterior mean at all C x U places, from their full covariance with the observations."""
    k = jax.tree.map(lambda x: np.exp(np.asarray(x, np.float64)), KERNEL)
    near_CV, curve_CVU = (np.asarray(x, np.float64) for x in (runs.recall.near_CV, runs.recall.curve_CVU))
    mean_CU = np.einsum('CV,CVU->CU', near_CV, curve_CVU) / (near_CV.sum(axis=1, keepdims=True) + process._FLOOR)
    log_U = np.asarray(curves.LOG_BUDGETS)

    def at(c, log_budget):  # each part of the model at one place
        read = lambda values_U: np.interp(log_budget, log_U, values_U)
        mean = read(mean_CU[c])
        tasks_V = [near_CV[c, v] * (read(curve_CVU[c, v]) - mean) for v in range(near_CV.shape[1])]
        return mean, np.asarray(runs.config_CE[c], np.float64), log_budget, np.array(tasks_V)

    def covariance(a, b):
        similar = np.exp(-0.5 * np.sum(((a[1] - b[1]) / k.length_E) ** 2)) * np.exp(-abs(a[2] - b[2]) / k.octaves)
        tasks = k.tasks**2 / len(a[3]) * a[3] @ b[3]
        return k.shift**2 + k.gain**2 * a[0] * b[0] + tasks + k.own**2 * similar

    seen = [at(c, log_budget) for c, log_budget in zip(ROW_O, LOG_BUDGET_O, strict=True)]
    matrix_OO = np.array([[covariance(a, b) for b in seen] for a in seen])
    noise = k.noise**2 + process._JITTER * (1.0 + np.trace(matrix_OO) / len(seen))
    alpha_O = np.linalg.solve(matrix_OO + noise * np.eye(len(seen)), Y_O - np.array([a[0] for a in seen]))
    places = [[at(c, log_budget) for log_budget in log_U] for c in range(C)]
    return np.array([[a[0] + sum(covariance(a, b) * x for b, x in zip(seen, alpha_O)) for a in row] for row in places])


def test_order_padding_and_the_level_are_what_they_say(runs):
    found_CF = posterior(KERNEL, runs, ROW_O, Y_O, LOG_BUDGET_O, np.float32(0.0))
    back = posterior(KERNEL, runs, ROW_O[::-1].copy(), Y_O[::-1].copy(), LOG_BUDGET_O[::-1].copy(), np.float32(0.0))
    np.testing.assert_allclose(back, found_CF, atol=1e-4)
    pad = lambda x_O, value: np.concatenate([x_O, np.full(3, value, x_O.dtype)])
    padded = posterior(KERNEL, runs, pad(ROW_O, -1), pad(Y_O, 99.0), pad(LOG_BUDGET_O, 0.0), np.float32(0.0))
    np.testing.assert_allclose(padded, found_CF, atol=1e-4)
    lower_CF = posterior(KERNEL, runs, ROW_O, Y_O, LOG_BUDGET_O, np.float32(0.25))
    np.testing.assert_allclose(lower_CF[:, :U], found_CF[:, :U] - 0.25, atol=1e-5)
    np.testing.assert_allclose(lower_CF[:, U:], found_CF[:, U:], atol=1e-6)


def test_a_task_that_is_like_another_one_is_recognised(runs):
    """Eight runs say which of three tasks this is; of the other four runs the answer is then known."""
    sure = runs._replace(recall=runs.recall._replace(near_CV=np.full_like(runs.recall.near_CV, 0.99)))
    truth_C = sure.recall.curve_CVU[:, 1, -1]
    log_budget_O = np.zeros(8, np.float32)
    found_CF = posterior(KERNEL, sure, np.arange(8), truth_C[:8], log_budget_O, np.float32(0.0))
    error = lambda mean_C: np.sqrt(np.mean((np.asarray(mean_C) - truth_C)[8:] ** 2))
    assert error(found_CF[:, U - 1]) < 0.3 * error(process.prior_mean(sure.recall)[:, -1])


def test_a_surprise_is_told(runs):
    scale = lambda y_O: float(posterior(KERNEL, runs, ROW_O, y_O, LOG_BUDGET_O, np.float32(0.0))[0, U])
    assert scale(30.0 * Y_O) > scale(Y_O) + 1.0


def test_a_fitted_kernel_predicts_new_tasks_better_than_its_start():
    tables = [dataclasses.replace(family.task(index), dataset=f'data{index}') for index in range(8)]
    encoding = ensemble.fit_encoding(tables)
    collated = episodes.collate(tables, encoding, Memory.fit(tables, encoding))
    weight_W = np.array([1.0] * 6 + [0.0] * 2)
    with np.errstate(divide='ignore'):
        fitted = prior.fit(collated, family.FRACTIONS_T, np.log(weight_W), seed=0)
        left_out = jnp.log(jnp.asarray(1.0 - weight_W))
    contexts = prior._draw(jax.random.split(jax.random.key(9), 16), collated, left_out, tuple(family.FRACTIONS_T))
    error = jax.jit(lambda kernel: jnp.mean(jax.vmap(prior._error, (None, 0))(kernel, contexts)))
    start = process.Kernel.initial(encoding.num_hyperparameters)
    assert fitted.length_E.shape == start.length_E.shape != (PLAIN_E,)
    assert float(error(fitted)) < float(error(start)) - 0.1
