"""The main job, small but whole: results, resume, faults; and bad input, refused in a sentence before any work."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from metaft.adapters import peft
from metaft.phi3 import load_pretrained
from metaft.tasks import catalogue
from metaft.tasks.dataset import write_json_lines

ROOT = Path(__file__).parents[2]
BASE = ROOT / 'metaft' / 'assets' / 'phi3_tiny'
SMALL = ('--max_examples=256', '--num_configurations=24', '--methods=lora')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Splits of a small dataset as a user has them."""
    directory, dataset = tmp_path_factory.mktemp('data'), catalogue.make('recall_food_48')
    for split in ('train', 'validation', 'test'):
        write_json_lines(directory / f'{split}.jsonl', getattr(dataset, split))
    return directory


def flags(files, workdir, *more):
    splits = [f'--{split}={files / split}.jsonl' for split in ('train', 'validation', 'test')]
    return ['tune', *splits, f'--workdir={workdir}', *SMALL, *more]


@pytest.fixture(scope='module')
def finished(files, tmp_path_factory):
    """A job that ran to its end, in a process of its own."""
    workdir = tmp_path_factory.mktemp('work') / 'job'
    _, *arguments = flags(files, workdir, '--budget_seconds=20', '--compare')
    command = [sys.executable, '-m', 'experiments.tune', *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir, done.stdout


def test_everything_is_left_in_the_workdir(finished):
    workdir, printed = finished
    results = json.loads((workdir / 'results.json').read_text())
    for name in ('incumbent', 'zero_shot', 'default'):
        assert {'configuration', 'budget_steps', 'validation_loss', 'test_loss', 'test_exact_match'} <= set(
            results[name]
        )
    assert results['zero_shot']['configuration'] is None and results['zero_shot']['budget_steps'] == 0
    assert results['num_measurements'] == len((workdir / 'measurements.jsonl').read_text().splitlines())
    assert results['dtype'] == 'float32' and json.loads((workdir / 'settings.json').read_text())['dtype'] is None
    assert results['num_runs_started'] >= 1 and results['seed'] == 0 and 'jax' in results['versions']
    assert results['spent_seconds'] <= max(1.1 * 20, 30)
    for name in ('settings.json', 'ranking.csv', 'learning_curves.png', 'report.html', 'adapter/adapter_config.json'):
        assert (workdir / name).stat().st_size > 100, name
    for words in ('meta-features', 'ranking', 'incumbent', 'of 20 s', 'Twice the examples', 'an expectation, not a'):
        assert words in printed.replace('\xa0', ' ')
    assert 'Twice the model size' in (workdir / 'report.html').read_text()


def test_incumbent_is_the_best_measurement_and_beats_the_untrained_model(finished):
    workdir, _ = finished
    results = json.loads((workdir / 'results.json').read_text())
    rows = [json.loads(line) for line in (workdir / 'measurements.jsonl').read_text().splitlines()]
    best = min(row['validation_loss'] for row in rows if row['validation_loss'] is not None)
    assert results['incumbent']['validation_loss'] == best < results['zero_shot']['validation_loss']


def test_ranking_is_of_all_candidates_with_uncertainty(finished):
    workdir, _ = finished
    with open(workdir / 'ranking.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and len({row['configuration_index'] for row in rows}) == 24
    for row in rows:
        assert float(row['predicted_low']) < float(row['predicted_high'])
        assert float(row['predicted_seconds']) > 0


def test_the_portfolio_is_of_different_candidates_whose_best_gets_better(finished):
    workdir, printed = finished
    portfolio = pd.read_csv(workdir / 'portfolio.csv')
    assert len(portfolio) == 5 and portfolio['configuration_index'].is_unique and 'To run 5 of them' in printed
    assert portfolio['expected_best'].is_monotonic_decreasing


def test_adapter_gives_the_losses_that_are_reported(finished):
    workdir, _ = finished
    results, model = json.loads((workdir / 'results.json').read_text()), load_pretrained(BASE)
    loaded = peft.load(workdir / 'adapter', model.config)
    import jax
    import optax

    from metaft.adapters import lora
    from metaft.finetune.task import prepare
    from metaft.tasks.tokenizer import load_tokenizer

    task = prepare(catalogue.make('recall_food_48'), model, load_tokenizer(BASE), base_model='phi3_tiny')
    rows = task.test
    with_axis = jax.tree.map(lambda x: x[None], (loaded.adapter, loaded.settings))
    logits = model.logits(lora.hidden(model, *with_axis, rows.tokens_NL))[:, :-1]
    nats = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens_NL[:, 1:]))
    at = np.arange(1, rows.tokens_NL.shape[1])[None, :]
    mask = (at >= rows.answer_start_N[:, None]) & (at < rows.length_N[:, None])
    assert nats[mask].mean() == pytest.approx(results['incumbent']['test_loss'], rel=1e-4)


