"""Appended measurements survive kills, torn lines and other writers."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaft.errors import DataError, WorkdirError
from metaft.metadataset import records, store


def measurement(**changes) -> records.Measurement:
    fields = dict(
        run_id='r0',
        task='t',
        dataset='d',
        base_model='b',
        seed=0,
        status='running',
        budget_steps=4,
        budget_examples=64,
        train_loss=1.5,
        validation_loss=2.0,
        validation_exact_match=0.25,
        cost_seconds=0.5,
        cost_flops=1e9,
        cost_tokens=640,
        group='g',
        slot=0,
        host='h',
        versions={'jax': '0.10.2'},
        configuration={'method': 'full', 'learning_rate': 1e-3, 'batch_size': 16, 'rank': None},
    )
    return records.Measurement(**(fields | changes))


def test_a_row_gives_its_measurement_back(tmp_path):
    path = tmp_path / 'measurements.jsonl'
    written = [measurement(), measurement(status='diverged', validation_loss=float('nan'), train_loss=float('inf'))]
    for row in written:
        store.append(path, row)
    assert store.read(path) == store.Log(written, num_torn=0)
    assert written[1].validation_loss is None


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'status': 'fine'}, 'status'),
        ({'run_id': ''}, 'run_id'),
        ({'validation_loss': float('nan')}, 'validation_loss'),
        ({'validation_exact_match': 1.5}, 'validation_exact_match'),
        ({'cost_seconds': -1.0}, 'cost_seconds'),
        ({'configuration': {'targets': ['a']}}, 'targets'),
    ],
)
def test_what_is_no_measurement_is_refused(changes, named):
    with pytest.raises(DataError, match=named):
        measurement(**changes)


def test_a_torn_tail_is_dropped_and_the_next_line_starts_afresh(tmp_path):
    path = tmp_path / 'measurements.jsonl'
    store.append(path, measurement(run_id='a'))
    line = json.dumps(measurement(run_id='b').to_row())
    for cut in (1, len(line) // 2, len(line) - 1):
        with open(path, 'a') as file:
            file.write(line[:cut])
        store.append(path, measurement(run_id='c'))
    log = store.read(path)
    assert [row.run_id for row in log.measurements] == ['a', 'c', 'c', 'c']
    assert log.num_torn == 3


def test_a_whole_row_that_is_no_measurement_is_named(tmp_path):
    path = tmp_path / 'measurements.jsonl'
    store.append(path, measurement())
    for line in ('{"schema_version": 1}', '{"schema_version": 99}', '3'):
        other = tmp_path / 'other.jsonl'
        other.write_text(path.read_text() + line + '\n')
        with pytest.raises(DataError, match='row 2'):
            store.read(other)


_WRITER = """
import sys
from tests.metadataset.test_store import measurement
from metaft.metadataset import store
for step in range(int(sys.argv[3])):
    store.append(sys.argv[1], measurement(run_id=sys.argv[2], budget_steps=step))
    print(step, flush=True)
