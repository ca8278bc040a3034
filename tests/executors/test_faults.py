"""What happens to runs when the process is killed, told to end, or has no memory: nothing that was done is lost."""

import dataclasses
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import program
from metaft.errors import ModelError, WorkdirError
from metaft.executors.local import Job, LocalExecutor
from metaft.finetune import checkpoints, memory
from metaft.finetune.data import Rows
from metaft.finetune.task import Task
from tests.executors.test_local import BASE, FAST, catalogue, load_pretrained, load_tokenizer, prepare
from tests.finetune.tiny import tiny_model, tiny_rows

ROOT = Path(__file__).resolve().parents[2]

HALF_WRITTEN = """
import sys, time
from pathlib import Path
import numpy as np
from metaft.finetune import checkpoints

path, write = Path(sys.argv[1]), checkpoints.save_file
checkpoints.save(path, {'weights': np.zeros(100_000, np.float32)})

def half(tensors, partial):
    write(tensors, partial)
    content = partial.read_bytes()
    partial.write_bytes(content[: len(content) // 2])
    print('half', flush=True)
    time.sleep(600)

checkpoints.save_file = half
checkpoints.save(path, {'weights': np.ones(100_000, np.float32)})
"""


def start(program, *arguments):
    command = [sys.executable, '-c', program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_a_checkpoint_the_old_one_stands(tmp_path):
    path = tmp_path / 'run.safetensors'
    process = start(HALF_WRITTEN, path)
    assert process.stdout.readline() == 'half\n', process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    like = {'weights': np.zeros(100_000, np.float32)}
    assert not checkpoints.load(path, like)['weights'].any()
    assert len(list(tmp_path.iterdir())) == 2  # the half one is there as well
    checkpoints.save(path, {'weights': np.full(100_000, 2, np.float32)})
    assert (checkpoints.load(path, like)['weights'] == 2).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_without_room_keeps_the_old_checkpoint(tmp_path):
    """A file of 100 kB at most, as on a full disk; on a real one: tests/experiments/test_tune.py."""
    path, like = tmp_path / 'run.safetensors', {'weights': np.zeros(100_000, np.float32)}
    checkpoints.save(path, like)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WorkdirError, match=r'run\.safetensors cannot be written .*free some space'):
            checkpoints.save(path, {'weights': np.ones(100_000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not checkpoints.load(path, like)['weights'].any() and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from metaft.finetune import checkpoints
from tests.executors.test_faults import FAST, Job, executor

mine, write = executor(Path(sys.argv[1])), checkpoints.save_file
(first,) = mine.advance([Job('run', FAST, 0, 8)])
print(repr(first.validation_loss), flush=True)

def half(tensors, partial):
    write(tensors, partial)
    os.truncate(partial, os.path.getsize(partial) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save_file = half
mine.advance([Job('run', FAST, 0, 11)])
"""


def executor(directory):
    """Returns an executor of runs of 32 updates."""
    base = load_pretrained(BASE)
    task = prepare(catalogue.make('recall_food_48'), base, load_tokenizer(BASE), base_model='b', max_examples=256)
    return LocalExecutor(task, directory=directory)


def test_a_run_killed_while_it_is_frozen_goes_on_from_the_last_whole_checkpoint(tmp_path):
    """To the same bits as a run that nobody disturbed."""
    process = start(KILLED, tmp_path / 'killed')
    out, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    kept = {path.name: path for path in (tmp_path / 'killed').iterdir()}
    partial = kept.pop(f'.run.safetensors.{process.pid}')
    with pytest.raises(WorkdirError, match='cannot be read'):
        checkpoints.load(partial, {})
    steps = lambda path: int(load_file(path)["['member'].step"])
    assert list(kept) == ['run.safetensors'] and steps(kept['run.safetensors']) == 8

    undisturbed, resumed = executor(tmp_path / 'undisturbed'), executor(tmp_path / 'killed')
    (first,) = undisturbed.advance([Job('run', FAST, 0, 8)])
    assert repr(first.validation_loss) == out.strip()
    resumed._populations, resumed.compile_seconds = undisturbed._populations, undisturbed.compile_seconds
    (want,), (got,) = (one.advance([Job('run', FAST, 0, 12)]) for one in (undisturbed, resumed))
    assert (got.validation_loss, got.train_loss) == (want.validation_loss, want.train_loss)
    assert steps(tmp_path / 'killed' / 'run.safetensors') == 32 and not partial.exists()
    one, two = (load_file(tmp_path / name / 'run.safetensors') for name in ('killed', 'undisturbed'))
    assert one.keys() == two.keys()
    for key in one.keys() - {"['seconds']"}:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


RUN = """
import dataclasses, sys
from pathlib import Path
from experiments import program
from metaft.executors.local import Job, LocalExecutor
from tests.executors.test_local import BASE, FAST, catalogue, load_pretrained, load_tokenizer, prepare

directory = Path(sys.argv[1])

@dataclasses.dataclass(frozen=True)
class Settings:
    pass

def main(settings):
    task = prepare(catalogue.make('recall_food_48'), load_pretrained(BASE), load_tokenizer(BASE), base_model='b',
                   max_examples=2048)
    executor = LocalExecutor(task, directory=directory)
    executor.warm_up(FAST)
    print('begins', flush=True)
    (last,) = executor.advance([Job('run', FAST, 0, 12)], should_stop=lambda: print('going', flush=True))
    print(last.status, repr(last.validation_loss), repr(last.train_loss), flush=True)

program.run(main, Settings, [])
"""


def to_the_end(directory):
    """Returns the run's last line."""
    done = subprocess.run([sys.executable, '-c', RUN, directory], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_told_to_end_it_saves_and_the_resumed_run_is_bit_equal(tmp_path):
    undisturbed = to_the_end(tmp_path / 'undisturbed')
    process = start(RUN, tmp_path / 'disturbed')
    seen = [process.stdout.readline() for _ in range(4)]
    assert seen == ['begins\n', *['going\n'] * 3], process.stderr.read()
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    _, error = process.communicate()
    assert time.monotonic() - told < 30
    assert process.returncode == 143 and 'run the same command to go on' in error
    saved = load_file(tmp_path / 'disturbed' / 'run.safetensors')
    assert 0 < saved["['member'].step"] < 256, 'it goes on where it was'
    assert to_the_end(tmp_path / 'disturbed') == undisturbed


def test_without_memory_a_population_is_refused_at_the_start(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2**20)
    with pytest.raises(ModelError, match=r'method lora .* needs about .* and 1\.0 MiB are free'):
        executor(tmp_path).zero_shot()


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """No flags."""


def test_an_estimate_that_was_too_low_ends_in_a_sentence_with_it(monkeypatch, capsys):
    """Attention over 2^21 tokens takes more than an address space, so that XLA itself runs out of memory."""
    few = tiny_rows(8)
    long = Rows(np.zeros((8, 2**21), np.int32), few.answer_start_N, few.length_N, few.max_answer)
    task = Task('t', 'd', 'b', tiny_model(), None, train=few, validation=long, test=few)
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2**40)
    with pytest.raises(SystemExit) as stopped:
        program.run(lambda settings: LocalExecutor(task).zero_shot(), NoSettings, [])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count('\n') == 1, error
    for words in (
        'error: the device ran out of memory with 1 runs of method lora',
        ' MiB (base ',
        'RESOURCE_EXHAUSTED',
    ):
        assert words in error
