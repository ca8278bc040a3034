"""A recorded task of the shipped meta-dataset, for tuners of other libraries to try configurations on."""

from pathlib import Path

import numpy as np
import pandas as pd

from metaft.metadataset.records import TaskRecord
from metaft.metadataset.tables import task_tables
from metaft.search.advisor import Advisor
from metaft.surrogate.surrogate import Surrogate

ASSETS = Path(__file__).parents[3] / 'metaft' / 'assets'
FIXED = {'method': 'lora'}
CHOICES = {
    'schedule': ['cosine', 'linear', 'constant'],
    'weight_decay': [0.0, 0.001, 0.01, 0.1],
    'beta2': [0.95, 0.99, 0.999],
    'batch_size': [8, 16, 32, 64],
    'rank': [1, 2, 4, 8, 16, 32],
    'alpha_ratio': [0.5, 1.0, 2.0, 4.0],
    'dropout': [0.0, 0.05, 0.1, 0.2],
    'targets': ['attention', 'mlp', 'all'],
}
RANGES = {'learning_rate': (1e-5, 1.0), 'warmup_fraction': (0.0, 0.2)}
FULL_RUN_STEPS = 1024  # of every trial; the recorded curves are by share of a full run


def task(dataset='recall_food_48'):
    """Returns the task's table of losses, and an advisor that has the shipped surrogate."""
    measurements = pd.read_parquet(ASSETS / 'metadataset' / 'measurements.parquet')
    tasks = pd.read_parquet(ASSETS / 'metadataset' / 'tasks.parquet')
    name = f'{dataset}@phi3_tiny'
    (table,) = task_tables(measurements[measurements['task'] == name], tasks[tasks['task'] == name])
    record = TaskRecord(
        task=table.task,
        dataset=dataset,
        base_model='phi3_tiny',
        max_examples=int(table.max_examples),
        reference_loss=table.reference_value,
        reference_exact_match=0.0,
        reference_seconds=table.reference_seconds,
        meta_features={name: None if np.isnan(value) else value for name, value in table.meta_features.items()},
    )
    return table, Advisor(Surrogate.load(ASSETS / 'surrogate'), record)


def candidates(table):
    """Returns the recorded LoRA configurations, each once."""
    names = [*FIXED, *RANGES, *CHOICES]
    rows = [{n: c[n] for n in names} for c in table.configurations if c['method'] == 'lora']
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def curve(table, configuration):
    """Returns (step, loss) of a recorded run."""
    found = next(c for c, row in enumerate(table.configurations) if all(row[n] == v for n, v in configuration.items()))
    values_T = np.where(np.isfinite(table.values_CT[found]), table.values_CT[found], np.nan)
    return [(round(f * FULL_RUN_STEPS), float(v)) for f, v in zip(table.fractions_T, values_T, strict=True)]
