"""Live runs: measured on the grid, resumed bit-equal, diverged ones marked, exact match the same as by decoding."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import optax
import pytest

from metaft.errors import WorkdirError
from metaft.executors.local import Job, LocalExecutor
from metaft.finetune import memory
from metaft.finetune.memory import estimate
from metaft.finetune.search_space import Configuration
from metaft.finetune.task import Task, prepare
from metaft.phi3 import generate, load_pretrained
from metaft.tasks import catalogue
from metaft.tasks.prompts import encode_answers, encode_prompts
from metaft.tasks.tokenizer import load_tokenizer, stop_ids
from tests.finetune.tiny import tiny_model, tiny_rows

BASE = Path(__file__).resolve().parents[2] / 'metaft' / 'assets' / 'phi3_tiny'
FAST = Configuration(learning_rate=1e-2, batch_size=8, rank=8, dropout=0.1)


@pytest.fixture(scope='module')
def task():
    tokenizer = load_tokenizer(BASE)
    dataset = catalogue.make('recall_food_48')
    return prepare(dataset, load_pretrained(BASE), tokenizer, base_model='phi3_tiny', max_examples=64)


@pytest.fixture(scope='module')
def executor(task):
    return LocalExecutor(task, measure_test=True)


def sharing(executor, compiled):
    """Spares a compilation: the programs of one executor serve another."""
    executor._populations, executor.compile_seconds = compiled._populations, compiled.compile_seconds
    return executor


def test_run_is_measured_on_its_grid(executor):
    grid = executor.grid(FAST)
    found = executor.advance([Job('a', FAST, 0, 12, tuple(range(13)))])
    assert [m.budget_steps for m in found] == list(grid.steps_T)
    assert [m.status for m in found] == ['running'] * 12 + ['finished']
    assert found[-1].budget_examples == 64 and found[-1].test_loss is not None and found[0].test_loss is None
    costs = [m.cost_seconds for m in found]
    assert costs == sorted(costs) and costs[0] > 0
    assert found[-1].cost_flops == pytest.approx(64 * found[0].cost_flops / found[0].budget_examples)


def tiny_task():
    rows = tiny_rows()
    return Task('t', 'd', 'b', tiny_model(), None, train=rows, validation=rows, test=rows, max_examples=256)


def test_runs_to_different_points_train_together_and_share_the_time(monkeypatch):
    ticks = itertools.count()
    one, other = (dataclasses.replace(FAST, learning_rate=rate, dropout=0.0) for rate in (1e-3, 1e-2))
    jobs = [Job('a', one, 0, 12), Job('b', other, 1, 8)]  # 32 and 8 updates
    together = LocalExecutor(tiny_task(), width=2, clock=lambda: float(next(ticks)))
    together.warm_up(one)
    population, computed = together._population(one), []
    call = population._call
    monkeypatch.setattr(
        population, '_call', lambda rows, count_M: (computed.append(count_M.max()), call(rows, count_M))[1]
    )
    b, a = together.advance(jobs)
    assert (a.run_id, a.budget_steps, b.run_id, b.budget_steps) == ('a', 32, 'b', 8)
    assert sum(computed) == 32, 'the shorter run costs no further micro-batch'
    # A segment takes three ticks: 8 updates of both, then 24 of the longer one.
    assert (b.cost_seconds, a.cost_seconds) == (1.5, 1.5 + 3.0)
    assert a.cost_flops == 4 * b.cost_flops and a.cost_tokens == pytest.approx(4 * b.cost_tokens, abs=2.5)  # rounded
    alone = LocalExecutor(tiny_task(), width=2)
    alone._populations, alone.compile_seconds = together._populations, together.compile_seconds
    for job, measured in zip(jobs, (a, b), strict=True):
        (found,) = alone.advance([job])
        assert found.validation_loss == pytest.approx(measured.validation_loss, rel=1e-6)


def test_full_tuning_trains_as_many_together_as_fit(monkeypatch):
    task = tiny_task()
    assert LocalExecutor(task, width=3).width_of('full') == 3
    needed = lambda m: estimate(task.model, 'full', width=m, batch=8, length=16, max_answer=8)
    monkeypatch.setattr(memory, 'available_bytes', lambda: (needed(2).total - needed(2).base) / memory.RESERVE)
    assert LocalExecutor(task, width=3).width_of('full') == 2
    monkeypatch.setattr(memory, 'available_bytes', lambda: (needed(1).total - needed(1).base) / memory.RESERVE)
    assert LocalExecutor(task, width=3).width_of('full') == 1


def test_zero_shot_is_the_plain_model(executor, task):
    validation, _ = executor.zero_shot()
    rows = task.validation
    logits = task.model(rows.tokens_NL)[:, :-1]
    nats = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens_NL[:, 1:]))
    at = np.arange(1, rows.tokens_NL.shape[1])[None, :]
    mask = (at >= rows.answer_start_N[:, None]) & (at < rows.length_N[:, None])
    assert validation.loss == pytest.approx(nats[mask].mean(), rel=1e-5)
    assert validation.num_tokens == mask.sum()


def test_exact_match_is_that_of_greedy_decoding(task):
    tokenizer, dataset = load_tokenizer(BASE), catalogue.make('recall_food_48')
    prompts, answers = encode_prompts(dataset.validation, tokenizer), encode_answers(dataset.validation, tokenizer)
    decoded = generate(task.model, prompts, max_new_tokens=max(map(len, answers)), stop_ids=stop_ids(tokenizer))
    end = stop_ids(tokenizer)
    cut = [ids[: next((i for i, t in enumerate(ids) if t in end), len(ids))] for ids in decoded]
    share = np.mean([ids == answer[:-1] for ids, answer in zip(cut, answers, strict=True)])
    assert 0 < share < 1  # a base that always or never answers would prove nothing
    assert LocalExecutor(task).zero_shot()[0].exact_match == pytest.approx(share)


def test_resumed_from_disk_is_bit_equal(executor, task, tmp_path):
    (whole,) = executor.advance([Job('whole', FAST, 3, 12)])
    first = sharing(LocalExecutor(task, directory=tmp_path), executor)
    first.advance([Job('b', FAST, 3, 5)])
    second = sharing(LocalExecutor(task, directory=tmp_path), executor)
    (resumed,) = second.advance([Job('b', FAST, 3, 12)])
    assert resumed.validation_loss == whole.validation_loss
    assert resumed.cost_seconds > 0


def test_stopped_run_goes_on_where_it_was(executor, task):
    longer = dataclasses.replace(task, max_examples=1024)  # several chunks of micro-batches
    executor = sharing(LocalExecutor(longer), executor)
    (whole,) = executor.advance([Job('whole', FAST, 4, 12)])
    assert executor.advance([Job('c', FAST, 4, 12)], should_stop=lambda: True) == []
    (resumed,) = executor.advance([Job('c', FAST, 4, 12)])
    assert resumed.validation_loss == whole.validation_loss


def test_diverged_run_is_recorded_as_such(executor):
    wild = Configuration(learning_rate=1e30, batch_size=8, rank=8, dropout=0.0, warmup_fraction=0.0)
    found = executor.advance([Job('wild', wild, 0, 12, tuple(range(13)))])
    assert found[-1].status == 'diverged' and found[-1].validation_loss is None


def test_torn_frozen_run_is_named(executor, task, tmp_path):
    (tmp_path / 'd.safetensors').write_bytes(b'torn')
    broken = sharing(LocalExecutor(task, directory=tmp_path), executor)
    with pytest.raises(WorkdirError, match=r'd\.safetensors'):
        broken.advance([Job('d', FAST, 0, 3)])
