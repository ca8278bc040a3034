"""experiments/scaling_agreement.py: what is compared, and the whole on four datasets."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import scaling_agreement, train_surrogate
from metaft.scaling import agreement

DATASETS = ('composed_128', 'known_pair_64', 'recall_two_2048', 'recall_pet_160')


def test_only_settled_constants_of_runs_that_follow_the_law_are_compared():
    runs = [(f'task {task}', run) for task in range(4) for run in range(4)]
    recorded = pd.DataFrame(runs, columns=['task', 'run'])
    value = np.linspace(0.1, 1.0, len(runs))
    for name in agreement.CONSTANTS:
        recorded = recorded.assign(**{name: value, f'{name}_settled': (recorded['run'] < 2) | (name == 'slope')})
    recorded['log_rmsd'] = np.where(recorded['run'] == 0, 0.2, 0.01)
    columns = dict.fromkeys(agreement.CONSTANTS, value) | {f'guess_{name}': 0.5 for name in agreement.CONSTANTS}
    predicted = recorded[['task', 'run']].assign(head='law', seen='nothing', **columns)
    found = scaling_agreement.compare(recorded, predicted)
    assert found['runs'] == 16 and found['follow_a_power_law'] == 12 and found['of_these_settle']['beta'] == 4
    assert found['agreement']['law/nothing/beta'].runs == 4 and found['agreement']['law/nothing/slope'].runs == 16
    assert found['agreement']['law/nothing/beta'].spearman.value == pytest.approx(1.0)
    assert '| law | nothing | slope | 16 | 4 | 1 [1, 1] | 0 [0, 0] |' in scaling_agreement.markdown(found)


def test_bad_flags_are_one_sentence(tmp_path, run_experiment, capsys):
    for flag, sentence in (('--num_draws=3', '20 or more'), ('--heads=lawless', 'unknown head')):
        with pytest.raises(SystemExit):
            run_experiment('scaling_agreement', f'--workdir={tmp_path / "none"}', flag)
        assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_metadataset_to_the_comparison(tmp_path, run_experiment):
    shipped = train_surrogate.ASSETS / 'metadataset'
    for name in ('measurements', 'tasks'):
        frame = pd.read_parquet(shipped / f'{name}.parquet')
        frame = frame[frame['task'].isin([f'{name}@phi3_tiny' for name in DATASETS])]
        frame.to_parquet(tmp_path / f'{name}.parquet')
    flags = [f'--metadataset={tmp_path}', f'--workdir={tmp_path / "out"}', '--heads=law_alone', '--folds=2']
    run_experiment('scaling_agreement', *flags, '--steps=2', '--most_runs=3', '--num_draws=20')
    found = json.loads((tmp_path / 'out' / 'agreement.json').read_text())
    assert found['runs'] == 4 * 3 and found['agreement']['law_alone/nothing/slope']['tasks'] == 4
    assert len(pd.read_csv(tmp_path / 'out' / 'agreement.csv')) == 2 * 4 * 3
