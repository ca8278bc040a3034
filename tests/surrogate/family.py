"""A small analytic family of tasks: the best learning rate moves from task to task, and no meta-feature says where.

loss(f) = floor + (start - floor) / (1 + 20 f)
floor   = .05 + .5 (log10 learning_rate - best)^2 + .1 [method is lora]
"""

import dataclasses

import numpy as np

from metaft.metadataset.tables import TaskTable

FRACTIONS_T = 2.0 ** np.arange(-5, 1)
START = 3.0
SECONDS = 20.0  # of a full run


def task(index: int, num_runs: int = 24) -> TaskTable:
    """Makes task `index`; its common half of configurations is shared with all other tasks."""
    best = best_rate(index)
    configurations = [*draw(0, num_runs // 2), *draw(index + 1, num_runs - num_runs // 2)]
    distance_C = np.array([np.log10(c['learning_rate']) - best for c in configurations])
    floor_C = 0.05 + 0.5 * distance_C**2 + np.array([0.1 * (c['method'] == 'lora') for c in configurations])
    values_CT = floor_C[:, None] + (START - floor_C[:, None]) / (1.0 + 20.0 * FRACTIONS_T[None, :])
    costs_CT = (
        np.array([1.0 + (c['method'] == 'full') for c in configurations])[:, None] * SECONDS * FRACTIONS_T[None, :]
    )
    return TaskTable(
        task=f'task{index}',
        metric='loss',
        meta_features={'size': float(index % 5), 'missing': np.nan},
        configurations=configurations,
        fractions_T=FRACTIONS_T,
        values_CT=values_CT,
        costs_CT=costs_CT,
        reference_value=START,
        reference_seconds=1e-3,
        max_examples=4096,
    )


def told(index: int, **more: float) -> TaskTable:
    """Makes task `index` of a dataset of its own, whose meta-features tell the best learning rate and what is said."""
    table = task(index)
    return dataclasses.replace(table, dataset=f'data{index}', meta_features={'best': best_rate(index), **more})


def best_rate(index: int) -> float:
    """Returns the log10 of the task's best learning rate."""
    return float(np.random.default_rng(1000 + index).uniform(-4.0, -2.0))


def draw(seed: int, num: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    methods = ['lora' if draw < 0.6 else 'full' for draw in rng.random(num)]
    return [
        {
            'method': method,
            'learning_rate': float(10.0 ** rng.uniform(-5, -1)),
            'rank': int(rng.choice([2, 8, 32])) if method == 'lora' else None,
        }
        for method in methods
    ]
