"""What happens to runs when the process is killed, told to end, or has no memory: nothing that was done is lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metaft.errors import ModelError
from metaft.executors.local import LocalExecutor
from metaft.finetune import checkpoints, memory

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
    checkpoints.save(path, {'weights': np.full(100_000, 2, np.float32)})
    assert (checkpoints.load(path, like)['weights'] == 2).all()


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
    """Returns the run's last line, and how many times it trained a chunk of micro-batches."""
    done = subprocess.run([sys.executable, '-c', RUN, directory], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1], done.stdout.count('going')


@pytest.mark.slow
def test_told_to_end_it_saves_and_the_resumed_run_is_bit_equal(tmp_path):
    undisturbed, chunks = to_the_end(tmp_path / 'undisturbed')
    process = start(RUN, tmp_path / 'disturbed')
    seen = [process.stdout.readline() for _ in range(4)]
    assert seen == ['begins\n', *['going\n'] * 3], process.stderr.read()
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    _, error = process.communicate()
    assert time.monotonic() - told < 30
    assert process.returncode == 143 and 'run the same command to go on' in error
    assert (tmp_path / 'disturbed' / 'run.safetensors').exists()
    resumed, chunks_left = to_the_end(tmp_path / 'disturbed')
    assert chunks_left <= chunks - 2, 'it went on where it was'
    assert resumed.split()[:2] == undisturbed.split()[:2]


def test_without_memory_a_population_is_refused_at_the_start(monkeypatch):
    from tests.executors.test_local import BASE, catalogue, load_pretrained, load_tokenizer, prepare

    task = prepare(catalogue.make('recall_food_48'), load_pretrained(BASE), load_tokenizer(BASE), base_model='b')
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2**20)
    with pytest.raises(ModelError, match=r'method lora .* needs about .* and 1\.0 MiB are free'):
        LocalExecutor(task).zero_shot()
