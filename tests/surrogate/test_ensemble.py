"""On a family of tasks with a hidden optimum: what was learned transfers, and observations sharpen it."""

import dataclasses

import jax
import numpy as np
import pytest

from metaft.surrogate import deep_set, ensemble, evaluation, process, training
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
