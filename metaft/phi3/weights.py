"""Reads and writes Hugging Face model directories: `config.json` and safetensors, one file or shards with an index.

Reading is strict: whatever is missing, unexpected, doubled, mis-shaped or unreadable is listed in one error, before the
first tensor is read. Tokenizer files are none of this module's business.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from metaft.errors import ModelError
from metaft.phi3.config import Phi3Config
from metaft.phi3.model import Phi3
from metaft.phi3.quantized import quantize as quantized
from metaft.phi3.quantized import to_int8
from metaft.phi3.sharding import spec
from metaft.phi3.streaming import Source, to_device

CONFIG = 'config.json'
SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_FLOATS = {'F32': jnp.float32, 'F16': jnp.float16, 'BF16': jnp.bfloat16}
_LISTED = 20  # how many problems an error spells out

Path = tuple[str | int, ...]


def checkpoint_key(path: Path) -> str:
    """Returns a checkpoint's name of the parameter at `path` of a `Phi3`: ('norm', 'scale') -> 'model.norm.weight'."""
    parts = [str(part) for part in path if part not in ('kernel', 'scale')]
    return '.'.join([*([] if parts[0] == 'lm_head' else ['model']), *parts, 'weight'])


def load_config(directory: str | os.PathLike[str]) -> Phi3Config:
    """Reads `config.json` of a model directory.

    Raises:
      ModelError: no such directory or file, broken JSON, or no Phi-3 that metaft implements.
    """
    path = pathlib.Path(directory) / CONFIG
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ModelError(f'{directory} is no model directory: it has no {CONFIG}.') from None
    except (OSError, ValueError) as error:
        raise ModelError(f'{path} cannot be read as JSON: {error}.') from error
    if not isinstance(values, dict):
        raise ModelError(f'{path} holds no JSON object.')
    try:
        return Phi3Config.from_dict(values)
    except ModelError as error:
        raise ModelError(f'{directory}: {error}') from None


def load_pretrained(
    directory: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    *,
    mesh: Mesh | None = None,
    quantize: str | None = None,
) -> Phi3:
    """Builds the model of a Hugging Face directory.

    Tensors are read one at a time, in blocks, and go straight to device arrays of `dtype`; nothing is initialised
    first. The host holds the model's share of its own devices and one tensor.

    Args:
      directory: holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
      dtype: of the parameters, whatever the file's is.
      mesh: devices to divide the parameters over (`sharding.RULES`); None for the default device. Of several
        processes, each reads what its own devices hold.
      quantize: 'int8' stores the blocks' linear layers in 8 bits (`quantized`); None leaves them in `dtype`.

    Raises:
      ModelError: not a Phi-3, or tensors missing, unexpected, doubled, mis-shaped, or not readable; all are listed.
    """
    directory = pathlib.Path(directory)
    config = load_config(directory)
    plain = nnx.eval_shape(lambda: Phi3(config, rngs=nnx.Rngs(0), dtype=dtype))
    shapes = {path: tuple(leaf.shape) for path, leaf in nnx.to_flat_state(nnx.state(plain))}
    wanted = {checkpoint_key(path): path for path in shapes}
    files = _weight_files(directory)
    problems, places = _inspect(files, {key: (shapes[path], path[-1] == 'kernel') for key, path in wanted.items()})
    if problems:
        more = '' if len(problems) <= _LISTED else f'; and {len(problems) - _LISTED} more'
        raise ModelError(f'{directory} does not hold this Phi-3: {"; ".join(problems[:_LISTED])}{more}.')
    model = plain if quantize is None else _quantized_shape(config, dtype, quantize)
    graph, state = nnx.split(model)
    kept = dict(nnx.to_flat_state(state))
    loaded: dict[Path, jax.Array] = {}
    for key, path in wanted.items():
        source = Source(places[key], key, shapes[path], dtype, transposed=path[-1] == 'kernel')
        if (*path[:-1], 'kernel_scale') not in kept:
            loaded[path] = to_device(source, _sharding(path, shapes[path], mesh))
            continue
        scale_path = (*path[:-1], 'kernel_scale')
        for part, value in zip((path, scale_path), to_int8(source.read()), strict=True):
            loaded[part] = to_device(value, _sharding(part, value.shape, mesh))
    return nnx.merge(graph, nnx.from_flat_state([(path, leaf.replace(loaded[path])) for path, leaf in kept.items()]))


def _quantized_shape(config: Phi3Config, dtype: Any, kind: str) -> Phi3:
    if kind != 'int8':
        raise ModelError(f"the base can be quantised to 'int8'; found {kind!r}.")
    return nnx.eval_shape(lambda: quantized(Phi3(config, rngs=nnx.Rngs(0), dtype=dtype)))


def _sharding(path: Path, shape: tuple[int, ...], mesh: Mesh | None) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, spec('.'.join(map(str, path)), shape, mesh))


def stored_dtype(directory: str | os.PathLike[str]) -> np.dtype:
    """Returns the dtype that a directory's weights are stored in: that of its embedding.

    Raises:
      ModelError: no weights, or none that can be read.
    """
    key = checkpoint_key(('embed_tokens',))
    problems, places = _inspect(_weight_files(pathlib.Path(directory)), {})
    if key not in places:
        raise ModelError(f'{directory} holds no {key}: {"; ".join(problems[:_LISTED])}.')
    with safetensors.safe_open(places[key], framework='numpy') as tensors:
        return jnp.dtype(_FLOATS[tensors.get_slice(key).get_dtype()])


