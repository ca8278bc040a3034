"""Reads the files of published curves; a file that is not what its kind says is a DataError that names the place."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaft.errors import DataError


def arrays(path: Path, dimensions: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file; `dimensions` gives each one's axes as letters, equal letters equal lengths."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f'{path} cannot be read as an npz file ({error})') from error
    missing = [name for name in dimensions if name not in found]
    if missing:
        raise DataError(f'{path} has no array {missing[0]!r} (its arrays: {", ".join(found) or "none"})')
    lengths: dict[str, tuple[int, str]] = {}
    for name, axes in dimensions.items():
        if found[name].ndim != len(axes):
            raise DataError(f'{path}: {name} has shape {found[name].shape}; wanted are the axes {axes}')
        for axis, length in zip(axes, found[name].shape, strict=True):
            other, first = lengths.setdefault(axis, (length, name))
            if other != length:
                raise DataError(f'{path}: {name} has {length} along {axis}, {first} has {other}; they must be equal')
    return found


def table(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a CSV file (gzip by its ending) that has `columns`, those of `numbers` holding numbers or nothing."""
    try:
        found = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, EOFError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f'{path} cannot be read as CSV ({" ".join(str(error).split())[:200]})') from error
    missing = [name for name in (*columns, *numbers) if name not in found.columns]
    if missing:
        raise DataError(f'{path} has no column {missing[0]!r} (its columns: {", ".join(map(str, found.columns))})')
    for name in numbers:
        read = pd.to_numeric(found[name], errors='coerce')
        bad = found.index[read.isna() & found[name].notna()]
        if len(bad):
            raise DataError(f'{path}, row {bad[0] + 2}: {name} is {found[name][bad[0]]!r}, no number')
        found[name] = read
    if found.empty:
        raise DataError(f'{path} has no rows')
    return found


def json_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads a JSON list of objects, or one object a line; gives each with its place."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path} cannot be read ({error})') from error
    try:
        whole = json.loads(text) if text.lstrip().startswith('[') else None
    except ValueError as error:
        raise DataError(f'{path} is broken JSON ({error})') from error
    records = [(f'{path}, entry {number}', record) for number, record in enumerate(whole or (), start=1)]
    for number, line in enumerate(text.split('\n') if whole is None else (), start=1):
        if line.strip():
            try:
                records.append((f'{path}, row {number}', json.loads(line)))
            except ValueError as error:
                raise DataError(f'{path}, row {number} is broken JSON ({error})') from error
    for place, record in records:
        if not isinstance(record, dict):
            raise DataError(f'{place} is a JSON {type(record).__name__}; an object is wanted')
    if not records:
        raise DataError(f'{path} holds no runs')
    return records


def entry(record: Mapping[str, Any], name: str, place: str, kind: type | tuple[type, ...] = (int, float)) -> Any:
    """Returns a field of a record, which must be there and of a kind."""
    if name not in record:
        raise DataError(f'{place} has no field {name!r} (its fields: {", ".join(record)})')
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f'{place}: {name} is {value!r:.60}, of type {type(value).__name__}, which is not expected')
    return value


def points(record: Mapping[str, Any], name: str, place: str) -> list[float]:
    """Returns a field that is a list of numbers (null: not finite)."""
    found = entry(record, name, place, list)
    for value in found:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f'{place}: {name} holds {value!r:.60}; numbers are wanted')
    return [np.nan if value is None else float(value) for value in found]
