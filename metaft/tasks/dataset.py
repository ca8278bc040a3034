"""Question-answer datasets: their records, JSON-lines files, Hugging Face `datasets`, and splits.

Nothing here knows of tokens or models. Every fault of a file is a DataError that names the file and the row.
"""

import collections
import dataclasses
import hashlib
import json
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaft.errors import DataError

SPLIT_SHARES = (0.8, 0.1, 0.1)  # train, validation, test, where only one file is given
_REQUIRED, _OPTIONAL = ('question', 'answer'), ('context', 'id')


@dataclasses.dataclass(frozen=True)
class Example:
    """One question, its answer, and the text it is to be answered from, if there is one."""

    question: str
    answer: str
    context: str = ''
    id: str = ''

    @property
    def prompt(self) -> tuple[str, str]:
        """What tells two examples apart for splitting: context and question."""
        return (self.context, self.question)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits of examples; `source` says where they came from."""

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    source: str


# ---------------------------------------------------------------- JSON lines


def read_json_lines(path: str | os.PathLike[str]) -> tuple[Example, ...]:
    """Reads one example a line: a JSON object with strings `question` and `answer`, optionally `context` and `id`.

    Other keys are left alone; blank lines are skipped.

    Raises:
      DataError: the file is missing, empty or no UTF-8 text, or a row is not such an object; rows count from 1.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').split('\n')
    except OSError as error:
        raise DataError(
            f'data file {path} cannot be read ({error.strerror}); give the path of a JSON-lines file'
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f'data file {path} is not UTF-8 text (byte {error.start}); save it as UTF-8 JSON lines'
        ) from None
    examples = tuple(_parse(line, f'{path}, row {row}') for row, line in enumerate(lines, start=1) if line.strip())
    if not examples:
        raise DataError(f'data file {path} is empty; give one JSON object with question and answer a line')
    return examples


def _parse(line: str, place: str) -> Example:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f'{place} is broken JSON ({error}); give one JSON object a line') from None
    if not isinstance(record, dict):
        raise DataError(
            f'{place} is a JSON {type(record).__name__}, not an object; give {{"question": ..., "answer": ...}}'
        )
    return _example(record, place)


def _example(record: Mapping[str, Any], place: str) -> Example:
    for name in _REQUIRED:
        if name not in record:
            found = ', '.join(map(repr, record)) or 'none'
            raise DataError(f'{place} has no field {name!r} (its fields: {found}); question and answer are required')
    values = {}
    for name in (*_REQUIRED, *_OPTIONAL):
        value = record.get(name)
        if value is None and name in _OPTIONAL:
            value = ''
        if not isinstance(value, str):
            raise DataError(f'{place} has {name} of type {type(value).__name__}: {value!r:.60}; write it as a string')
        if name in _REQUIRED and not value.strip():
            raise DataError(f'{place} has an empty {name}; fill it in or take the row out')
        values[name] = value
    return Example(**values)


def write_json_lines(path: str | os.PathLike[str], examples: Iterable[Example]) -> None:
    """Writes what `read_json_lines` reads; empty optional fields are left out."""
    records = ({k: v for k, v in dataclasses.asdict(example).items() if v} for example in examples)
    Path(path).write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records), encoding='utf-8')


# ---------------------------------------------------------------- splits


def load_dataset(
    train: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    allow_overlap: bool = False,
) -> Dataset:
    """Loads a dataset; splits that are not given are drawn from the training examples.

    A place is a JSON-lines file, a directory that `datasets.save_to_disk` wrote, or the name of a dataset on the
    Hugging Face hub. One that holds several splits gives the one that is asked for; as `train` it also gives those of
    its splits `validation` and `test` that are not given.

    Args:
      train: place of the training examples.
      validation: place, or None for 10 % of the training examples.
      test: place, or None for 10 % of the training examples.
      seed: of the split. Rows with the same context and question stay on one side.
      allow_overlap: accept training questions that are also asked in validation or test.

    Raises:
      DataError: a place is faulty, a split would be empty, or training and another split overlap.
    """
    found = _read_splits(train)
    parts = {'train': _named(found, 'train', train)}
    for name, place in (('validation', validation), ('test', test)):
        if place is not None:
            parts[name] = _named(_read_splits(place), name, place)
        elif name in found:
            parts[name], place = found[name], f'{train} ({name})'
        if name in parts and not allow_overlap:
            _check_overlap(parts['train'], parts[name], f'{train}', f'{place}')
    missing = [name for name in ('validation', 'test') if name not in parts]
    if missing:
        parts |= _split(parts['train'], missing, seed, f'{train}')
    source = ', '.join(str(path) for path in (train, validation, test) if path is not None)
    return Dataset(Path(train).stem, parts['train'], parts['validation'], parts['test'], source)


