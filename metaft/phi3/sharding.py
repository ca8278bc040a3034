"""Where arrays lie on a mesh of devices: one table from names to mesh axes. XLA divides the computation (GSPMD).

Three axes: batches are divided over 'data' and 'fsdp', every parameter over 'fsdp' (gathered where it is used), and a
layer's heads and hidden units over 'tensor'. The table also covers what is trained over a base, by the leaves' names.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metaft.errors import InputError

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')  # axes that rows of a batch are divided over

# The first pattern found in an array's dotted path says how its axes are divided; nothing found: a copy everywhere.
RULES: tuple[tuple[str, P], ...] = (
    (r'\blora_A\b', P('fsdp', None)),  # [D, R]
    (r'\blora_B\b', P(None, 'fsdp')),  # [R, F]
    (r'\bembed_tokens\b', P('tensor', 'fsdp')),  # [V, D]
    (r'\b(qkv_proj|gate_up_proj|lm_head)\.kernel\b', P('fsdp', 'tensor')),  # [D, F]
    (r'\b(o_proj|down_proj)\.kernel\b', P('tensor', 'fsdp')),  # [F, D]
)

Tree = TypeVar('Tree')


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Return a mesh with the axes AXES, of size 1 where `sizes` names none, over the first devices there are.

    Raises:
      InputError: an unknown axis, a size below 1, or fewer devices than the sizes multiply to.
    """
    wrong = [f'{name}:{size}' for name, size in sizes.items() if name not in AXES or size < 1]
    if wrong:
        raise InputError(f'a mesh has the axes {", ".join(AXES)}, of size 1 or more; found {", ".join(wrong)}')
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    needed, devices = int(np.prod(shape)), jax.devices()
    if needed > len(devices):
        asked = ','.join(f'{name}:{size}' for name, size in sizes.items())
        raise InputError(f'a mesh of {asked} needs {needed} devices and there are {len(devices)}')
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed])


def on(mesh: Mesh | None) -> AbstractContextManager:
    """Return a context in which programs are traced for a mesh; None changes nothing."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Return how an array of this name and shape is divided.

    A leading axis more than the rule's is that of a population's members, which is not divided; nor is an axis whose
    length the devices do not divide, nor an array of another rank (an optimizer's factored moments).
    """
    rule = next((rule for pattern, rule in RULES if re.search(pattern, path)), None)
    if rule is None or len(shape) not in (len(rule), len(rule) + 1):
        return P()
    axes = (None,) * (len(shape) - len(rule)) + tuple(rule)
    return P(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)))


def shard(tree: Tree, mesh: Mesh) -> Tree:
    """Return a pytree of parameters, or of what is trained, divided over the mesh by RULES."""
    place = lambda path, x: put(x, NamedSharding(mesh, spec(_dotted(path), np.shape(x), mesh)))
    return jax.tree_util.tree_map_with_path(place, tree)


def shard_batch(tree: Tree, mesh: Mesh, axis: int) -> Tree:
    """Return a pytree of arrays divided along `axis`, the one of rows; whole where the devices do not divide it."""
    ways = int(np.prod([mesh.shape[name] for name in BATCH]))
    rows = P(*[None] * axis, BATCH)
    return jax.tree.map(lambda x: put(x, NamedSharding(mesh, P() if x.shape[axis] % ways else rows)), tree)


def put(x: Any, sharding: NamedSharding) -> jax.Array:
    """Return an array with a sharding; of one on the host, every process puts its own devices' parts."""
    if isinstance(x, jax.Array):
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _dotted(path: tuple) -> str:
    return '.'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)
