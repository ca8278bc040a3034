"""From a tensor in a safetensors file to a device array, in blocks of rows, so that the host never holds much more.

The library maps a file into memory; pages once read count as this process's until the file is closed. So a file is
opened for one block at a time.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.sharding import NamedSharding

BLOCK_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Source:
    """A tensor of a file, as a parameter wants it.

    Attributes:
      file, key: where it is.
      shape: of the parameter, that is after transposing.
      dtype: of the parameter.
      transposed: a checkpoint's linear weights are [out, in], a kernel is [in, out].
    """

    file: pathlib.Path
    key: str
    shape: tuple[int, ...]
    dtype: Any
    transposed: bool

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Returns the part of the parameter at `index`, or all of it, on the host."""
        whole = tuple(slice(0, size) for size in self.shape)
        index = whole if index is None else tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, self.shape))
        out = np.empty([i.stop - i.start for i in index], self.dtype)
        rows, *columns = index[::-1] if self.transposed else index
        stored = out.T if self.transposed else out  # a view that lies as the file does
        step = max(1, BLOCK_BYTES // max(1, stored[:1].nbytes))
        for first in range(rows.start, rows.stop, step):
            block = slice(first, min(first + step, rows.stop))
            with safetensors.safe_open(self.file, framework='numpy') as tensors:
                part = tensors.get_slice(self.key)[(block, *columns)]
            stored[block.start - rows.start : block.stop - rows.start] = part
        return out


def to_device(source: Source | np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    """Returns a device array; with a sharding, of each device's part only that part is read."""
    if sharding is None:
        return jnp.asarray(source.read() if isinstance(source, Source) else source)
    take = source.read if isinstance(source, Source) else lambda index: source[index]
    return jax.make_array_from_callback(source.shape, sharding, take)
