"""Where losses follow the joint law, the law-shaped head carries it to data sizes and models never seen."""

import math

import numpy as np
import pytest

from metaft.metadataset.tables import TaskTable
from metaft.surrogate import ensemble, evaluation
from metaft.surrogate.training import TrainingSettings
from tests.surrogate.family import FRACTIONS_T, draw

START = 6.0
SEEN = [(2.0**i, x) for i in range(5, 10) for x in (2e5, 9e5)]  # training examples, parameters
LARGER = {'examples': (2.0**13, 9e5), 'parameters': (2.0**9, 2e7)}


def task(index: int, examples: float, parameters: float) -> TaskTable:
    """Makes a task with loss = .1 + h t^-.25 (D / 256)^-.3 (X / 5e5)^-.2, where h is the configuration's."""
    configurations = [*draw(0, 12), *draw(index + 1, 12)]
    height_C = np.array([0.3 + 0.3 * (math.log10(c['learning_rate']) + 3.0) ** 2 for c in configurations])
    sizes = (examples / 256.0) ** -0.3 * (parameters / 5e5) ** -0.2
    values_CT = 0.1 + height_C[:, None] * sizes * FRACTIONS_T[None, :] ** -0.25
    return TaskTable(
        task=f'task{index}',
        metric='loss',
        meta_features={'log_num_train_examples': math.log(examples), 'log_num_parameters': math.log(parameters)},
        configurations=configurations,
        fractions_T=FRACTIONS_T,
        values_CT=values_CT,
        costs_CT=np.broadcast_to(10.0 * FRACTIONS_T, values_CT.shape),
        reference_value=START,
        reference_seconds=1e-3,
        max_examples=4096,
    )


def error(head: str) -> dict[str, float]:
    """Trains on the small sizes; returns the mean squared error on larger ones before any observation."""
    settings = ensemble.EnsembleSettings(
        2, 'deep_set', head, TrainingSettings(steps=1000, batch_size=4, num_queries=24)
    )
    surrogate = ensemble.learn([task(index, *sizes) for index, sizes in enumerate(SEEN)], settings)
    larger = {name: [task(100 + i, *sizes) for i in range(3)] for name, sizes in LARGER.items()}
    return {
        name: evaluation.evaluate(surrogate, tables, (0,), num_draws=1)[0]['mse'] for name, tables in larger.items()
    }


@pytest.mark.slow
def test_the_law_reaches_sizes_that_a_free_head_does_not():
    """Measured: .027 against .044 over data sizes, .016 against .039 over model sizes.

    With what is remembered added to it the law is the worst of all, .095 and .062: memory knows smaller sizes only.
    """
    law, free = error('law_alone'), error('free')
    assert law['examples'] < 0.8 * free['examples']
    assert law['parameters'] < 0.8 * free['parameters']
