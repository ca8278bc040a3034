"""Append-only files beyond the measurements' own tests: object stores, one writer at a time, whole files."""

import pytest

from metaft import journal
from metaft.errors import DataError, WorkdirError


@pytest.fixture(params=['disk', 'file URL', 'object store'])
def place(request, tmp_path):
    return {
        'disk': tmp_path / 'rows.jsonl',
        'file URL': f'file://{tmp_path}/rows.jsonl',
        'object store': f'memory://{tmp_path.name}/rows.jsonl',
    }[request.param]


def test_rows_come_back_in_their_order(place):
    assert journal.read(place) == journal.Rows([], 0)
    for number in range(12):
        journal.append(place, {'number': number, 'text': 'a\nb\r\u2028 é \ud800'})
    found = journal.read(place)
    assert [row['number'] for _, row in found.rows] == list(range(12)) and found.num_torn == 0
    assert found.rows[3][0] == 4 and found.rows[3][1]['text'] == 'a\nb\r\u2028 é \ud800'


def test_a_torn_object_is_dropped_too():
    filesystem, folder = journal.locate('memory://torn/rows.jsonl')
    journal.append('memory://torn/rows.jsonl', {'number': 1})
    filesystem.pipe_file(f'{folder}/00-cut.jsonl', b'{"number": ')
    assert journal.read('memory://torn/rows.jsonl') == journal.Rows([(2, {'number': 1})], 1)


def test_a_whole_file_is_replaced(place):
    journal.replace(place, b'old')
    journal.replace(place, b'new')
    filesystem, path = journal.locate(place)
    assert filesystem.cat_file(path) == b'new'


def test_what_cannot_be_reached_is_said(tmp_path):
    with pytest.raises(DataError, match='is in no store that can be opened'):
        journal.read('nostore://bucket/rows.jsonl')
    with pytest.raises(DataError, match='cannot be read'):
        journal.read(tmp_path)
    with pytest.raises(WorkdirError, match='cannot be written'):
        journal.replace(tmp_path / 'missing' / 'file', b'')


def test_a_second_process_is_kept_out(tmp_path):
    with journal.sole_writer(tmp_path / 'rows.jsonl'):
        with pytest.raises(WorkdirError, match='another process is writing'):
            with journal.sole_writer(tmp_path / 'rows.jsonl'):
                pass
    with journal.sole_writer(tmp_path / 'rows.jsonl'):
        pass
