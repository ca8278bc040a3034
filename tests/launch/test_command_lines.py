"""launch/: the command lines that are built, and how the local launcher answers mistakes."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ['--train=my data.jsonl', "--restrict={'a': 1}"]


def launch(script, *argv, **environment):
    command = [ROOT / 'launch' / script, *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_slurm_wraps_the_local_command():
    line = shlex.split(launch('slurm.sh', '--dry_run', '--gpus=1', '--', 'tune', *FLAGS).stdout)
    assert line[:2] == ['sbatch', '--job-name=metaft-tune'] and '--gpus=1' in line and '--requeue' in line
    wrapped = shlex.split(line[-1].removeprefix('--wrap='))
    assert wrapped == ['exec', str(ROOT / 'launch' / 'local.sh'), 'tune', *FLAGS]


def test_tpu_vm_runs_the_local_command_there():
    argv = ['--dry_run', '--checkout=my metaft', 'my-tpu', '--zone=z', '--', 'tune', *FLAGS]
    line = shlex.split(launch('tpu_vm.sh', *argv).stdout)
    assert line[:7] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'my-tpu', '--zone=z']
    there = shlex.split(line[-1].removeprefix('--command='))
    assert there[:3] == ['cd', 'my metaft', '&&'] and there[3] == 'METAFT_ACCELERATOR=tpu'
    assert there[4:] == ['exec', 'launch/local.sh', 'tune', *FLAGS]


@pytest.mark.parametrize('script', ['slurm.sh', 'tpu_vm.sh'])
def test_without_an_experiment_the_usage_is_shown(script):
    done = launch(script, '--dry_run', '--zone=z')
    assert done.returncode == 2 and done.stderr.startswith(f'usage: launch/{script}')


def test_local_lists_the_experiments_with_their_questions():
    done = launch('local.sh')
    names = {path.stem for path in (ROOT / 'experiments').glob('*.py')} - {'__init__', 'program'}
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {line[0] for line in lines} == names | {'test'} and all(len(line) > 3 for line in lines)


def test_local_offers_the_nearest_name():
    done = launch('local.sh', 'tset')
    assert done.returncode == 2
    assert done.stderr == 'error: there is no experiment tset; did you mean test?\n'


def test_local_says_when_the_interpreter_is_too_old():
    done = launch('local.sh', 'tset', METAFT_PYTHON='/nonexistent/python')
    assert done.returncode == 2 and 'does not run as Python 3.11 or newer' in done.stderr
