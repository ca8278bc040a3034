"""experiments/scaling_fit.py, tiny: from a table to results.json and figures, resumed, and its refusals."""

import json

import numpy as np
import pandas as pd
import pytest

SIZES = np.geomspace(100, 12800, 8).round()


def wide_table(path):
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=(2, len(SIZES))))
    loss = noise * [30 / (8 + SIZES**0.3) + 0.8, 12 / (2 + SIZES**0.25) + 0.5]
    table = pd.DataFrame(loss, columns=[f'{size:.0f}' for size in SIZES])
    table.insert(0, 'model', ['a', 'b'])
    table.insert(1, '0', [5.0, 6.0])
    table.to_csv(path, index=False)
    return path


def tidy_table(path):
    models, sizes = map(np.ravel, np.meshgrid([1e6, 4e6, 16e6], SIZES))
    loss = (60 * models**-0.2 * sizes**-0.1 + 0.5) * np.exp(0.003 * np.random.default_rng(1).normal(size=len(sizes)))
    pd.DataFrame({'examples': sizes, 'model_size': models, 'test_loss': loss}).to_csv(path, index=False)
    return path


def test_a_wide_table_becomes_laws_errors_and_figures(tmp_path, run_experiment, capsys):
    flags = [f'--table={wide_table(tmp_path / "w.csv")}', f'--workdir={tmp_path / "w"}', '--num_draws=20']
    run_experiment('scaling_fit', *flags, '--heldout_largest=2')
    results = json.loads((tmp_path / 'w' / 'results.json').read_text())
    assert set(results['forms']) == {'power', 'rectified'}
    rectified, power = results['forms']['rectified'], results['forms']['power']
    assert rectified['fit_log_rmsd'] < power['fit_log_rmsd'] < 0.05 and 0 < rectified['heldout_log_rmsd'] < 0.05
    assert set(rectified['constants']) == {'a', 'b'} and set(rectified['intervals']['a']) == {'B', 'D_l', 'beta', 'E'}
    assert results['left_out'] == {'size_zero': 2, 'empty_cells': 0, 'columns': []} and results['points'] == 16
    assert (tmp_path / 'w' / 'curves.png').stat().st_size > 10_000 < (tmp_path / 'w' / 'residuals.png').stat().st_size
    laws = json.loads((tmp_path / 'w' / 'laws.json').read_text())
    assert len(laws) == 8 and all(np.isfinite(law['noise']) and len(law['draws']) == 20 for law in laws)
    assert 'best: ' in capsys.readouterr().out

    before = (tmp_path / 'w' / 'results.json').stat().st_mtime_ns
    run_experiment('scaling_fit', *flags, '--heldout_largest=2')
    assert 'nothing to do' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run_experiment('scaling_fit', *flags, '--heldout_largest=1')
    assert stop.value.code == 2 and 'its heldout_largest is 2, asked is 1' in capsys.readouterr().err
    assert (tmp_path / 'w' / 'results.json').stat().st_mtime_ns == before


def test_a_tidy_table_with_a_factor_gets_the_joint_laws(tmp_path, run_experiment):
    columns = ['--loss_column=test_loss', '--data_size_column=examples', '--factor_columns=model_size']
    table = tidy_table(tmp_path / 't.csv')
    run_experiment('scaling_fit', f'--table={table}', f'--workdir={tmp_path / "t"}', '--num_draws=20', *columns)
    forms = json.loads((tmp_path / 't' / 'results.json').read_text())['forms']
    assert set(forms) == {'power', 'rectified', 'multiplicative', 'additive', 'rectified_multiplicative'}
    assert forms['multiplicative']['fit_log_rmsd'] < 0.004 < 0.01 < forms['power']['fit_log_rmsd']
    assert forms['multiplicative']['aicc'] < forms['additive']['aicc']
    assert forms['multiplicative']['by_group']['all']['heldout_log_rmsd'] is None  # nothing was kept out: null, not 0


@pytest.mark.parametrize(
    ('table', 'flags', 'sentence'),
    [
        (
            'data_size,loss\n100,3\n',
            (),
            'no law can be fitted to any of 1 groups; all: 1 data size, at least 2 are needed',
        ),
        ('data_size,loss\n100,3\n200,3\n300,3\n400,3\n500,3\n', (), 'all losses are 3, so there is nothing that falls'),
        ('data_size,loss\n100,3\n200,2\n', ('--heldout_largest=-1',), 'it must be 0 or more'),
        ('data_size,loss\n100,3\n200,2\n', ('--objective=hubber',), 'did you mean huber?'),
        ('data_size,loss\n100,3\n200,2\n', ('--unshared_factors=x',), 'not among --factor_columns'),
        ('data_size,loss\n100,3\n200,2\n', ('--num_draws=3',), 'need 20 or more'),
        (
            'data_size,loss\n100,3\n200,2\n',
            ('--forms=additive',),
            'with no --factor_columns there are power, rectified',
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, run_experiment, capsys, table, flags, sentence):
    (tmp_path / 't.csv').write_text(table)
    with pytest.raises(SystemExit) as stop:
        run_experiment('scaling_fit', f'--table={tmp_path / "t.csv"}', f'--workdir={tmp_path / "w"}', *flags)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and sentence in err
    assert not (tmp_path / 'w' / 'results.json').exists()
