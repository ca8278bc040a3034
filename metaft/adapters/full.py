"""Full-model tuning seen as an adapter: what is trained is a copy of every weight, in float32.

A member's adapter is the model's state as a flat dict {path: array}. There is nothing to share, so a population is a
`vmap`
over members: fit for small bases; large ones run one at a time.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from metaft.errors import ModelError
from metaft.phi3 import Phi3
from metaft.phi3.quantized import is_quantized


def init(model: Phi3) -> dict:
    """Return a float32 copy of the model's weights, {path: array}, paths joined by dots.

    Raises:
      ModelError: the base is quantised, so there are no weights to train.
    """
    if is_quantized(model):
        raise ModelError('full tuning trains every weight and this base is in 8 bits; load it without quantising it')
    state = nnx.state(model, nnx.Param)
    return {'.'.join(map(str, path)): jnp.array(v[...], jnp.float32) for path, v in nnx.to_flat_state(state)}


def settings() -> dict:
    """Return {}: nothing differs between members but what is trained."""
    return {}


def adapt(model: Phi3, adapter: dict) -> Phi3:
    """Return the model with one member's weights (no M axis), cast to its dtype; `model` itself is left as it is."""
    graphdef, state = nnx.split(model)
    flat = [
        (path, v.replace(adapter['.'.join(map(str, path))].astype(v[...].dtype)))
        for path, v in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def hidden(
    model: Phi3, adapter: dict, settings: dict, tokens_BL: Array, key_M: Array | None = None, **layout: Array
) -> Array:
    """Return the final hidden states [M*B, L, D] of a population on right-padded tokens [M*B, L].

    `layout` goes to `Phi3.hidden`: positions and segment ids of packed rows. The output head is the member's own too:
    use `logits`.
    """
    del settings, key_M
    m = next(iter(adapter.values())).shape[0]

    def one(weights, tokens, layout):
        own = adapt(model, weights)
        return own.hidden(own.embed(tokens), **layout)

    members_first = lambda x_BL: x_BL.reshape(m, -1, x_BL.shape[-1])
    x_MBLD = jax.vmap(one)(adapter, *jax.tree.map(members_first, (tokens_BL, layout)))
    return x_MBLD.reshape(tokens_BL.shape[0], *x_MBLD.shape[2:])


def logits(model: Phi3, adapter: dict, x_BLD: Array) -> Array:
    """Return float32 logits [M*B, L, V], each member with its own head."""
    m = next(iter(adapter.values())).shape[0]
    one = lambda weights, x: adapt(model, weights).logits(x)
    y_MBLV = jax.vmap(one)(adapter, x_BLD.reshape(m, -1, *x_BLD.shape[1:]))
    return y_MBLV.reshape(x_BLD.shape[0], *y_MBLV.shape[2:])
