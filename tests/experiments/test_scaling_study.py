"""experiments/scaling_study.py and pretrain's checkpoints, tiny: from nothing to a table that scaling_fit reads."""

import json

import pandas as pd
import pytest

TINY = ('--tasks=translation', '--methods=full,lora', '--widths=16', '--width=16', '--checkpoints=2', '--ranks=4,8',
        '--data_sizes=16,32,64,96', '--seeds=1', '--epochs=1', '--min_examples=16', '--max_examples=64',
        '--pretraining_blocks=2', '--pretraining_block_steps=4')  # fmt: skip


@pytest.mark.slow
def test_a_tiny_study_writes_a_table_that_scaling_fit_reads(tmp_path, run_experiment, capsys):
    study = tmp_path / 'study'
    with pytest.raises(SystemExit) as stop:  # the one base belongs to the other shard
        run_experiment('scaling_study', f'--workdir={study}', *TINY, '--shard=1/2')
    assert stop.value.code == 2 and 'base-16 is of another shard' in capsys.readouterr().err
    run_experiment('scaling_study', f'--workdir={study}', *TINY)
    tokens = sorted(int(path.name.removeprefix('model-')) for path in (study / 'base-16').glob('model-*'))
    assert tokens == [4 * 512, 2 * 4 * 512] and (study / 'base-16' / 'model' / 'tokenizer.json').exists()
    table = pd.read_csv(study / 'study.csv')
    trained = table[table['data_size'] > 0]
    assert set(table['group']) == {'translation/full', 'translation/lora'} and len(trained) == 2 * 4 + 3 * 4
    assert len(table) == len(trained) + 4 and trained['loss'].between(0, 20).all()  # the base itself: 2 groups, 2 bases
    report = (study / 'study.md').read_text()
    assert 'Learning rates: translation/full/16' in report and 'CPU hours' in capsys.readouterr().out

    before = (study / 'runs-0-of-1.jsonl').read_bytes()
    run_experiment('scaling_study', f'--workdir={study}', *TINY)
    assert (study / 'runs-0-of-1.jsonl').read_bytes() == before

    again = tmp_path / 'again'  # its base models are the first study's, as far as they are what is asked for
    run_experiment(
        'scaling_study', f'--workdir={again}', f'--bases={study}', *TINY, '--data_sizes=16', '--methods=full'
    )
    assert f'2 base models taken over from {study}' in capsys.readouterr().out
    weights = [path / 'base-16' / f'model-{2 * 4 * 512}' / 'model.safetensors' for path in (study, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes() and not (again / 'base-16' / 'model').exists()
    third = tmp_path / 'third'  # neither bases nor runs are made again
    torn = tmp_path / 'torn.jsonl'
    torn.write_bytes(before + before[:40])
    run_experiment('scaling_study', f'--workdir={third}', f'--bases={study}', f'--runs={torn}', *TINY)
    num = len(before.splitlines())
    said = capsys.readouterr().out
    assert f'{num} of {num} runs taken over from {torn}' in said and f'{torn}: 1 torn line(s) left out' in said
    assert (
        not list(third.glob('runs-0-of-*')) and (third / 'study.csv').read_text() == (study / 'study.csv').read_text()
    )
    other = ('--pretraining_block_steps=3', '--shard=1/2')  # pretrained by nobody
    with pytest.raises(SystemExit):
        run_experiment('scaling_study', f'--workdir={tmp_path / "other"}', f'--bases={study}', *TINY, *other)
    assert f'{study} has no base-16/model-{3 * 512} as asked' in capsys.readouterr().out

    factors = '--factor_columns=model_size,pretraining_tokens,adapter_size'
    fit = [f'--table={study / "study.csv"}', '--group_column=group', factors, '--unshared_factors=adapter_size']
    run_experiment('scaling_fit', *fit, f'--workdir={tmp_path / "laws"}', '--num_draws=20')
    results = json.loads((tmp_path / 'laws' / 'results.json').read_text())
    assert results['left_out']['size_zero'] == 4
    left = results['forms']['multiplicative']['constant_factors']
    assert left == {'translation/full': ['model_size', 'adapter_size'], 'translation/lora': ['model_size']}


def test_the_plan_runs_nothing(tmp_path, run_experiment, capsys):
    run_experiment('scaling_study', f'--workdir={tmp_path / "none"}', '--plan', '--rates=each_size')
    printed = capsys.readouterr().out
    assert 'in all' in printed and '4 pretrainings' in printed and not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
    ('flag', 'sentence'),
    [
        ('--tasks=song', "--tasks is 'song'; allowed are translation, summary"),
        ('--methods=full,lorra', 'allowed are full, lora, prompt'),
        ('--widths=32,40', 'give multiples of 16, --width=64 among them'),
        ('--data_sizes=64,32', 'each once, increasing'),
        ('--seeds=0', '--seeds be at least 1'),
        ('--min_examples=8', 'at least a batch, 16'),
        ('--shard=3', 'write I/N'),
        ('--rates=none', 'one_size'),
        ('--bases=nowhere', '--bases is nowhere, which is no directory'),
        ('--runs=nowhere', '--runs is nowhere, which does not exist; give a file'),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, run_experiment, capsys, flag, sentence):
    with pytest.raises(SystemExit) as stop:
        run_experiment('scaling_study', f'--workdir={tmp_path / "w"}', flag)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
