"""What holds for every test: CPU with several devices, strict promotion, no network, a compilation cache of its own.

The environment is set before JAX is imported, and programs that a test starts inherit it. Warnings are errors, and
every test has a time limit (pyproject.toml), slow ones a longer one.
"""

import importlib
import os
import socket
import tempfile
from pathlib import Path

_CACHE = Path(os.environ.get('METAFT_CACHE') or Path(tempfile.gettempdir()) / f'metaft-tests-{os.getuid()}')
os.environ |= {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'.strip(),
    'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
    'JAX_NUMPY_RANK_PROMOTION': 'raise',
    'METAFT_CACHE': str(_CACHE),
    'JAX_COMPILATION_CACHE_DIR': str(_CACHE / 'jax'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'HF_HUB_OFFLINE': '1',
    'HF_DATASETS_OFFLINE': '1',
    'TOKENIZERS_PARALLELISM': 'false',
    'MPLBACKEND': 'Agg',
}

import pytest  # noqa: E402

from experiments import program  # noqa: E402

_SLOW_SECONDS = 900  # three minutes alone, several times that beside other work


def pytest_collection_modifyitems(items):
    """Gives slow tests their own time limit."""
    for item in items:
        if 'slow' in item.keywords and 'timeout' not in item.keywords:
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


@pytest.fixture(autouse=True, scope='session')
def _no_network():
    """Raises where a test would leave this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ('127.0.0.1', '::1', 'localhost'):
            raise RuntimeError(f'a test tried to reach {address}; tests work without a network')
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture
def run_experiment():
    """Runs an experiment in this process: `run_experiment('tune', '--workdir=...')`; SystemExit(2) on bad input."""

    def run(name, *argv):
        module = importlib.import_module(f'experiments.{name}')
        program.run(module.main, module.Settings, [str(flag) for flag in argv])

    return run
