"""experiments/benchmark_rectified.py, tiny: on curves with a known law, and without the tables."""

import json

import numpy as np
import pandas as pd
import pytest

SIZES = 200 * 2 ** np.arange(14)


def test_curves_of_the_rectified_law_are_fitted_extrapolated_and_ranked(tmp_path, run_experiment, capsys):
    rng = np.random.default_rng(0)
    rows = [
        {'model': name, '0': 9.0, **{f'{size}': (b / (20 + size**0.4) + e) * np.exp(0.001 * rng.normal())
                                     for size in SIZES}}
        for name, b, e in (('a', 60.0, 0.8), ('b', 30.0, 1.2), ('c', 45.0, 0.5))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / 'flan.csv', index=False)
    run_experiment('benchmark_rectified', f'--data={tmp_path}', f'--workdir={tmp_path / "w"}', '--num_draws=20')
    results = json.loads((tmp_path / 'w' / 'results.json').read_text())
    found = results['datasets']['FLAN']
    assert results['missing'] == ['WMT19', 'Gigaword'] and found['models'] == 3 and found['left_out']['size_zero'] == 3
    assert found['fit']['rectified'] < 0.002 < 0.01 < found['fit']['power without E']
    assert found['largest']['rectified']['log_rmsd'] < 0.02 and 0 <= found['largest']['power']['coverage'] <= 1
    assert set(found['shares']) == {'4', '16', '64'} and found['selection']['rectified'] > 0.99
    printed = capsys.readouterr().out
    assert 'wmt19.csv is missing, so WMT19 is left out' in printed and '| tail of 3 |' in printed


@pytest.mark.parametrize(
    ('flag', 'sentence'),
    [
        ('--data=nowhere', 'nowhere holds none of flan.csv, wmt19.csv, gigaword.csv; metaft does not ship'),
        ('--models=1', 'a correlation needs 2 or more'),
        ('--num_draws=2', 'need 20 or more'),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, run_experiment, capsys, flag, sentence):
    with pytest.raises(SystemExit) as stop:
        run_experiment('benchmark_rectified', f'--workdir={tmp_path / "w"}', flag)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
