"""Append-only files of measurements: JSON lines while runs go on, Parquet to publish.

Any number of processes may append to one file: a line is written in a single write under an exclusive lock and synced
before `append` returns, so a measurement that was reported is on the disk. A process killed inside the write leaves a
torn line; the next writer starts a new line after it, and a reader drops it and says so.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from metaft.errors import DataError, WorkdirError
from metaft.metadataset.records import Measurement, TaskRecord

# Integers and truth values keep their type beside missing entries; floats hold NaN.
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


class Log(NamedTuple):
    """What a file of measurements holds."""

    measurements: list[Measurement]
    num_torn: int  # lines cut short by a crash, dropped


def append(path: str | os.PathLike, measurement: Measurement) -> None:
    """Adds one measurement to the end of a file, synced to the disk.

    Raises:
      WorkdirError: the file cannot be written or the disk is full; the file is then as it was before.
    """
    line = json.dumps(measurement.to_row(), allow_nan=False).encode() + b'\n'
    with _explain(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when the descriptor closes, also by a kill
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b'\n':
                line = b'\n' + line
            try:
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def read(path: str | os.PathLike) -> Log:
    """Reads a file of measurements; a file that does not exist is empty.

    A cut JSON object never parses, so a line that does not parse was torn. A line that parses and is no measurement
    is a DataError that names file and row.
    """
    path = pathlib.Path(path)
    measurements, num_torn = [], 0
    lines = path.read_bytes().split(b'\n') if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            num_torn += 1
            continue
        try:
            measurements.append(Measurement.from_row(row))
        except (DataError, AttributeError, TypeError) as error:
            raise DataError(f'{path}, row {number}: {error}') from error
    return Log(measurements, num_torn)


def merge_to_parquet(paths: Iterable[str | os.PathLike], destination: str | os.PathLike) -> int:
    """Merges files of measurements into one Parquet table; returns how many torn lines were dropped.

    A run that was measured twice at the same budget (a crash between measuring and recording its end) keeps the later
    row. The destination is replaced in one step.
    """
    latest: dict[tuple, Measurement] = {}
    num_torn = 0
    for path in sorted(map(str, paths)):
        log = read(path)
        num_torn += log.num_torn
        latest |= {(row.task, row.run_id, row.budget_steps): row for row in log.measurements}
    rows = [latest[key] for key in sorted(latest)]
    if not rows:
        raise DataError('there is no measurement to merge; were the paths right?')
    write_parquet(rows, destination)
    return num_torn


def write_parquet(records: Iterable[Measurement | TaskRecord], destination: str | os.PathLike) -> None:
    """Writes records as one Parquet table, replacing the destination in one step."""
    destination = pathlib.Path(destination)
    temporary = destination.with_name(f'.{destination.name}.{os.getpid()}')
    with _explain(destination):
        try:
            pq.write_table(_arrow(records), temporary, compression='zstd')
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(temporary, destination)
        finally:
            temporary.unlink(missing_ok=True)


def read_parquet(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table that `write_parquet` wrote, as `to_frame` gives it."""
    if not pathlib.Path(path).is_file():
        raise DataError(f'there is no meta-dataset at {path}')
    return pq.read_table(path).to_pandas(types_mapper=_NULLABLE.get)


def to_frame(records: Iterable[Measurement | TaskRecord]) -> pd.DataFrame:
    """Makes a frame of records, a column a field, `configuration.NAME` and the like for dictionaries."""
    return _arrow(records).to_pandas(types_mapper=_NULLABLE.get)


def write_task(path: str | os.PathLike, task: TaskRecord) -> None:
    """Writes a task's facts as one JSON file, replacing it in one step."""
    path = pathlib.Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with _explain(path):
        temporary.write_text(json.dumps(task.to_row(), indent=2, allow_nan=False) + '\n')
        os.replace(temporary, path)


def read_task(path: str | os.PathLike) -> TaskRecord:
    """Reads the task that `write_task` wrote."""
    try:
        return TaskRecord.from_row(json.loads(pathlib.Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f'{path} holds no task: {error}') from error


def _arrow(records: Iterable[Measurement | TaskRecord]) -> pa.Table:
    rows = [record.to_row() for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


@contextlib.contextmanager
def _explain(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkdirError(
                f'the disk is full: {path} could not be written; free some space and run the same '
                'command again, nothing recorded so far is lost'
            ) from error
        raise WorkdirError(f'{path} cannot be written: {error.strerror}; give another workdir') from error
