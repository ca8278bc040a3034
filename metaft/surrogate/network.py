"""What every architecture takes and gives: sizes, distributions over the budget axis, and the layers they share."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from metaft.surrogate.context import Context, Task
from metaft.surrogate.likelihood import Mixture

# Uniform: the default, a truncated normal, takes longer to compile than the network.
linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.lecun_uniform())
linear_general = functools.partial(nnx.LinearGeneral, kernel_init=nnx.initializers.lecun_uniform())


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Name and sizes of a network; with the encoding all that is needed to build it."""

    num_hyperparameters: int  # E, the last SIZE of them what process.py knows of a configuration
    num_task_features: int  # Z
    width: int = 64  # D of elements and pools
    trunk_width: int = 128
    num_kernels: int = 8  # N
    kernel_size: int = 8  # H, dimensions of a learned metric
    num_components: int = 5  # G
    name: str = 'deep_set'  # one of `architectures.ARCHITECTURES`
    head: str = 'anchored'  # one of `heads.HEADS`
    unread: tuple[int, ...] = ()  # places in Z that the network leaves to its head


class Output(NamedTuple):
    """Distributions over the budget axis."""

    value: Mixture  # of transformed values, [C, T, G]
    rate_mean_CT: jax.Array  # of the standardised log cost rate
    rate_sd_CT: jax.Array

    def raised(self, context: Context) -> 'Output':
        """Returns it with the levels of the context added, which a query's own curve is relative to."""
        value = self.value._replace(mean=self.value.mean + context.level)
        return self._replace(value=value, rate_mean_CT=self.rate_mean_CT + context.rate_level)


def features(architecture: Architecture, task: Task) -> jax.Array:
    """Returns the encoded meta-features that the network reads, [Z]; 0 at what it leaves to its head."""
    if not architecture.unread:
        return task.features_Z
    return task.features_Z.at[np.array(architecture.unread)].set(0.0)


class Mlp(nnx.Module):
    """Linear layers with SiLU after each."""

    def __init__(self, sizes: list[int], rngs: nnx.Rngs):
        self.layers = nnx.List([linear(i, o, rngs=rngs) for i, o in zip(sizes[:-1], sizes[1:], strict=True)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        return x
