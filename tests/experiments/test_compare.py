"""The comparison, tiny: the files of the issue, resumed without work, and mistakes told before any."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import compare

METHODS = 'random,default,mean_rank,portfolio,last_value,oracle'
REGRET = 'method budget_fraction budget_steps normalized_regret standard_error rank num_tasks num_seeds'.split()
PREDICTION = 'method context_size log_likelihood mse coverage_80 spearman cost_ape'.split()


def write(path, shapes, seed=0):
    """Writes an nmtlc file of twelve LoRA runs a base model."""
    rng = np.random.default_rng(seed)
    records = []
    for base, layers, width in shapes:
        best = rng.uniform(-1.0, 1.0)
        for index in range(12):
            x = (index - 5.5) / 6
            curve = np.exp(0.3 + 0.4 * (x - best) ** 2 + 1.5 / np.arange(1, 21))
            options = {'dataset_size': 1000, 'initial_lr': 10.0 ** (-4 + x), 'batch_size': 16, 'r': 2}
            options |= {'num_layers': layers, 'model_size': width}
            records.append(
                {'task': 'finetune', 'dataset_name': 'fr-en', 'basemodel': base, 'hyperparams': options,
                 'perplexity_curve': curve.tolist(), 'bleu_curve': (40 / curve).tolist()}
            )  # fmt: skip
    path.write_text(json.dumps(records))
    return path


SHAPES = [('xglm', 24, 1024), ('xglm', 24, 2048), ('bloomz', 24, 1024), ('bloomz', 24, 2048)]


def test_it_writes_what_it_says_and_goes_on(run_experiment, tmp_path, capsys):
    path = write(tmp_path / 'nmtlc.json', SHAPES)
    flags = [
        '--table=nmtlc',
        f'--train_path={path}',
        f'--workdir={tmp_path / "w"}',
        '--context_sizes=0,10',
        '--num_folds=2',
    ]
    run_experiment('compare', *flags, f'--methods={METHODS}', '--seeds=2')
    regrets = pd.read_csv(tmp_path / 'w' / 'regret.csv')
    assert list(regrets) == REGRET and len(regrets) == 6 * 5
    assert list(regrets['method'].drop_duplicates()) == METHODS.split(',')
    np.testing.assert_allclose(regrets['budget_fraction'][:5], [0.05, 0.1, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(regrets['budget_steps'][:5], np.array([0.05, 0.1, 0.25, 0.5, 1.0]) * 5 * 8)
    assert (regrets['num_tasks'] == 4).all() and regrets['normalized_regret'].notna().all()
    by_method = regrets.set_index(['method', 'budget_fraction'])
    assert by_method.loc['random', 'num_seeds'].eq(2).all() and by_method.loc['mean_rank', 'num_seeds'].eq(1).all()
    assert by_method.loc[('oracle', 1.0), 'normalized_regret'] == 0.0
    means = by_method['normalized_regret'].unstack()
    assert (means.diff(axis=1).iloc[:, 1:] <= 1e-12).all(axis=None), 'the best so far only gets better'
    predictions = pd.read_csv(tmp_path / 'w' / 'prediction.csv')
    assert list(predictions) == PREDICTION and set(predictions['method']) == {'last_value'}
    assert {path.name for path in (tmp_path / 'w').glob('*.png')} == {'regret.png', 'prediction.png'}
    assert 'normalised regret' in capsys.readouterr().out

    journals = [(tmp_path / 'w' / f'{name}.jsonl').read_text() for name in ('replays', 'predictions')]
    assert len(journals[0].splitlines()) == 4 * (1 + 1 + 1 + 1 + 2 + 2)
    run_experiment('compare', *flags, f'--methods={METHODS}', '--seeds=2')
    assert journals == [(tmp_path / 'w' / f'{name}.jsonl').read_text() for name in ('replays', 'predictions')]
    run_experiment('compare', *flags, '--methods=random', '--seeds=3')  # adds a seed, and shows random alone
    assert pd.read_csv(tmp_path / 'w' / 'regret.csv')['num_seeds'].eq(3).all()


def test_two_files_and_budgets_in_steps(run_experiment, tmp_path):
    train, test = write(tmp_path / 'a.json', SHAPES[:3]), write(tmp_path / 'b.json', SHAPES[2:], seed=1)
    flags = [f'--train_path={train}', f'--test_path={test}', f'--workdir={tmp_path / "w"}', '--context_sizes=0']
    run_experiment(
        'compare', '--table=nmtlc', *flags, '--methods=random,mean_rank', '--seeds=2', '--budgets_steps=4,8,24'
    )
    regrets = pd.read_csv(tmp_path / 'w' / 'regret.csv')
    assert list(regrets['budget_steps'][:3]) == [4, 8, 24] and (regrets['num_tasks'] == 2).all()
    np.testing.assert_allclose(regrets['budget_fraction'][:3], np.array([4, 8, 24]) / 40)


def test_a_single_task_has_nothing_to_transfer_from(run_experiment, tmp_path, capsys):
    path = write(tmp_path / 'nmtlc.json', SHAPES[:1])
    run_experiment(
        'compare', '--table=nmtlc', f'--train_path={path}', f'--workdir={tmp_path / "w"}',
        '--methods=random,portfolio,last_value', '--seeds=1', '--context_sizes=0,10',
    )  # fmt: skip
    assert 'left out: portfolio' in capsys.readouterr().out
    regrets = pd.read_csv(tmp_path / 'w' / 'regret.csv')
    assert set(regrets['method']) == {'random', 'last_value'}


@pytest.mark.slow
def test_metaft_is_trained_once_a_fold(run_experiment, tmp_path):
    path = write(tmp_path / 'nmtlc.json', SHAPES)
    flags = ['--table=nmtlc', f'--train_path={path}', f'--workdir={tmp_path / "w"}', '--num_folds=2', '--steps=200']
    run_experiment('compare', *flags, '--methods=random,metaft_transfer,metaft', '--seeds=2', '--context_sizes=0,10')
    regrets = pd.read_csv(tmp_path / 'w' / 'regret.csv').set_index(['method', 'budget_fraction'])['normalized_regret']
    assert regrets['metaft', 1.0] < regrets['random', 0.05]
    assert len(list((tmp_path / 'w' / 'surrogates').glob('fold-*/surrogate.json'))) == 2
    assert (
        list(pd.read_csv(tmp_path / 'w' / 'paired.csv'))
        == 'method budget_fraction difference low high num_tasks'.split()
    )


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--methods=dhb'], "method 'dhb' is unknown"),
        (['--table=lcbench'], 'needs --train_path'),
        (['--table=lcbnch'], 'did you mean lcbench'),
        (['--seeds=0'], '--seeds is 0'),
        (['--num_folds=1'], '--num_folds is 1'),
        (['--budgets_steps=100,50'], 'give ascending numbers'),
    ],
)
def test_mistakes_are_told(flags, words, run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('compare', f'--workdir={tmp_path / "w"}', *flags)
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / 'w').exists()


def test_fractions_are_those_of_the_issue():
    assert compare.FRACTIONS == (0.05, 0.1, 0.25, 0.5, 1.0)