def test_finished_job_given_more_budget_goes_on(finished, run_experiment, files, tmp_path):
    import shutil

    workdir, _ = finished
    again = tmp_path / 'again'
    shutil.copytree(workdir, again)
    before = (again / 'measurements.jsonl').read_text()
    run_experiment(*flags(files, again, '--budget_seconds=32', '--export=merged'))
    assert (again / 'measurements.jsonl').read_text().startswith(before)
    results = json.loads((again / 'results.json').read_text())
    assert results['casting_logit_change'] == 0.0  # the shipped base is float32
    assert load_pretrained(again / 'model').config == load_pretrained(BASE).config
    assert results['spent_seconds'] > 20 or results['num_measurements'] == len(before.splitlines())
    old = json.loads((workdir / 'results.json').read_text())
    assert results['incumbent']['validation_loss'] <= old['incumbent']['validation_loss']


@pytest.mark.parametrize(
    'sent',
    [pytest.param(signal.SIGINT, id='ctrl-c', marks=pytest.mark.slow), pytest.param(signal.SIGKILL, id='kill -9')],
)
def test_killed_job_goes_on_from_what_was_done(files, tmp_path, run_experiment, sent):
    arguments = flags(files, tmp_path / 'job', '--budget_seconds=25')
    process = subprocess.Popen([sys.executable, '-m', 'experiments.tune', *arguments[1:]], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    log, deadline = tmp_path / 'job' / 'measurements.jsonl', time.time() + 120
    while not (log.exists() and log.read_text().count('\n') >= 3) and process.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert process.returncode == 130 and 'run the same command' in error, error
    before = log.read_text()
    spent = json.loads((tmp_path / 'job' / 'progress.json').read_text())['spent_seconds']
    assert spent > 0
    run_experiment(*arguments)
    assert log.read_text().startswith(before[: before.rfind('\n') + 1])
    results = json.loads((tmp_path / 'job' / 'results.json').read_text())
    assert spent < results['spent_seconds'] <= 35
    assert math.isfinite(results['incumbent']['test_loss'])


def test_transfer_only_under_a_budget_of_flops_goes_on_where_it_was(files, tmp_path, run_experiment):
    """A FLOP is a FLOP: what is spent is what measured runs were trained with, to the last one, over two sessions."""
    workdir, spent = tmp_path / 'job', []
    for budget in (3e10, 5e10):
        run_experiment(*flags(files, workdir, '--search=transfer', f'--budget_flops={budget}', '--portfolio=3'))
        results = json.loads((workdir / 'results.json').read_text())
        rows = [json.loads(line) for line in (workdir / 'measurements.jsonl').read_text().splitlines()]
        by_run = {}
        for row in rows:
            by_run[row['run_id']] = max(by_run.get(row['run_id'], 0), row['cost_flops'])
        spent.append(results['budget'])
        assert results['budget'] == {'unit': 'flops', 'given': budget, 'spent': pytest.approx(sum(by_run.values()))}
        assert 0.3 * budget < sum(by_run.values()) <= budget and results['stopped_by'] == 'budget'
        chosen = pd.read_csv(workdir / 'portfolio.csv')['configuration_index']
        assert [int(run.split('-')[1]) for run in by_run][:3] == chosen[: len(by_run)].tolist()
    assert spent[1]['spent'] > spent[0]['spent'] and results['budget_seconds'] is None
    assert 'FLOPs' in (workdir / 'report.html').read_text()


def test_patience_ends_a_search_before_its_budget(files, tmp_path, run_experiment, capsys):
    run_experiment(*flags(files, tmp_path / 'job', '--budget_money=9', '--price_per_hour=600', '--patience=5'))
    results = json.loads((tmp_path / 'job' / 'results.json').read_text())
    assert results['budget_seconds'] == 54.0 and results['spent_seconds'] < 40 and results['stopped_by'] == 'patience'
    assert results['spent_money'] == pytest.approx(results['spent_seconds'] / 6)
    assert 'not worth its cost' in capsys.readouterr().out


BAD = [
    (('--train=missing.jsonl',), 'cannot be read'),
    (('--budget_seconds=0',), 'positive'),
    (('--budget_seconds=nan',), 'positive'),
    (('--budget_seconds=3', '--budget_flops=1e9'), 'one budget'),
    (('--budget_money=3',), 'need one another'),
    (('--budget_tokens=-1',), 'positive'),
    (('--budget_flops=10',), 'too small for one step'),
    (('--patience=-1',), 'at least 0'),
    (('--patience=1', '--search=random'), 'asks for none'),
    (('--budget_second=3',), 'did you mean budget_seconds'),
    (('--methods=lorra',), 'allowed: lora, full, prompt'),
    (('--restrict={"rnk": 4}',), "did you mean 'rank'"),
    (('--restrict=[1]',), 'write an object'),
    (('--restrict={"rank"',), 'not JSON'),
    (('--metric=accuracy',), 'loss'),
    (('--model=no/where/at/all',), 'no directory'),
    (('--max_examples=4',), 'raise --max_examples'),
    (('--surrogate=nowhere',), 'no surrogate'),
    (('--scaling_fit=nowhere',), 'nowhere holds no laws.json'),
    (('--workdir=/proc/metaft',), 'cannot be used'),
    (('--width=0',), 'at least 1'),
    (('--mesh=data',), 'write axes with their sizes'),
    (('--mesh=expert:2',), 'axes data, fsdp, tensor'),
    (('--mesh=fsdp:99',), 'needs 99 devices'),
    (('--quantize=int4',), 'int8'),
    (('--dtype=float16',), 'bfloat16'),
    (('--quantize=int8', '--methods=full'), 'full tuning trains every weight'),
]


@pytest.mark.parametrize(('more', 'words'), BAD, ids=lambda x: ' '.join(x) if isinstance(x, tuple) else None)
def test_bad_flags_are_refused_in_a_sentence(files, tmp_path, run_experiment, capsys, more, words):
    with pytest.raises(SystemExit) as stopped:
        run_experiment(*flags(files, tmp_path / 'job', *more))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith('error: ') and error.count('\n') == 1, error


def test_a_machine_without_memory_is_told_at_the_start(files, tmp_path, run_experiment, capsys, monkeypatch):
    for free, words in ((2**19, 'for its weights alone'), (5 * 2**20, 'training with method')):
        monkeypatch.setattr('metaft.finetune.memory.available_bytes', lambda free=free: free)
        with pytest.raises(SystemExit) as stopped:
            run_experiment(*flags(files, tmp_path / 'job'))
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and words in error and 'are free' in error, error


def test_the_base_is_loaded_in_the_dtype_asked_for_and_a_workdir_keeps_to_it(files, tmp_path, monkeypatch):
    from experiments import program, tune
    from metaft.errors import WorkdirError
    from metaft.report.terminal import Terminal

    _, *arguments = flags(files, tmp_path / 'job')
    prepare = lambda *more: tune.prepare(program.read_flags(tune.Settings, [*arguments, *more]), Terminal())
    half = prepare('--dtype=bfloat16')
    task = half.executor.task
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(task.model))} == {'bfloat16'}
    assert json.loads((tmp_path / 'job' / 'settings.json').read_text())['dtype'] == 'bfloat16'
    assert half.record.task.endswith('@phi3_tiny-bfloat16')
    with pytest.raises(WorkdirError, match=r"its dtype is 'bfloat16'"):
        prepare()
    whole = prepare(f'--workdir={tmp_path / "whole"}')
    losses = half.zero_shot[0].loss, whole.zero_shot[0].loss
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] != losses[1]
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')  # the same flags where there is an accelerator
    with pytest.raises(WorkdirError, match='give --dtype as it was'):
        prepare(f'--workdir={tmp_path / "whole"}', '--width=1')


