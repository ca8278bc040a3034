"""The comparison of networks: what each study leaves out, and one tiny row of its table."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments import compare_architectures, train_surrogate
from experiments.compare_architectures import Settings
from metaft.metadataset import splits

DATASETS = ('composed_128', 'known_pair_64', 'recall_two_2048', 'recall_pet_160')


@pytest.fixture(scope='module')
def metadataset(tmp_path_factory):
    """A few runs on four datasets, on the shipped base and as if on one with four times the parameters."""
    directory = tmp_path_factory.mktemp('metadataset')
    shipped = train_surrogate.ASSETS / 'metadataset'
    for name in ('measurements', 'tasks'):
        frame = pd.read_parquet(shipped / f'{name}.parquet')
        frame = frame[frame['task'].isin([f'{name}@phi3_tiny' for name in DATASETS])]
        if name == 'measurements':
            frame = frame[frame.groupby('task')['run_id'].transform(lambda ids: pd.factorize(ids)[0]) < 10]
        larger = frame.assign(base_model='larger', task=frame['dataset'] + '@larger')
        if name == 'tasks':
            larger['meta_features.log_num_parameters'] += math.log(4.0)
        else:
            larger['run_id'] = 'larger-' + larger['run_id']
        pd.concat([frame, larger]).to_parquet(directory / f'{name}.parquet')
    return directory


@pytest.fixture(scope='module')
def tables(metadataset):
    return train_surrogate.read_tables(train_surrogate.Settings(metadataset=metadataset))


def test_each_study_leaves_out_what_it_says(tables):
    settings = Settings(heldout_datasets=('composed_128',))
    parts = {study: compare_architectures.split(study, tables, settings) for study in compare_architectures.STUDIES}
    assert all({table.metric for table in part.test} == {'loss'} for part in parts.values())
    datasets = lambda side: {splits.dataset_of(table) for table in side}
    assert datasets(parts['heldout'].test) == {'composed_128'} == set(DATASETS) - datasets(parts['heldout'].train)
    assert (
        datasets(parts['data_size'].test) == {'recall_two_2048'} == set(DATASETS) - datasets(parts['data_size'].train)
    )
    assert {table.task.split('@')[1] for table in parts['model_size'].test} == {'larger'}
    assert {table.task.split('@')[1] for table in parts['model_size'].train} == {'phi3_tiny'}
    for table in parts['budget'].train:
        seen_T = ~np.isnan(table.values_CT).all(axis=0)
        np.testing.assert_array_equal(seen_T, table.fractions_T < 0.26)
    assert not np.isnan(parts['budget'].test[0].values_CT[:, -1]).all()
    small = [table for table in tables if not table.task.endswith('larger')]
    assert compare_architectures.split('model_size', small, settings) is None


@pytest.mark.slow
def test_it_trains_scores_and_goes_on(metadataset, run_experiment, tmp_path, capsys):
    flags = (
        f'--workdir={tmp_path}', f'--metadataset={metadataset}', '--variants=deep_set/law', '--studies=budget',
        '--heldout_datasets=composed_128', '--steps=4', '--num_seeds=1', '--num_points=0,10',
    )  # fmt: skip
    run_experiment('compare_architectures', *flags)
    frame = pd.read_csv(tmp_path / 'architectures.csv')
    assert list(frame['num_points']) == [0, 10] and set(frame['variant']) == {'deep_set/law'}
    assert np.isfinite(frame[list(compare_architectures.SCORES)]).all(axis=None)
    assert 'budget: deep_set/law' in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('members.safetensors')}
    run_experiment('compare_architectures', *flags)
    assert len(written) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('members.safetensors')} == written


@pytest.mark.parametrize(
    ('flag', 'words'),
    [
        ('--variants=deep_set', 'ARCHITECTURE/HEAD'),
        ('--variants=deep_sea/law', 'independent'),
        ('--variants=deep_set/bent', 'anchored'),
        ('--num_members=1', 'at least 2'),
        ('--studies=luck', 'model_size'),
    ],
)
def test_bad_flags_are_refused(flag, words, run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('compare_architectures', f'--workdir={tmp_path / "a"}', flag)
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()


def test_a_cut_table_ends_at_its_fraction(tables):
    cut = splits.until(tables[0], 0.25)
    is_kept_T = tables[0].fractions_T < 0.26
    np.testing.assert_array_equal(cut.values_CT[:, is_kept_T], tables[0].values_CT[:, is_kept_T])
    assert np.isnan(cut.values_CT[:, ~is_kept_T]).all() and np.isnan(cut.costs_CT[:, ~is_kept_T]).all()
