"""experiments/scaling_advise.py, tiny: an answer beside the fit, and its refusals."""

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
    from experiments import program, scaling_fit

    directory = tmp_path_factory.mktemp('fit')
    sizes = np.geomspace(100, 12800, 8).round()
    rng = np.random.default_rng(0)
    columns = {'lora': 9 * sizes**-0.15 + 0.5, 'full': 25 * sizes**-0.3 + 0.5}
    rows = [
        {'group': f'translate/{method}', 'data_size': size, 'loss': loss * np.exp(0.003 * rng.normal())}
        for method, losses in columns.items()
        for size, loss in zip(sizes, losses)
    ]
    pd.DataFrame(rows).to_csv(directory / 't.csv', index=False)
    flags = ['--group_column=group', f'--table={directory / "t.csv"}', f'--workdir={directory / "w"}']
    program.run(scaling_fit.main, scaling_fit.Settings, [*flags, '--num_draws=20', '--heldout_largest=2'])
    return directory / 'w'


def test_the_answer_is_written_beside_the_fit(fitted, run_experiment, capsys):
    run_experiment('scaling_advise', f'--fit={fitted}', '--examples=300')
    printed = capsys.readouterr().out
    record = json.loads((fitted / 'advice-300.json').read_text())
    assert record['choice']['group'] == 'translate/lora' and len(record['options']) == 2
    assert record['basis']['translate/full']['ranges']['examples'] == [100.0, 3200.0, 6]  # two sizes were held out
    assert (fitted / 'advice-300.md').read_text() in printed and 'Where one overtakes another' in printed


def test_groups_form_and_workdir_can_be_chosen(fitted, tmp_path, run_experiment):
    flags = [f'--fit={fitted}', '--examples=300', f'--workdir={tmp_path / "a"}', '--groups=*full', '--form=power']
    run_experiment('scaling_advise', *flags)
    record = json.loads((tmp_path / 'a' / 'advice-300.json').read_text())
    assert list(record['basis']) == ['translate/full'] and record['basis']['translate/full']['form'] == 'power'


def test_another_programs_report_gets_sentences_and_what_is_carried_over(fitted):
    from experiments import scaling_advise

    said = scaling_advise.sentences(fitted, 300)
    assert '2 groups, 12 points; fitted to their own measurements' in said[0] and '300 training examples' in said[0]
    assert 'translate/lora' in said[1] and any('Twice the data' in sentence for sentence in said)
    carried = scaling_advise.carried(fitted, 'lora', 300, 1e6, 2.0, 'the table')
    assert len(carried) == 2 and carried[0].startswith('Twice the examples') and 'instead of 2' in carried[0]
    assert (
        'carried over from the table' in carried[1]
        and scaling_advise.carried(fitted, 'prompt', 300, 1e6, 2.0, '') == []
    )


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        (('--examples=0',), '--examples is 0; it must be a positive number'),
        ((), '--examples is required'),
        (
            ('--examples=10', '--groups=nothing'),
            "--groups names 'nothing', which no group matches; found are translate/",
        ),
        (('--examples=10', '--form=additive'), 'holds no additive law; found are power, rectified'),
        (('--examples=10', '--size_factor=depth'), "--size_factor is 'depth'; the factors of the laws are none"),
        (('--examples=10', '--fit=nowhere'), 'nowhere holds no laws.json; make it with scaling_fit'),
    ],
)
def test_bad_input_is_one_sentence(fitted, run_experiment, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        run_experiment('scaling_advise', f'--fit={fitted}', *flags)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and sentence in err