def _read_splits(place: str | os.PathLike[str]) -> dict[str, tuple[Example, ...]]:
    """Reads all splits of a place; a file, or a table without splits, is one split with an empty name."""
    path = Path(place)
    if path.is_dir() or (not path.exists() and re.fullmatch(r'[\w-]+(/[\w-]+)?', os.fspath(place))):
        return _read_hugging_face(place)
    return {'': read_json_lines(path)}


def _named(found: Mapping[str, tuple[Example, ...]], name: str, place: str | os.PathLike[str]) -> tuple[Example, ...]:
    if '' not in found and name not in found:
        raise DataError(f'dataset {place} holds the splits {", ".join(found)}, and none named {name}; name it so')
    return found[name] if name in found else found['']


def _split(examples: Sequence[Example], missing: Sequence[str], seed: int, path: str) -> dict[str, tuple[Example, ...]]:
    """Cuts a tenth of the distinct prompts, one at least, off the training examples for each missing split."""
    prompts = sorted({example.prompt for example in examples})
    if len(prompts) < len(missing) + 1:
        raise DataError(
            f'{path} has {len(prompts)} distinct questions, too few to split into train, {" and ".join(missing)}; '
            f'add rows, or give --validation and --test'
        )
    random.Random(f'split {seed}').shuffle(prompts)
    share = dict(zip(('train', 'validation', 'test'), SPLIT_SHARES, strict=True))
    side: dict[tuple[str, str], str] = {}
    start = 0
    for name in missing:
        count = max(1, round(share[name] * len(prompts)))
        side |= dict.fromkeys(prompts[start : start + count], name)
        start += count
    cut = {name: tuple(e for e in examples if side.get(e.prompt, 'train') == name) for name in ('train', *missing)}
    if not cut['train']:
        raise DataError(f'{path} has too few distinct questions to split; add rows, or give --validation and --test')
    return cut


def _check_overlap(train: Sequence[Example], other: Sequence[Example], train_name: str, other_name: str) -> None:
    rows = collections.defaultdict(list)
    for row, example in enumerate(train, start=1):
        rows[example.prompt].append(row)
    pairs = [(rows[e.prompt][0], row) for row, e in enumerate(other, start=1) if e.prompt in rows]
    if pairs:
        shown = ', '.join(f'{a} = {b}' for a, b in pairs[:5]) + (', ...' if len(pairs) > 5 else '')
        raise DataError(
            f'{len(pairs)} of {len(other)} examples in {other_name} have the same context and question as one in '
            f'{train_name} (rows {shown}); take them out, or pass --allow_overlap'
        )


# ---------------------------------------------------------------- Hugging Face datasets


def _read_hugging_face(place: str | os.PathLike[str]) -> dict[str, tuple[Example, ...]]:
    import datasets

    try:
        found = datasets.load_from_disk(place) if Path(place).is_dir() else datasets.load_dataset(os.fspath(place))
    except (OSError, ValueError, IndexError) as error:  # IndexError: a split without rows
        reason = ' '.join(str(error).split())[:200]
        raise DataError(
            f'{place} is no file, and no dataset that can be loaded ({reason}); give JSON lines, a directory that '
            'datasets.save_to_disk wrote, or the name of a dataset on the Hugging Face hub'
        ) from error
    parts = {}
    for name, table in found.items() if isinstance(found, datasets.DatasetDict) else [('', found)]:
        parts[name] = tuple(_example(r, f'{place}, {name or "table"} row {n}') for n, r in enumerate(table, start=1))
        if not parts[name]:
            raise DataError(f'dataset {place} has an empty {name or "table"}; one example at least is required')
    return parts


def save_to_disk(dataset: Dataset, directory: str | os.PathLike[str]) -> None:
    """Writes a dataset as a directory of the `datasets` library, which `load_dataset` reads.

    Raises:
      DataError: the directory cannot be written.
    """
    import datasets

    splits = {
        name: datasets.Dataset.from_list([dataclasses.asdict(example) for example in getattr(dataset, name)])
        for name in ('train', 'validation', 'test')
    }
    try:
        datasets.DatasetDict(splits).save_to_disk(directory)
    except OSError as error:
        raise DataError(f'{directory} cannot be written ({error.strerror or error}); give another place') from error


def fingerprint(place: str | os.PathLike[str]) -> str:
    """Returns a hash of the bytes of a file or directory of examples; of the name where it is on a hub."""
    path = Path(place)
    files = sorted(p for p in path.rglob('*') if p.is_file()) if path.is_dir() else [path]
    contents = [file.read_bytes() for file in files] if path.exists() else [os.fspath(place).encode()]
    return hashlib.sha256(b''.join(contents)).hexdigest()[:16]
