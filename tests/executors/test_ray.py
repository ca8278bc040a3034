"""Runs on a real Ray cluster of two nodes on this machine, a worker of which is killed in the middle."""

import collections
import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from experiments import collect, program
from metaft.errors import DataError, ExecutorError
from metaft.finetune.budget import NUM_GRID_POINTS
from metaft.metadataset import store

ray = pytest.importorskip('ray', reason='the extra `ray` is not installed')
from metaft.executors.ray import map_runs  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings('ignore'),  # Ray's own, of files it leaves open
]
DATASETS = ('known_twice_16', 'recall_job_16')


@pytest.fixture(scope='module')
def cluster():
    """Two nodes with one core each; this process is connected to them."""
    from ray.cluster_utils import Cluster

    for attempts_left in (4, 3, 2, 1, 0):
        found = Cluster()
        try:
            found.add_node(num_cpus=1, include_dashboard=False)
            found.add_node(num_cpus=1)
            break
        except Exception:  # a node has 30 s to start, which a machine that does other work may not keep
            found.shutdown()
            if not attempts_left:
                raise
    ray.init(address=found.address, log_to_driver=False, logging_level='ERROR')
    yield found
    ray.shutdown()
    found.shutdown()


def note(folder, item):
    """Leaves a file that says who began the item, and takes a second."""
    (folder / f'{item}-{os.getpid()}').touch()
    time.sleep(1.0)
    return item, os.getpid(), ray.get_runtime_context().get_node_id()


def test_both_nodes_work_and_a_killed_workers_run_is_done_again(cluster, tmp_path):
    import functools

    killed = []

    def kill_one():
        while not killed:
            begun = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            if len(begun) >= 4 and time.time() - begun[-1].stat().st_mtime < 0.3:  # in the middle of its second
                item, process = begun[-1].name.split('-')
                os.kill(int(process), signal.SIGKILL)
                killed.append((int(item), int(process)))
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    found = dict(map_runs(functools.partial(note, tmp_path), list(range(10))))
    thread.join()
    assert sorted(found) == list(range(10)) and all(found[item][0] == item for item in found)
    assert len({node for _, _, node in found.values()}) == 2
    assert not any(process == killed[0][1] and item == killed[0][0] for item, process, _ in found.values())


def die(item):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def fail(item):
    raise DataError(f'item {item} is faulty')


def test_a_run_that_kills_its_workers_is_told_after_all_others_ended(cluster):
    ended: list[int] = []
    with pytest.raises(ExecutorError, match='the workers of 1 runs died'):
        ended.extend(item for item, _ in map_runs(die, [0, 1, 2, 3], max_retries=1))
    assert sorted(ended) == [0, 2, 3]


def test_a_fault_of_a_run_is_raised_as_it_is(cluster):
    with pytest.raises(DataError, match='item 7 is faulty'):
        list(map_runs(fail, [7]))


def test_collect_loses_no_run_and_doubles_none_when_a_worker_is_killed(cluster, tmp_path):
    """The whole program; what is killed is a worker in the middle of a run, after the first run was recorded."""
    psutil = pytest.importorskip('psutil')
    flags = [f'--workdir={tmp_path}', f'--datasets={",".join(DATASETS)}', '--num_common=2', '--num_random=2',
             '--max_examples=256', '--repeat_share=0', '--executor=ray']  # fmt: skip
    killed: list[int] = []

    def kill_one():
        while not killed:
            if list(tmp_path.glob('measurements-*.jsonl')):
                for process in psutil.process_iter(['pid', 'cmdline']):
                    with contextlib.suppress(psutil.Error):
                        if ' '.join(process.info['cmdline'] or []).startswith('ray::_call') and not killed:
                            process.kill()
                            killed.append(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    program.run(collect.main, collect.Settings, flags)
    thread.join(timeout=5)
    assert killed
    for _ in range(2):  # a second time there is nothing left to do
        rows = [m for path in Path(tmp_path).glob('measurements-*.jsonl') for m in store.read(path).measurements]
        ends = [m.run_id for m in rows if m.status != 'running']
        assert len(ends) == len(set(ends)) == len(DATASETS) * 4
        assert set(collections.Counter(m.run_id for m in rows).values()) == {NUM_GRID_POINTS}
        program.run(collect.main, collect.Settings, flags)
    assert {path.name for path in tmp_path.glob('task-*.json')} == {f'task-{name}.json' for name in DATASETS}
