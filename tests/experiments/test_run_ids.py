"""Runs keep their names: a field that came later changes them only where it says something new."""

import dataclasses

import pandas as pd

from experiments import collect
from metaft.finetune.search_space import Configuration
from metaft.metadataset import store

PREFIX = 'configuration.'


def recorded():
    """Yields (run id, its task, configuration, seed) of the shipped meta-dataset."""
    frame = store.read_parquet(collect.ASSETS / 'metadataset' / 'measurements.parquet').drop_duplicates('run_id')
    for row in frame.to_dict('records'):
        said = {k.removeprefix(PREFIX): v for k, v in row.items() if k.startswith(PREFIX) and not pd.isna(v)}
        yield row['run_id'], row['task'], Configuration.from_dict(said), int(row['seed'])


def test_the_shipped_runs_are_found_again():
    """Runs are named by their task; the oldest ones, all on the small base, by their dataset."""
    for name, task, configuration, seed in recorded():
        dataset, _, base = task.partition('@')
        names = {collect.run_id(task, configuration, seed)}
        if base == 'phi3_tiny':
            names.add(collect.run_id(dataset, configuration, seed))
        assert name in names


def test_what_is_new_is_another_run():
    plain = Configuration()
    names = {collect.run_id('d', c, 0) for c in (
        plain, dataclasses.replace(plain, dora=True), dataclasses.replace(plain, optimizer='lion'),
        dataclasses.replace(plain, label_smoothing=0.1), dataclasses.replace(plain, layers='last_half'))}  # fmt: skip
    assert len(names) == 5
