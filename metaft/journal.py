"""Append-only files of JSON objects: safe with many writers, a torn tail dropped, local or in an object store.

On a disk, a line is written in a single write under an exclusive lock and synced before `append` returns, so what was
reported is there. A process killed inside the write leaves a torn line; the next writer starts a new line after it, and
a reader drops it. In an object store (any URL that fsspec knows: `s3://`, `gs://`, `memory://`), which cannot append,
the file is a folder with an object a line: each is put in one step under a name of its own, so writers never meet.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from metaft.errors import DataError, WorkdirError


class Rows(NamedTuple):
    """What a file holds: the objects with the number of their line (from 1), and how many lines were torn."""

    rows: list[tuple[int, Any]]
    num_torn: int


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Adds one object to the end of a file, synced to the disk.

    Raises:
      WorkdirError: the file cannot be written or the disk is full; the file is then as it was before.
    """
    line = json.dumps(row, allow_nan=False).encode() + b'\n'
    filesystem, place = locate(path)
    with explained(path):
        if isinstance(filesystem, LocalFileSystem):
            _append_line(place, line)
        else:  # names sort by time, as lines do
            filesystem.pipe_file(f'{place}/{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl', line)


def _append_line(path: str, line: bytes) -> None:
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


def read(path: str | os.PathLike) -> Rows:
    """Reads a file; one that does not exist is empty.

    A cut JSON object never parses, so a line that does not parse was torn.

    Raises:
      DataError: the place is there and cannot be read.
    """
    rows, num_torn = [], 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except ValueError:
            num_torn += 1
    return Rows(rows, num_torn)


def _lines(path: str | os.PathLike) -> list[bytes]:
    filesystem, place = locate(path)
    try:
        if isinstance(filesystem, LocalFileSystem):
            return pathlib.Path(place).read_bytes().split(b'\n')
        names = sorted(str(name) for name in filesystem.ls(place, detail=False))
        return [line for name in names for line in filesystem.cat_file(name).splitlines()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror or error}); give the path of JSON lines') from error


@contextlib.contextmanager
def sole_writer(path: str | os.PathLike) -> Iterator[None]:
    """Holds a lock file beside a local file while a process works on it; the lock goes with the process.

    Raises:
      WorkdirError: another process holds it.
    """
    with explained(path), open(f'{path}.lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(f'another process is writing {path}; wait for it, or give another workdir') from None
        yield


def replace(path: str | os.PathLike, content: bytes) -> None:
    """Writes a whole file so that a reader sees the old one or the new one, never a part.

    Raises:
      WorkdirError: it cannot be written or the disk is full; what was there stands.
    """
    filesystem, place = locate(path)
    with explained(path):
        if not isinstance(filesystem, LocalFileSystem):
            filesystem.pipe_file(place, content)  # an object appears whole
            return
        destination = pathlib.Path(place)
        temporary = destination.with_name(f'.{destination.name}.{os.getpid()}')
        try:
            with open(temporary, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, destination)
        finally:
            temporary.unlink(missing_ok=True)


def locate(path: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path or URL, and the path in it.

    Raises:
      DataError: nothing is known of such a URL.
    """
    try:
        return fsspec.core.url_to_fs(os.fspath(path))
    except (ValueError, ImportError) as error:
        raise DataError(f'{path} is in no store that can be opened ({error}); install its fsspec package') from None


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns a fault of writing to `path` into a WorkdirError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkdirError(
                f'the disk is full: {path} could not be written; free some space and run the same '
                'command again, nothing recorded so far is lost'
            ) from error
        raise WorkdirError(f'{path} cannot be written: {error.strerror or error}; give another workdir') from error
