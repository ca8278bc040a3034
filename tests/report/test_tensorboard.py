"""What TensorBoard reads is what was measured, once."""

import struct

import pytest

from metaft.errors import InputError
from metaft.metadataset.records import Measurement
from metaft.report.tensorboard import TensorboardWriter


def measurement(step, loss, run_id='lora-0001', status='running'):
    return Measurement(
        run_id=run_id, task='t', dataset='d', base_model='b', seed=0, status=status, budget_steps=step,
        budget_examples=8 * step, train_loss=None, validation_loss=loss, validation_exact_match=0.5, cost_seconds=1.5,
        cost_flops=1.0, cost_tokens=1, group='g', slot=0, host='h', versions={}, configuration={'method': 'lora'},
    )  # fmt: skip


def scalars(directory):
    """Reads the event files of a run: {(name, step): value}; a record is length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in directory.iterdir():
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack('<Q', content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                assert (value.tag, event.step) not in found, 'written twice'
                found[value.tag, event.step] = value.simple_value
    return found


def test_measurements_are_written_once_by_run(tmp_path):
    first = measurement(1, 2.0)
    with TensorboardWriter(tmp_path) as board:
        board.write([first])
        board.write([first, measurement(2, 1.5), measurement(1, None, 'full-0002', 'diverged')])
    found = scalars(tmp_path / 'lora-0001')
    assert found['validation_loss', 8] == 2.0 and found['validation_loss', 16] == 1.5
    assert {name for name, _ in found} == {'validation_loss', 'validation_exact_match', 'cost_seconds'}
    assert ('validation_loss', 8) not in scalars(tmp_path / 'full-0002')


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'tensorboardX', None)
    with pytest.raises(InputError, match='pip install tensorboardX'):
        TensorboardWriter(tmp_path)