"""


def _writer(path, run_id, num):
    return subprocess.Popen(
        [sys.executable, '-c', _WRITER, str(path), run_id, str(num)], stdout=subprocess.PIPE, text=True
    )


def test_what_a_killed_writer_reported_is_there_and_two_writers_do_not_mix(tmp_path):
    path = tmp_path / 'measurements.jsonl'
    killed, patient = _writer(path, 'killed', 10**9), _writer(path, 'patient', 50)
    assert killed.stdout.readline() == '0\n'
    time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    reported = killed.stdout.read().split()
    assert patient.wait(timeout=60) == 0
    killed.wait()
    patient.stdout.close(), killed.stdout.close()
    log = store.read(path)
    steps = {
        name: [row.budget_steps for row in log.measurements if row.run_id == name] for name in ('killed', 'patient')
    }
    assert steps['patient'] == list(range(50))
    assert steps['killed'] == list(range(len(steps['killed'])))
    assert len(steps['killed']) >= len(reported) + 1
    assert log.num_torn <= 1


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / 'measurements.jsonl'
    store.append(path, measurement())
    before = path.read_bytes()
    write = os.write
    for fault in (lambda fd, data: write(fd, data[:10]), _no_space):  # a short write, then none at all
        monkeypatch.setattr(os, 'write', fault)
        with pytest.raises(WorkdirError, match='disk is full'):
            store.append(path, measurement())
        monkeypatch.undo()
        assert path.read_bytes() == before


def _no_space(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_an_unwritable_place_is_said(tmp_path):
    with pytest.raises(WorkdirError, match='cannot be written'):
        store.append(tmp_path / 'missing' / 'measurements.jsonl', measurement())


def test_merging_keeps_the_later_of_two_rows_and_counts_the_torn(tmp_path):
    for name, loss in (('a', 2.0), ('b', 1.0)):
        store.append(tmp_path / f'{name}.jsonl', measurement(run_id='same', validation_loss=loss))
        store.append(tmp_path / f'{name}.jsonl', measurement(run_id=name, configuration={'rank': 8, 'batch_size': 8}))
    (tmp_path / 'c.jsonl').write_text('{"torn')
    destination = tmp_path / 'all.parquet'
    assert store.merge_to_parquet(tmp_path.glob('*.jsonl'), destination) == 1
    frame = store.read_parquet(destination)
    assert frame['run_id'].tolist() == ['a', 'b', 'same']
    assert frame['validation_loss'].iloc[-1] == 1.0
    assert frame['configuration.rank'].iloc[0] == 8
    assert isinstance(frame['configuration.rank'].iloc[0].item(), int)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []


def test_a_merged_table_is_merged_again_under_what_came_later(tmp_path):
    table, log = tmp_path / 'a.parquet', tmp_path / 'b.jsonl'
    old = [measurement(), measurement(budget_steps=8, status='finished', test_loss=1.0)]
    store.write_parquet(old, table)
    assert store.read_records(table, records.Measurement) == old
    store.append(log, measurement(budget_steps=8, status='finished', test_loss=2.0, configuration={'method': 'lora'}))
    store.append(log, measurement(run_id='r1', configuration={'method': 'lora', 'optimizer': 'lion'}))
    assert store.merge_to_parquet([log, table], tmp_path / 'all.parquet') == 0
    frame = store.read_parquet(tmp_path / 'all.parquet')
    assert frame['run_id'].tolist() == ['r0', 'r0', 'r1'] and frame['test_loss'].dropna().tolist() == [2.0]
    assert frame['configuration.optimizer'].isna().tolist() == [True, True, False]


def test_a_task_recorded_twice_keeps_its_first_facts_and_gains_new_meta_features():
    first = records.TaskRecord(
        task='t', dataset='d', base_model='b', max_examples=64, reference_loss=2.0, reference_exact_match=0.0,
        reference_seconds=0.1, meta_features={'x': 1.0, 'y': None},
    )  # fmt: skip
    later = dataclasses.replace(first, reference_seconds=0.2, meta_features={'x': 3.0, 'y': 4.0, 'z': 5.0})
    other = dataclasses.replace(first, task='s')
    merged = store.merge_tasks([first, other, later])
    assert [task.task for task in merged] == ['s', 't'] and merged[0] == other
    assert merged[1].reference_seconds == 0.1 and dict(merged[1].meta_features) == {'x': 1.0, 'y': 4.0, 'z': 5.0}


def test_what_is_known_of_a_base_model_is_known_of_all_its_tasks():
    tiny = records.TaskRecord(
        task='t@tiny', dataset='t', base_model='tiny', max_examples=64, reference_loss=2.0, reference_exact_match=0.0,
        reference_seconds=0.1, meta_features={'x': 1.0},
    )  # fmt: skip
    later = dataclasses.replace(tiny, task='s@tiny', meta_features={'x': 2.0, 'log_pretraining_tokens': 16.0})
    large = dataclasses.replace(tiny, task='t@large', base_model='large')
    found = {task.task: dict(task.meta_features) for task in store.merge_tasks([tiny, large, later])}
    assert found['t@tiny'] == {'x': 1.0, 'log_pretraining_tokens': 16.0}
    assert found['s@tiny'] == {'x': 2.0, 'log_pretraining_tokens': 16.0} and found['t@large'] == {'x': 1.0}


def test_a_task_is_written_and_read(tmp_path):
    task = records.TaskRecord(
        task='t',
        dataset='d',
        base_model='b',
        max_examples=4096,
        reference_loss=3.0,
        reference_exact_match=0.1,
        reference_seconds=1e-3,
        meta_features={'log_num_examples': 5.0, 'entropy': None},
    )
    store.write_task(tmp_path / 'meta_features.json', task)
    assert store.read_task(tmp_path / 'meta_features.json') == task
    with pytest.raises(DataError, match='reference_seconds'):
        dataclasses.replace(task, reference_seconds=0.0)
    with pytest.raises(DataError, match='nothing'):
        store.read_task(tmp_path / 'nothing.json')


def test_a_published_table_lives_in_an_object_store_as_on_a_disk(tmp_path):
    log = 'memory://collected/measurements-0.jsonl'
    store.append(log, measurement(run_id='a'))
    store.append(tmp_path / 'measurements-1.jsonl', measurement(run_id='b'))
    store.merge_to_parquet([log, tmp_path / 'measurements-1.jsonl'], 'memory://collected/measurements.parquet')
    assert store.read_parquet('memory://collected/measurements.parquet')['run_id'].tolist() == ['a', 'b']


def test_a_table_that_is_damaged_or_of_another_schema_is_named(tmp_path):
    path = tmp_path / 'measurements.parquet'
    store.write_parquet([measurement()], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match='is no Parquet file that can be read'):
        store.read_parquet(path)
    path.write_bytes(whole)
    pq.write_table(pa.table({'schema_version': [99], 'run_id': ['a']}), path)
    with pytest.raises(DataError, match=f'schema_version 99, this metaft reads {records.SCHEMA_VERSION}'):
        store.read_parquet(path)
    with pytest.raises(DataError, match='there is no meta-dataset'):
        store.read_parquet(tmp_path / 'missing.parquet')
