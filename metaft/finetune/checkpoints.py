"""A frozen run on disk: one safetensors file, written whole or not at all.

One file of plain arrays and a rename take milliseconds, where an Orbax directory takes a tenth of a second: a
  freeze-thaw search freezes a run every few hundred milliseconds. Long pretraining uses Orbax
  (experiments/pretrain.py).
"""

import os
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from metaft.errors import WorkdirError

Tree = TypeVar('Tree')


def save(path: Path, tree: object) -> None:
    """Write a pytree of arrays; a crash leaves the old file or the new one.

    Raises:
      WorkdirError: the disk is full or the directory cannot be written; the old file is still there then.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.asarray(leaf, order='C') for name, leaf in _named(tree)}, partial)
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        for left in path.parent.glob(f'.{path.name}.*'):  # of a process that was killed; a run has one at a time
            left.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise WorkdirError(f'{path} cannot be written ({error}); free some space or give another --workdir') from None


def load(path: Path, like: Tree) -> Tree:
    """Read a pytree that has the structure, shapes and dtypes of `like` (arrays or jax.ShapeDtypeStruct).

    Raises:
      WorkdirError: the file is torn or is not of this structure, as after a change of version.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WorkdirError(f'{path} cannot be read ({error}); remove it to train that run again') from None
    wanted = dict(_named(like))
    wrong = sorted(set(found) ^ set(wanted)) or [
        n for n, leaf in wanted.items() if found[n].shape != leaf.shape or found[n].dtype != leaf.dtype
    ]
    if wrong:
        raise WorkdirError(
            f'{path} is not of this run: {wrong[0]} and {len(wrong) - 1} more differ; remove it to train it again'
        )
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])


def _named(tree: object) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