def save_pretrained(model: Phi3, directory: str | os.PathLike[str], max_shard_bytes: float = 5e9) -> None:
    """Writes `config.json` and the weights, in the parameters' dtype, as transformers' Phi3ForCausalLM loads them.

    Everything is written under temporary names first. Then weights that lie there are removed and the new names put in
    place, the file that makes the directory loadable last: a crash leaves an incomplete directory, never a mixture.

    Args:
      model: a plain `Phi3`, adapters merged or detached.
      directory: made if missing; other files in it are left alone.
      max_shard_bytes: beyond it the weights are split into `model-00001-of-0000N.safetensors` and an index.

    Raises:
      ModelError: the model holds parameters that a Phi-3 checkpoint has not, such as an adapter's, or the place cannot
        be written; weights that were there before are still there then.
    """
    directory = pathlib.Path(directory)
    leaves = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    plain = nnx.state(nnx.eval_shape(lambda: Phi3(model.config, rngs=nnx.Rngs(0))))
    foreign = sorted('.'.join(map(str, path)) for path in {p for p, _ in nnx.to_flat_state(plain)} ^ set(leaves))
    if foreign:
        raise ModelError(
            f'only a plain Phi-3 can be written (merge its adapter); it differs in {", ".join(foreign[:5])}.'
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        names = _write_weights(leaves, directory, max_shard_bytes)
        values = {**model.config.to_dict(), 'torch_dtype': model.embed_tokens[...].dtype.name}
        _write_json(_temporary(directory, CONFIG), values)
        for stale in (directory / INDEX, directory / SINGLE, *directory.glob('model-*-of-*.safetensors')):
            stale.unlink(missing_ok=True)
        for name in (CONFIG, *names):
            os.replace(_temporary(directory, name), directory / name)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f'{directory} cannot be written ({error}); free some space or give another place.') from error
    finally:
        for left in directory.glob(_temporary(directory, '*').name):
            left.unlink(missing_ok=True)


def _write_weights(leaves: Mapping[Path, Any], directory: pathlib.Path, max_shard_bytes: float) -> list[str]:
    """Writes the weights under temporary names; returns the final ones, the file that the others are found by last."""
    shards = list(_shards({checkpoint_key(path): (path, leaf) for path, leaf in leaves.items()}, max_shard_bytes))
    names = [f'model-{i:05d}-of-{len(shards):05d}.safetensors' for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        tensors = {key: _to_host(path, leaf) for key, (path, leaf) in shard.items()}
        safetensors.numpy.save_file(tensors, _temporary(directory, name), {'format': 'pt'})
    if len(shards) == 1:
        return names
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(leaf[...].nbytes for leaf in leaves.values())
    _write_json(_temporary(directory, INDEX), {'metadata': {'total_size': total}, 'weight_map': places})
    return [*names, INDEX]


def _weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    single, index = directory / SINGLE, directory / INDEX
    if single.exists() and index.exists():
        raise ModelError(f'{directory} holds both {SINGLE} and {INDEX}; remove the one that is out of date.')
    if single.exists():
        return [single]
    if not index.exists():
        raise ModelError(f'{directory} has no weights: neither {SINGLE} nor {INDEX} (other formats are not read).')
    try:
        shards = set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values())
        return [directory / name for name in sorted(shards)]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f'{index} is no index of shards: {error!r}.') from error


def _inspect(
    files: list[pathlib.Path], wanted: Mapping[str, tuple[tuple[int, ...], bool]]
) -> tuple[list[str], dict[str, pathlib.Path]]:
    """Reads the headers only; returns what is wrong, and the file of every tensor."""
    problems: list[str] = []
    places: dict[str, pathlib.Path] = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework='numpy') as tensors:
                for key in tensors.keys():  # noqa: SIM118 (a safe_open is no mapping)
                    if key in places:
                        problems.append(f'{key} is doubled, in {places[key].name} and {file.name}')
                    places[key] = file
                    header = tensors.get_slice(key)
                    problems.extend(_mismatch(key, tuple(header.get_shape()), header.get_dtype(), wanted))
        except (OSError, safetensors.SafetensorError) as error:
            problems.append(f'{file.name} cannot be read, it is missing, truncated or broken ({error})')
    problems.extend(f'{key} is missing' for key in wanted if key not in places)
    return problems, places


def _mismatch(
    key: str, shape: tuple[int, ...], dtype: str, wanted: Mapping[str, tuple[tuple[int, ...], bool]]
) -> Iterator[str]:
    if key not in wanted:
        yield f'{key} is unexpected'
        return
    ours, transposed = wanted[key]
    if shape != (ours[::-1] if transposed else ours):
        yield f'{key} has shape {shape} where {ours[::-1] if transposed else ours} is needed'
    if dtype not in _FLOATS:
        yield f'{key} has dtype {dtype}, none of {", ".join(_FLOATS)}'


def _shards(leaves: Mapping[str, tuple[Path, Any]], max_bytes: float) -> Iterator[dict[str, tuple[Path, Any]]]:
    shard: dict[str, tuple[Path, Any]] = {}
    size = 0
    for key, (path, leaf) in leaves.items():
        if shard and size + leaf[...].nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[key] = (path, leaf)
        size += leaf[...].nbytes
    yield shard


def _to_host(path: Path, leaf: Any) -> np.ndarray:
    value = np.asarray(jax.device_get(leaf[...]))
    # safetensors copies the buffer as it lies: a transposed view would be written untransposed.
    return np.ascontiguousarray(value.T if path[-1] == 'kernel' else value)


def _temporary(directory: pathlib.Path, name: str) -> pathlib.Path:
    return directory / f'.{name}.writing'


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + '\n', encoding='utf-8')