@pytest.mark.slow
def test_on_a_mesh_over_an_eight_bit_base_with_tensorboard(files, tmp_path, run_experiment):
    more = (
        '--mesh=data:2,fsdp:2',
        '--quantize=int8',
        '--dtype=bfloat16',
        '--remat=dots',
        '--tensorboard',
        '--budget_seconds=40',
    )
    run_experiment(*flags(files, tmp_path / 'job', *more))
    results = json.loads((tmp_path / 'job' / 'results.json').read_text())
    assert results['incumbent']['validation_loss'] < results['zero_shot']['validation_loss']
    assert results['task'].endswith('@phi3_tiny-bfloat16-int8') and results['dtype'] == 'bfloat16'
    runs = {
        line['run_id'] for line in map(json.loads, (tmp_path / 'job' / 'measurements.jsonl').read_text().splitlines())
    }
    assert {path.name for path in (tmp_path / 'job' / 'tensorboard').iterdir()} == runs


ROWS = [
    ('', 'is empty'),
    ('{"question": "a", "answer": "b"}\n{"question": "a", "ans', 'row 2'),
    ('{"question": "a"}', "no field 'answer'"),
    ('{"question": "a", "answer": " "}', 'empty answer'),
    ('["a", "b"]', 'row 1'),
    (json.dumps({'question': 'long ' * 2000, 'answer': 'b'}), 'longer than'),
]


