"""From runs to a surrogate, tiny: collect in two shards, be interrupted, go on, merge, check, train, load."""

import json
import shutil

import numpy as np
import pytest

from experiments import collect
from metaft.metadataset import store
from metaft.metadataset.tables import task_tables
from metaft.surrogate.surrogate import Surrogate

DATASETS = ('recall_job_16', 'known_twice_16', 'rule_team_96')
FLAGS = (
    f'--datasets={",".join(DATASETS)}',
    '--num_common=2',
    '--num_random=1',
    '--max_examples=64',
    '--repeat_share=0.34',
    '--clock=cpu',
)
NUM_RUNS = len(DATASETS) * 4  # two common configurations, one of its own, one repeated


@pytest.fixture(scope='module')
def collected(tmp_path_factory):
    """A merged collection whose first shard was interrupted in the middle of a run."""
    from experiments import program

    workdir = tmp_path_factory.mktemp('collection')
    append, left = store.append, [20]

    def stop_after_some(path, measurement):
        append(path, measurement)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    def run(*more):
        program.run(collect.main, collect.Settings, [f'--workdir={workdir}', *FLAGS, *more])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, 'append', stop_after_some)
        with pytest.raises(SystemExit) as stop:
            run('--shard=0/2')
        assert stop.value.code == 130
    for flag in ('--shard=0/2', '--shard=1/2', '--merge'):
        run(flag)
    return workdir


def test_every_planned_run_is_there_once_and_whole(collected):
    frame = store.read_parquet(collected / 'measurements.parquet')
    ends = frame[frame['status'] != 'running']
    assert len(ends) == ends['run_id'].nunique() == frame['run_id'].nunique() == NUM_RUNS
    assert not frame.duplicated(['run_id', 'budget_steps']).any()
    assert set(ends['dataset']) == set(DATASETS) and ends['test_loss'].notna().all()
    common = ends.groupby([c for c in ends if c.startswith('configuration.')], dropna=False)['dataset'].nunique()
    assert (common == len(DATASETS)).sum() == 2
    assert (frame['cost_seconds'] > 0).all() and (frame.groupby('run_id')['cost_flops'].diff().dropna() > 0).all()


def test_check_reproduces_recorded_losses(collected, run_experiment, tmp_path, capsys):
    run_experiment('collect', f'--workdir={tmp_path}', '--check=2', f'--metadataset={collected}', '--max_examples=64')
    worst = float(capsys.readouterr().out.rsplit('over 2 runs: ')[1].split()[0])
    assert worst < 1e-5


def test_a_surrogate_of_it_trains_loads_and_ranks(collected, run_experiment, tmp_path):
    flags = (f'--workdir={tmp_path}', f'--metadataset={collected}', '--steps=4', '--num_members=2')
    run_experiment('train_surrogate', *flags, '--heldout_datasets=rule_team_96', '--num_points=0,5')
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['num_tasks'] == 2 and [row['num_points'] for row in metrics['heldout']['loss']] == [0, 5]
    assert np.isfinite([row['log_likelihood'] for row in metrics['heldout']['loss']]).all()
    surrogate = Surrogate.load(tmp_path / 'surrogate')
    assert surrogate.provenance['left_out_loss'] and metrics['num_runs'] == 8
    before = (tmp_path / 'surrogate' / 'surrogate.json').stat().st_mtime_ns
    run_experiment('train_surrogate', *flags, '--heldout_datasets=rule_team_96', '--num_points=0,5')
    assert (tmp_path / 'surrogate' / 'surrogate.json').stat().st_mtime_ns == before  # done is done


def test_collections_of_other_bases_and_axes_merge_with_what_is_published(collected, run_experiment, tmp_path):
    base = tmp_path / 'phi3_other'
    shutil.copytree(collect.ASSETS / 'phi3_tiny', base)
    published = tmp_path / 'published'
    published.mkdir()
    for name in ('measurements.parquet', 'tasks.parquet'):
        shutil.copy(collected / name, published)
    more = ('--max_examples=64', '--repeat_share=0', f'--datasets={DATASETS[0]}')
    other = (f'--model={base}', '--num_common=2', '--first_common=1', '--num_random=0')
    run_experiment('collect', f'--workdir={tmp_path / "other"}', *more, *other)
    run_experiment('collect', f'--workdir={tmp_path / "wide"}', *more, '--num_common=0', '--num_random=2', '--wide')
    sources = f'--sources={published},{tmp_path / "other"},{tmp_path / "wide"}'
    run_experiment('collect', f'--workdir={tmp_path / "all"}', '--merge', sources)
    frame = store.read_parquet(tmp_path / 'all' / 'measurements.parquet')
    assert frame['run_id'].nunique() == NUM_RUNS + 1 + 2
    assert set(frame['base_model']) == {'phi3_tiny', 'phi3_other'} and frame['task'].nunique() == len(DATASETS) + 1
    default = frame[(frame['dataset'] == DATASETS[0]) & (frame['configuration.learning_rate'] == 1e-3)]
    ends = default[(default['status'] == 'finished') & (default['seed'] == 0)]
    assert len(ends) == 2 and ends['validation_loss'].nunique() == 1  # the same weights under another name
    tables = task_tables(frame, store.read_parquet(tmp_path / 'all' / 'tasks.parquet'))
    assert len(tables) == frame['task'].nunique()


@pytest.mark.parametrize(
    ('flag', 'words'),
    [
        ('--datasets=recall_job_17', 'recall_job_16'),
        ('--shard=2/2', 'I below N'),
        ('--method_shares=1,0', 'three shares'),
        ('--clock=sun', 'wall'),
        ('--merge', 'collect first'),
        ('--check=99999', 'finished runs of phi3_tiny'),
    ],
)
def test_bad_flags_are_refused(flag, words, run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('collect', f'--workdir={tmp_path}', flag)
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_another_design_in_the_same_workdir_is_refused(collected, run_experiment, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('collect', f'--workdir={collected}', *FLAGS, '--seed=1')
    assert stop.value.code == 2 and 'seed' in capsys.readouterr().err
