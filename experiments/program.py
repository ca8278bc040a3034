"""From a settings dataclass to a program: flags, exit codes, interrupts, working directory, compilation cache.

An experiment is a frozen dataclass `Settings`, whose fields are its flags, and a function `main(settings)`:

    if __name__ == '__main__':
        program.run(main, Settings)

Exit codes: 0 done; 2 the caller can mend it (bad flag, bad input), told in one sentence; 130 and 143 interrupted.
Nothing heavy is imported before the flags are read, so a mistake in them is told at once.
"""

import dataclasses
import difflib
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import flags

from metaft.errors import InputError, WorkdirError

S = TypeVar('S')
REQUIRED = dataclasses.MISSING
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy', 'pandas', 'transformers', 'tokenizers', 'ConfigSpace')


def setting(default: Any, help: str, unit: str | None = None, choices: Sequence[str] | None = None) -> Any:
    """Returns a dataclass field with its help, unit and allowed values; with `REQUIRED` as default it must be given."""
    return dataclasses.field(default=default, metadata={'help': help, 'unit': unit, 'choices': choices})


def run(main: Callable[[S], object], settings_class: type[S], argv: Sequence[str] | None = None) -> None:
    """Reads the flags into `settings_class` and calls `main` with it.

    Args:
      main: the experiment; its module's docstring is the text of `--help`.
      settings_class: a dataclass; one flag a field, of type str, int, float, bool, Path, a tuple of these, or None.
      argv: the command line without the program's name; the process's own by default.

    Raises:
      SystemExit: 0 after `--help`, 2 for an InputError, 130 / 143 after SIGINT / SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # torch is not missing here, it is not used
    if {'--help', '-h', '-help'} & set(argv):
        print(_help_text(sys.modules[main.__module__].__doc__ or '', settings_class))
        raise SystemExit(0)
    try:
        settings = read_flags(settings_class, argv)
        _install_signals()
        use_compilation_cache()
        main(settings)
    except InputError as error:
        _stop(f'error: {error}', code=2)
    except KeyboardInterrupt as interrupt:
        _stop('interrupted; run the same command to go on', code=143 if isinstance(interrupt, Terminated) else 130)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be, so that an experiment which saves on one saves on both."""


def _install_signals() -> None:
    def terminate(*_):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with SIGINT ignored


def _stop(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr, flush=True)
    raise SystemExit(code)


# ---------------------------------------------------------------- flags


