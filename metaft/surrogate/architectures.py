"""The networks by name. A new one is a file and a line here; docs/extending.md walks through it.

An architecture is a Flax module made from (Architecture, Rngs) and called with (context, query, task, log budgets); it
returns `network.Output`. Training, folds, calibration, checkpoints and the search take any.
"""

from flax import nnx

from metaft.errors import ModelError
from metaft.surrogate.attention import Attention
from metaft.surrogate.deep_set import DeepSet
from metaft.surrogate.independent import Independent
from metaft.surrogate.network import Architecture

ARCHITECTURES: dict[str, type[nnx.Module]] = {
    'deep_set': DeepSet,
    'attention': Attention,
    'independent': Independent,
}


def make(architecture: Architecture, rngs: nnx.Rngs) -> nnx.Module:
    """Makes the network with fresh parameters."""
    check(architecture.name)
    return ARCHITECTURES[architecture.name](architecture, rngs)


def check(name: str) -> None:
    """Raises ModelError for a name that no network has."""
    if name not in ARCHITECTURES:
        raise ModelError(f'unknown architecture {name!r}; one of {", ".join(ARCHITECTURES)}')
