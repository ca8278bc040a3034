"""experiments/scaling_simulate.py, tiny: rates by column, resumed, and its refusals."""

import json

import pytest


def test_two_columns_are_simulated_and_gone_on_with(tmp_path, run_experiment, capsys):
    flags = [f'--workdir={tmp_path}', '--num_draws=20', '--columns=EnDe/full,EnZh/prompt']
    run_experiment('scaling_simulate', *flags, '--simulations=1')
    file = tmp_path / 'simulations-0-of-1.jsonl'
    with file.open('a') as log:
        log.write('{"column": "EnDe/fu')  # a kill inside of a line
    run_experiment('scaling_simulate', *flags, '--simulations=2')
    lines = file.read_text().splitlines()
    assert lines.pop(2) == '{"column": "EnDe/fu'
    records = [json.loads(line) for line in lines]
    assert [(r['column'], r['simulation']) for r in records] == [
        ('EnDe/full', 0), ('EnZh/prompt', 0), ('EnDe/full', 1), ('EnZh/prompt', 1),
    ]  # fmt: skip
    assert records[0]['deviation'] != records[2]['deviation']
    full, prompt = json.loads((tmp_path / 'results.json').read_text())['columns']
    assert full['simulations'] == 2 and 0.5 <= full['bands'] <= 1 and full['published_heldout_deviation'] == 0.0048
    assert full['heldout_deviation'] < 0.02 and full['left_open'] == {'alpha': 0.0, 'beta': 0.0, 'E': 0.0}
    assert prompt['left_open_at_one_size']['beta'] == 1.0  # .015 over a decade
    assert '| EnZh/prompt | 2 |' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flag', 'sentence'),
    [
        ('--noise=-1', '--noise is -1; it must be a positive number'),
        ('--columns=EnDe/fll', "--columns names 'EnDe/fll'; allowed are EnDe/full"),
        ('--simulations=0', '--simulations must be at least 1'),
        ('--shard=2/2', "--shard is '2/2'; write I/N"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, run_experiment, capsys, flag, sentence):
    with pytest.raises(SystemExit) as stop:
        run_experiment('scaling_simulate', f'--workdir={tmp_path / "w"}', flag)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