def read_flags(settings_class: type[S], argv: Sequence[str]) -> S:
    """Parses `argv` into `settings_class`, whose `__post_init__` validates; InputError gives the nearest names."""
    values = flags.FlagValues()
    hints = typing.get_type_hints(settings_class)
    fields = dataclasses.fields(settings_class)  # type: ignore[arg-type]
    for field in fields:
        default = None if field.default is REQUIRED else field.default
        if bool in _alternatives(hints[field.name]):
            flags.DEFINE_boolean(field.name, default, field.metadata['help'], flag_values=values)
        else:
            parser = _Parser(field, hints[field.name])
            flags.DEFINE(parser, field.name, default, field.metadata['help'], flag_values=values)
    try:
        rest = values(['program', *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise InputError(
            f'unknown flag --{error.flagname}; {_nearest(error.flagname, [f.name for f in fields])}'
        ) from None
    except flags.Error as error:
        raise InputError(' '.join(str(error).split())) from None
    if rest:
        raise InputError(f'found {rest[0]!r} where a flag was expected; write --NAME=VALUE, or --help for the names')
    for field in fields:
        if field.default is REQUIRED and values[field.name].value is None:
            raise InputError(f'--{field.name} is required: {field.metadata["help"]}')
    return settings_class(**{field.name: values[field.name].value for field in fields})


class _Parser(flags.ArgumentParser):
    """Converts a flag's text to a field's type; an empty text is None where the field allows it."""

    def __init__(self, field: dataclasses.Field, hint: Any):
        self.optional = type(None) in _alternatives(hint)
        (kind,) = [a for a in _alternatives(hint) if a is not type(None)]
        self.is_tuple = typing.get_origin(kind) is tuple
        self.kind = typing.get_args(kind)[0] if self.is_tuple else kind
        self.choices = field.metadata.get('choices')

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument  # the default, already of its type
        if self.optional and not argument:
            return None
        if self.is_tuple:
            return tuple(self._convert(part.strip()) for part in argument.split(',') if part.strip())
        return self._convert(argument)

    def flag_type(self) -> str:
        return self.kind.__name__

    def _convert(self, text: str) -> Any:
        if self.choices and text not in self.choices:
            raise ValueError(f'not among the allowed values; {_nearest(text, self.choices)}')
        if self.kind is Path:
            return Path(text).expanduser()
        try:
            return self.kind(text)
        except ValueError:
            wanted = {int: 'a whole number', float: 'a number'}[self.kind]
            raise ValueError(f'{wanted} is expected') from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _nearest(name: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=3)
    return f'did you mean {" or ".join(near)}?' if near else f'allowed are {", ".join(allowed)}.'


def _help_text(docstring: str, settings_class: type) -> str:
    lines = [docstring.strip(), '', 'Flags:']
    for field in dataclasses.fields(settings_class):
        default = 'required' if field.default is REQUIRED else f'default {_as_text(field.default)}'
        unit, choices = field.metadata.get('unit'), field.metadata.get('choices')
        notes = [f'one of {", ".join(choices)}' if choices else '', f'in {unit}' if unit else '', default]
        lines += [f'  --{field.name}', f'      {field.metadata["help"]} ({"; ".join(filter(None, notes))})']
    return '\n'.join(lines)


def _as_text(value: Any) -> str:
    return ','.join(map(str, value)) if isinstance(value, tuple) else 'none' if value is None else str(value)


# ---------------------------------------------------------------- working directory and records


def prepare_workdir(
    workdir: Path, settings: Any, identity_fields: Sequence[str], fingerprints: Mapping[str, str] | None = None
) -> Path:
    """Makes `workdir` and leaves `settings.json` in it; a later run goes on there only if it is the same job.

    Args:
      workdir: made with its parents.
      settings: the dataclass of the experiment.
      identity_fields: names of the fields that make the job what it is; others (a larger budget) may change.
      fingerprints: hashes of what the job reads (data files), part of its identity.

    Returns:
      `workdir`.

    Raises:
      WorkdirError: it cannot be written, or holds another job; nothing is overwritten then.
    """
    record = {'experiment': _experiment_name(settings), **_jsonable(settings), 'fingerprints': dict(fingerprints or {})}
    path = Path(workdir) / 'settings.json'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text()) if path.exists() else record
    except OSError as error:
        raise WorkdirError(f'workdir {workdir} cannot be used ({error.strerror}); give another --workdir') from None
    except ValueError:
        raise WorkdirError(f'{path} is not JSON, so the job it belongs to is unknown; give another --workdir') from None
    for name in ('experiment', *identity_fields, 'fingerprints'):
        if found.get(name) != record[name]:
            raise WorkdirError(
                f'{workdir} is a workdir of another task: its {name} is {found.get(name)!r}, asked is {record[name]!r};'
                f' give another --workdir'
            )
    write_json(path, record)
    return Path(workdir)


def write_json(path: Path, record: Any) -> None:
    """Writes `record` so that a reader sees all of the old or of the new file; NaN and infinity become null."""
    write_text(path, json.dumps(_strict(record), indent=2, allow_nan=False, default=str) + '\n')


def write_text(path: Path, text: str) -> None:
    """Writes `text` so that a reader sees the old file or the new one, never a part.

    Raises:
      WorkdirError: the disk is full or the directory cannot be written.
    """
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_text(text, encoding='utf-8')
        os.replace(partial, path)
    except OSError as error:
        raise WorkdirError(f'{path} cannot be written ({error.strerror}); give another --workdir') from None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a `metaft.journal`; lines torn by a kill are left out, told, and so done again.

    Raises:
      DataError: the file is there and cannot be read.
    """
    from metaft import journal

    rows, torn = journal.read(path)
    if torn:
        print(f'{path}: {torn} torn line(s) left out', flush=True)
    return [record for _, record in rows]


def _strict(value: Any) -> Any:
    """Replaces the numbers that JSON has no word for."""
    if hasattr(value, '_asdict'):  # a NamedTuple
        return _strict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _strict({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    if hasattr(value, 'tolist'):  # NumPy and JAX scalars and arrays
        return _strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _jsonable(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def _experiment_name(settings: Any) -> str:
    module = sys.modules[type(settings).__module__]
    return (module.__spec__.name if module.__spec__ else module.__name__).rpartition('.')[2]


def versions() -> dict[str, str]:
    """Returns the versions of Python, metaft and the packages that numbers depend on."""
    import metaft

    found = {'python': platform.python_version(), 'metaft': metaft.__version__}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


# ---------------------------------------------------------------- compilation cache


def cache_directory() -> Path:
    """Returns where metaft keeps what it can make again: METAFT_CACHE, else `metaft` in the user's cache directory."""
    user_cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.environ.get('METAFT_CACHE') or f'{user_cache}/metaft').expanduser()


def use_compilation_cache() -> None:
    """Lets JAX keep every compiled program on disk; without a writable cache it compiles each time."""
    directory = cache_directory() / 'jax'
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(directory, os.W_OK):
        return
    import jax

    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', str(directory))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
