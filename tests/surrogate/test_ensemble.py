"""On a family of tasks with a hidden optimum: what was learned transfers, and observations sharpen it."""

import dataclasses

import jax
import numpy as np
import pytest

from metaft.surrogate import deep_set, ensemble, evaluation, process, regression, training
from tests.surrogate import family

POINTS = (0, 12, 48)


@pytest.fixture(scope='module')
def surrogate():
    settings = ensemble.EnsembleSettings(
        num_members=2, training=training.TrainingSettings(steps=1200, batch_size=4, num_queries=24)
    )
    return ensemble.learn([family.task(index) for index in range(12)], settings)


@pytest.fixture(scope='module')
def scores(surrogate):
    return evaluation.evaluate(surrogate, [family.task(index) for index in range(100, 106)], POINTS, num_draws=2)


def test_observations_sharpen_predictions_of_new_tasks(scores):
    likelihood = [row['log_likelihood'] for row in scores]
    assert likelihood[1] > likelihood[0] + 0.3
    assert likelihood[2] > likelihood[0] + 0.3
    assert scores[2]['mse'] < 0.6 * scores[0]['mse']
    assert scores[2]['spearman'] > max(scores[0]['spearman'], 0.8)


def test_intervals_cover(scores):
    assert all(0.6 < row['coverage_80'] <= 1.0 for row in scores[1:])


def test_cost_is_known_before_the_first_run(scores):
    assert scores[0]['cost_error'] < 0.1  # log; the method alone changes it by .69


def test_the_record_says_what_it_was_trained_on(surrogate):
    assert len(surrogate.provenance['tasks']) == 12
    steps, losses = zip(*surrogate.provenance['left_out_loss'], strict=True)
    assert steps == tuple(range(100, 1201, 100))
    assert surrogate.provenance['best_step'] == steps[np.argmin(losses)]
    assert all(np.isfinite(part) for part in dataclasses.astuple(surrogate.calibration)[0])


def test_the_better_of_a_pair_is_asked_to_be_predicted_better():
    loss = jax.jit(training.rank_loss)
    y_C, weight_C = np.array([0.0, 1.0, 2.0], np.float32), np.ones(3, np.float32)
    assert float(loss(y_C, y_C, weight_C)) < 0.1 < float(loss(-y_C, y_C, weight_C))
    ignored = loss(np.array([0.0, 1.0, -9.0], np.float32), y_C, np.array([1.0, 1.0, 0.0], np.float32))
    assert float(ignored) < 0.1


def test_sizes_make_the_network(surrogate):
    assert isinstance(surrogate.architecture, deep_set.Architecture)
    assert surrogate.architecture.num_hyperparameters == surrogate.encoding.num_hyperparameters + process.SIZE


def test_the_one_that_is_right_gets_the_say_and_factors_are_what_was_off():
    """Networks say 0 where the truth is anywhere; the regression is right, with deviations half of what they are."""
    rng, num, num_G = np.random.default_rng(0), 4000, 2 + regression.NUM_COMPONENTS
    is_begun_N = rng.random(num) < 0.5
    factors_NF = np.stack([np.ones(num), is_begun_N, np.full(num, 0.3)], axis=1)
    y_N = rng.normal(size=num)
    told_N = y_N + 0.1 * rng.normal(size=num)
    mean_NG, sd_NG = np.zeros((num, num_G)), np.full((num, num_G), 0.05)
    mean_NG[:, 2:], sd_NG[:, :2] = told_N[:, None], 1.0
    log_weight_NG = np.log(np.full((num, num_G), [0.25, 0.25, *[0.5 / regression.NUM_COMPONENTS] * (num_G - 2)]))
    cells = ensemble._Cells(factors_NF, y_N, log_weight_NG, mean_NG, sd_NG, np.ones(num, bool))
    value, regressed, say = (factors_NF @ np.array(part) for part in ensemble._fit_factors([cells], seed=0))
    assert say.min() > 3.0
    np.testing.assert_allclose(np.exp(regressed), 2.0, rtol=0.1)

    alone = cells._replace(log_weight_NG=cells.log_weight_NG[:, :2], mean_NG=mean_NG[:, :2], sd_NG=0.5 * sd_NG[:, :2],
                           is_regressed_N=np.zeros(num, bool))  # fmt: skip
    value, *rest = ensemble._fit_factors([alone._replace(log_weight_NG=np.log(np.full((num, 2), 0.5)))], seed=0)
    np.testing.assert_allclose(np.exp(factors_NF @ np.array(value)), 2.0, rtol=0.1)
    assert rest == [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
