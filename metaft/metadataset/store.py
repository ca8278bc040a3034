"""Files of measurements: append-only JSON lines while runs go on, Parquet to publish.

Any number of processes may append to one file, on a disk or in an object store (`metaft.journal` says how); a line torn
by a crash is dropped by the reader, which says so. Every row carries the version of its schema.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from metaft import journal
from metaft.errors import DataError
from metaft.metadataset.records import SCHEMA_VERSION, Measurement, TaskRecord

Record = TypeVar('Record', Measurement, TaskRecord)

# Integers and truth values keep their type beside missing entries; floats hold NaN.
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


OF_THE_BASE = ('log_num_parameters', 'log_pretraining_tokens')  # meta-features that all tasks of a base model share


class Log(NamedTuple):
    """What a file of measurements holds."""

    measurements: list[Measurement]
    num_torn: int  # lines cut short by a crash, dropped


def append(path: str | os.PathLike, measurement: Measurement) -> None:
    """Adds one measurement to the end of a file, synced to the disk.

    Raises:
      WorkdirError: the file cannot be written or the disk is full; the file is then as it was before.
    """
    journal.append(path, measurement.to_row())


def read(path: str | os.PathLike) -> Log:
    """Reads a file of measurements; a file that does not exist is empty.

    A line that was torn is counted; a line that parses and is no measurement is a DataError that names file and row.
    """
    found = journal.read(path)
    measurements = []
    for number, row in found.rows:
        try:
            measurements.append(Measurement.from_row(row))
        except (DataError, AttributeError, TypeError) as error:
            raise DataError(f'{path}, row {number}: {error}') from error
    return Log(measurements, found.num_torn)


def merge_to_parquet(paths: Iterable[str | os.PathLike], destination: str | os.PathLike) -> int:
    """Merges files of measurements into one Parquet table; returns how many torn lines were dropped.

    A run that was measured twice at the same budget (a crash between measuring and recording its end) keeps the later
    row. The destination is replaced in one step.

    Args:
      paths: JSON lines, or Parquet tables that were merged before (`.parquet`), which count as the earliest.
      destination: the table.
    """
    latest: dict[tuple, Measurement] = {}
    num_torn = 0
    for path in sorted(map(str, paths), key=lambda path: (not path.endswith('.parquet'), path)):
        log = Log(read_records(path, Measurement), 0) if path.endswith('.parquet') else read(path)
        num_torn += log.num_torn
        latest |= {(row.task, row.run_id, row.budget_steps): row for row in log.measurements}
    rows = [latest[key] for key in sorted(latest)]
    if not rows:
        raise DataError('there is no measurement to merge; were the paths right?')
    write_parquet(rows, destination)
    return num_torn


def write_parquet(records: Iterable[Measurement | TaskRecord], destination: str | os.PathLike) -> None:
    """Writes records as one Parquet table, replacing the destination (a path or a URL) in one step."""
    content = io.BytesIO()
    pq.write_table(_arrow(records), content, compression='zstd')
    journal.replace(destination, content.getvalue())


def read_parquet(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table that `write_parquet` wrote, as `to_frame` gives it; raises DataError as `read_records`."""
    return _read_table(path).to_pandas(types_mapper=_NULLABLE.get)


def read_records(path: str | os.PathLike, cls: type[Record]) -> list[Record]:
    """Reads a table that `write_parquet` wrote as the records it was made of.

    Raises:
      DataError: there is none, it is damaged, or it is of another schema.
    """
    return [cls.from_row(row) for row in _read_table(path).to_pylist()]


def merge_tasks(records: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Returns one record a task, by name: the first one, with the meta-features that only later ones have.

    What is a fact of the base model (OF_THE_BASE) is taken from any task with the same one.
    """
    merged: dict[str, TaskRecord] = {}
    of_base: dict[str, dict[str, float | None]] = {}
    for record in records:
        first = merged.setdefault(record.task, record)
        merged[record.task] = _completed(first, record.meta_features)
        facts = {n: v for n, v in record.meta_features.items() if n in OF_THE_BASE and v is not None}
        of_base.setdefault(record.base_model, {}).update(facts)
    return [_completed(merged[name], of_base[merged[name].base_model]) for name in sorted(merged)]


def _completed(record: TaskRecord, more: Mapping[str, float | None]) -> TaskRecord:
    missing = {n: v for n, v in more.items() if record.meta_features.get(n) is None}
    return dataclasses.replace(record, meta_features={**record.meta_features, **missing})


def _read_table(path: str | os.PathLike) -> pa.Table:
    filesystem, place = journal.locate(path)
    if not filesystem.isfile(place):
        raise DataError(f'there is no meta-dataset at {path}')
    try:
        table = pq.read_table(io.BytesIO(filesystem.cat_file(place)))
    except (pa.ArrowInvalid, OSError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise DataError(f'{path} is no Parquet file that can be read ({reason}); merge or fetch it again') from error
    versions = set(table['schema_version'].to_pylist()) if 'schema_version' in table.column_names else {None}
    if versions - {SCHEMA_VERSION}:
        raise DataError(
            f'{path} has rows of schema_version {", ".join(map(str, versions))}, this metaft reads {SCHEMA_VERSION}; '
            'read it with the version that wrote it'
        )
    return table


def to_frame(records: Iterable[Measurement | TaskRecord]) -> pd.DataFrame:
    """Makes a frame of records, a column a field, `configuration.NAME` and the like for dictionaries."""
    return _arrow(records).to_pandas(types_mapper=_NULLABLE.get)


def write_task(path: str | os.PathLike, task: TaskRecord) -> None:
    """Writes a task's facts as one JSON file, replacing it in one step."""
    journal.replace(path, (json.dumps(task.to_row(), indent=2, allow_nan=False) + '\n').encode())


def read_task(path: str | os.PathLike) -> TaskRecord:
    """Reads the task that `write_task` wrote."""
    try:
        filesystem, place = journal.locate(path)
        return TaskRecord.from_row(json.loads(filesystem.cat_file(place)))
    except (OSError, ValueError) as error:
        raise DataError(f'{path} holds no task: {error}') from error


def _arrow(records: Iterable[Measurement | TaskRecord]) -> pa.Table:
    rows = [record.to_row() for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
