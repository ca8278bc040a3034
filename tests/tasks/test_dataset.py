"""Datasets: files in and out, faults named with file and row, splits."""

import dataclasses
import json

import pytest

from metaft.errors import DataError
from metaft.tasks import dataset
from metaft.tasks.dataset import Example

ROWS = tuple(Example(f'What is {n}?', f'answer {n}', context='é\n "x"' * (n % 2), id=str(n)) for n in range(40))


def write(path, *lines):
    path.write_text(''.join(line + '\n' for line in lines))
    return path


def row(question='a?', answer='b', **more):
    return json.dumps({'question': question, 'answer': answer, **more})


def test_json_lines_round_trip(tmp_path):
    dataset.write_json_lines(tmp_path / 'rows.jsonl', ROWS)
    assert dataset.read_json_lines(tmp_path / 'rows.jsonl') == ROWS


def test_unknown_keys_null_options_and_blank_lines_are_fine(tmp_path):
    path = write(tmp_path / 'rows.jsonl', row(context=None, page=3), '', row('c?'))
    assert dataset.read_json_lines(path) == (Example('a?', 'b'), Example('c?', 'b'))


@pytest.mark.parametrize(
    'line, told',
    [
        ('{"question": "a?", ', 'row 2 is broken JSON'),
        ('["a?", "b"]', 'row 2 is a JSON list'),
        ('{"question": "a?", "reply": "b"}', "row 2 has no field 'answer' (its fields: 'question', 'reply')"),
        (row(answer=3), 'row 2 has answer of type int: 3'),
        (row(context=['x']), 'row 2 has context of type list'),
        (row(answer=' '), 'row 2 has an empty answer'),
        (row(question=''), 'row 2 has an empty question'),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, told):
    path = write(tmp_path / 'rows.jsonl', row(), line)
    with pytest.raises(DataError) as error:
        dataset.read_json_lines(path)
    assert str(path) in str(error.value) and told in str(error.value)


def test_missing_empty_and_binary_files_are_named(tmp_path):
    (tmp_path / 'empty.jsonl').write_text('\n')
    (tmp_path / 'binary.jsonl').write_bytes(b'\xff\xfe\x00')
    for name, told in (('gone', 'cannot be read'), ('empty', 'is empty'), ('binary', 'is not UTF-8')):
        with pytest.raises(DataError, match=told):
            dataset.read_json_lines(tmp_path / f'{name}.jsonl')
    with pytest.raises(DataError, match='cannot be read'):
        dataset.read_json_lines(tmp_path)


def test_one_file_is_split_80_10_10_by_seed(tmp_path):
    path = tmp_path / 'rows.jsonl'
    dataset.write_json_lines(path, ROWS)
    found = dataset.load_dataset(path, seed=1)
    assert [len(found.train), len(found.validation), len(found.test)] == [32, 4, 4]
    assert sorted(found.train + found.validation + found.test, key=lambda e: int(e.id)) == list(ROWS)
    assert found == dataset.load_dataset(path, seed=1)
    assert found != dataset.load_dataset(path, seed=2)


def test_a_given_split_is_kept_and_the_other_cut_off(tmp_path):
    dataset.write_json_lines(tmp_path / 'train.jsonl', ROWS[:30])
    dataset.write_json_lines(tmp_path / 'other.jsonl', ROWS[30:])
    found = dataset.load_dataset(tmp_path / 'train.jsonl', validation=tmp_path / 'other.jsonl')
    assert found.validation == ROWS[30:] and len(found.test) == 3 and len(found.train) == 27
    found = dataset.load_dataset(tmp_path / 'train.jsonl', test=tmp_path / 'other.jsonl')
    assert found.test == ROWS[30:] and len(found.validation) == 3


@pytest.mark.parametrize('seed', range(5))
def test_duplicates_stay_on_one_side_of_a_split(tmp_path, seed):
    dataset.write_json_lines(tmp_path / 'rows.jsonl', [Example(f'q{n % 10}', f'a{n}') for n in range(60)])
    found = dataset.load_dataset(tmp_path / 'rows.jsonl', seed=seed)
    sides = [{e.prompt for e in split} for split in (found.train, found.validation, found.test)]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 10


def test_too_few_questions_to_split(tmp_path):
    path = write(tmp_path / 'rows.jsonl', row('a?'), row('a?'), row('b?'))
    with pytest.raises(DataError, match='2 distinct questions, too few'):
        dataset.load_dataset(path)
    other = write(tmp_path / 'other.jsonl', row('c?'))
    found = dataset.load_dataset(path, other)
    assert {e.question for e in found.train + found.test} == {'a?', 'b?'} and found.train and found.test


def test_overlap_is_counted_and_its_rows_named(tmp_path):
    train = write(tmp_path / 'train.jsonl', row('a?'), row('b?'), row('c?'))
    other = write(tmp_path / 'test.jsonl', row('x?'), row('c?', 'else'), row('a?'))
    fine = write(tmp_path / 'validation.jsonl', row('a?', context='another text'))
    with pytest.raises(DataError) as error:
        dataset.load_dataset(train, fine, other)
    assert '2 of 3 examples' in str(error.value) and 'rows 3 = 2, 1 = 3' in str(error.value)
    assert len(dataset.load_dataset(train, fine, other, allow_overlap=True).test) == 3


def table(rows):
    import datasets

    return datasets.Dataset.from_list([dataclasses.asdict(example) for example in rows])


@pytest.fixture
def saved(tmp_path):
    """A directory of the `datasets` library with three splits."""
    whole = dataset.Dataset('saved', ROWS[:6], ROWS[6:8], ROWS[8:9], 'here')
    dataset.save_to_disk(whole, tmp_path / 'saved')
    return tmp_path / 'saved'


def test_a_saved_directory_gives_its_splits(saved):
    found = dataset.load_dataset(saved)
    assert (found.train, found.validation, found.test) == (ROWS[:6], ROWS[6:8], ROWS[8:9]) and found.name == 'saved'


def test_directories_and_files_may_be_mixed(saved, tmp_path):
    import datasets

    dataset.write_json_lines(tmp_path / 'test.jsonl', ROWS[20:22])
    assert dataset.load_dataset(saved, test=tmp_path / 'test.jsonl').test == ROWS[20:22]
    dataset.write_json_lines(tmp_path / 'train.jsonl', ROWS[22:40])
    found = dataset.load_dataset(tmp_path / 'train.jsonl', validation=saved)
    assert found.validation == ROWS[6:8] and len(found.train) + len(found.test) == 18
    table(ROWS[:20]).save_to_disk(tmp_path / 'table')  # no splits
    found = dataset.load_dataset(tmp_path / 'table', test=tmp_path / 'test.jsonl')
    assert len(found.train) == 18 and found.test == ROWS[20:22]
    datasets.DatasetDict({'train': table(ROWS[:20]), 'unsupervised': table(ROWS[20:])}).save_to_disk(tmp_path / 'two')
    assert len(dataset.load_dataset(tmp_path / 'two').train) == 16


def test_faults_of_saved_directories_are_named(saved, tmp_path):
    import datasets

    def save(name, **splits):
        datasets.DatasetDict(splits).save_to_disk(tmp_path / name)
        return tmp_path / name

    with pytest.raises(DataError, match='holds the splits validation, and none named train'):
        dataset.load_dataset(save('a', validation=table(ROWS[:9])))
    with pytest.raises(DataError, match=r'1 of 1 examples in .*\(test\)'):
        dataset.load_dataset(save('b', train=table(ROWS[:9]), test=table(ROWS[:1])))
    nameless = datasets.Dataset.from_list([{'question': 'a?', 'answers': 'b'}])
    with pytest.raises(DataError, match="train row 1 has no field 'answer'"):
        dataset.load_dataset(save('c', train=nameless))
    with pytest.raises(DataError, match='no dataset that can be loaded'):
        dataset.load_dataset(save('d', train=table(ROWS[:9]), test=table(ROWS[:1]).select([])))
    for place in (tmp_path, 'nobody/nothing'):  # a directory of something else; a name, where no hub can be reached
        with pytest.raises(DataError, match='is no file, and no dataset that can be loaded'):
            dataset.load_dataset(place)


def test_a_fingerprint_follows_the_content(saved, tmp_path):
    first = dataset.fingerprint(saved)
    dataset.save_to_disk(dataset.Dataset('saved', ROWS[:5], ROWS[6:8], ROWS[8:9], 'here'), tmp_path / 'other')
    assert dataset.fingerprint(saved) == first != dataset.fingerprint(tmp_path / 'other')
    assert dataset.fingerprint('owner/name') != dataset.fingerprint('owner/other')