@pytest.mark.parametrize(('text', 'words'), ROWS, ids=[words for _, words in ROWS])
def test_bad_data_is_named(files, tmp_path, run_experiment, capsys, text, words):
    (tmp_path / 'train.jsonl').write_text(text)
    with pytest.raises(SystemExit) as stopped:
        run_experiment(*flags(files, tmp_path / 'job', f'--train={tmp_path / "train.jsonl"}'))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and words in error and not (tmp_path / 'job').exists(), error


def test_overlap_of_splits_is_counted_and_named(files, tmp_path, run_experiment, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_experiment(*flags(files, tmp_path / 'job', f'--validation={files / "train.jsonl"}'))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and 'allow_overlap' in error and '48' in error, error


def test_workdir_of_another_task_is_left_alone(finished, files, run_experiment, capsys):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        run_experiment(*flags(files, workdir, '--seed=5', '--budget_seconds=20'))
    assert stopped.value.code == 2 and 'another task' in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}


def test_model_directories_that_cannot_work_are_refused(files, tmp_path, run_experiment, capsys):
    import shutil

    from safetensors.numpy import load_file, save_file

    config = json.loads((BASE / 'config.json').read_text())
    other = shutil.copytree(BASE, tmp_path / 'other')
    (other / 'config.json').write_text(
        json.dumps(config | {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']})
    )
    holed = shutil.copytree(BASE, tmp_path / 'holed')
    tensors = load_file(holed / 'model.safetensors')
    del tensors['model.layers.1.self_attn.o_proj.weight']
    save_file(tensors, holed / 'model.safetensors')
    for directory, words in ((other, 'llama'), (holed, 'model.layers.1.self_attn.o_proj.weight')):
        with pytest.raises(SystemExit) as stopped:
            run_experiment(*flags(files, tmp_path / 'job', f'--model={directory}'))
        assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_budget_too_small_for_one_step(files, tmp_path, run_experiment, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_experiment(*flags(files, tmp_path / 'job', '--budget_seconds=0.00001'))
    assert stopped.value.code == 2 and 'too small for one step' in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get('CI') is None and os.geteuid() != 0, reason='needs the right to mount a tmpfs')
def test_full_disk_is_told_and_nothing_is_lost(files, tmp_path, run_experiment, capsys):
    small = tmp_path / 'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=900k', 'tmpfs', small], capture_output=True).returncode:
        pytest.skip('a tmpfs cannot be mounted here')
    try:
        with pytest.raises(SystemExit) as stopped:
            run_experiment(*flags(files, small / 'job', '--budget_seconds=60'))
        assert stopped.value.code == 2 and 'space' in capsys.readouterr().err
        lines = (small / 'job' / 'measurements.jsonl').read_text().splitlines()
        assert lines and all(json.loads(line)['run_id'] for line in lines)
    finally:
        subprocess.run(['umount', small], check=True)
