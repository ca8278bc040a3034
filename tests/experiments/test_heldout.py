"""The held-out comparison, tiny: equal budgets, a table with every method, and nothing run twice."""

import pandas as pd
import pytest

from experiments import heldout
from metaft.tasks import catalogue


def test_held_out_and_collected_share_nothing():
    seeds = {name: seed for entries in (catalogue.COLLECTED, catalogue.HELD_OUT) for name, (_, seed) in entries.items()}
    assert len(set(seeds.values())) == len(seeds) == len(catalogue.COLLECTED) + len(catalogue.HELD_OUT)
    assert len(catalogue.HELD_OUT) == 8 and set(heldout.PRIMARY) < set(catalogue.HELD_OUT)


@pytest.mark.slow
def test_every_method_gets_the_same_budget(run_experiment, tmp_path, capsys):
    flags = (f'--workdir={tmp_path}', '--datasets=held_out_pair_96', '--num_seeds=1', '--budget_full_runs=0.5')
    run_experiment('heldout', *flags)
    frame = pd.read_csv(tmp_path / 'heldout.csv')
    assert (
        tuple(frame['method']) == ('default', 'default_again', 'random', 'transfer', 'metaft')
        and frame['budget_seconds'].nunique() == 1
    )
    searches = frame[frame['method'].isin(('random', 'transfer', 'metaft'))]
    budget = frame['budget_seconds'].iloc[0]
    assert budget > frame['compile_seconds'].iloc[0] > 0
    assert (searches['spent_seconds'] < budget + 10).all()  # the overshoot that `tune` promises
    assert frame['test_loss'].between(0, frame['zero_shot_test_loss'].max() + 1).all()
    table = (tmp_path / 'heldout.md').read_text()
    assert table in capsys.readouterr().out and 'held_out_pair_96' in table

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('results.json')}
    assert len(written) == 4  # the default and three searches
    run_experiment('heldout', *flags)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('results.json')} == written


@pytest.mark.parametrize(
    ('flag', 'words'), [('--datasets=harbour_town', 'held_out_pair_96'), ('--num_seeds=0', 'must be positive')]
)
def test_bad_flags_are_refused(flag, words, run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('heldout', f'--workdir={tmp_path}', flag)
    assert stop.value.code == 2 and words in capsys.readouterr().err
