"""Full-model tuning seen as an adapter: what is trained is a copy of every weight, in float32.

A member's adapter is the model's state as a flat dict {path: array}. There is nothing to share, so a population is a
`vmap`
over members: fit for small bases; large ones run one at a time.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from metaft.phi3 import Phi3


def init(model: Phi3) -> dict:
    """Return a float32 copy of the model's weights, {path: array}, paths joined by dots."""
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


def hidden(model: Phi3, adapter: dict, settings: dict, tokens_BL: Array, key_M: Array | None = None) -> Array:
    """Return the final hidden states [M*B, L, D] of a population on right-padded tokens [M*B, L].

    The output head is the member's own too: use `logits`.
    """
    del settings, key_M
    m = next(iter(adapter.values())).shape[0]

    def one(weights, tokens):
        own = adapt(model, weights)
        return own.hidden(own.embed(tokens))

    x_MBLD = jax.vmap(one)(adapter, tokens_BL.reshape(m, -1, tokens_BL.shape[-1]))
    return x_MBLD.reshape(tokens_BL.shape[0], *x_MBLD.shape[2:])


def logits(model: Phi3, adapter: dict, x_BLD: Array) -> Array:
    """Return float32 logits [M*B, L, V], each member with its own head."""
    m = next(iter(adapter.values())).shape[0]
    one = lambda weights, x: adapt(model, weights).logits(x)
    y_MBLV = jax.vmap(one)(adapter, x_BLD.reshape(m, -1, *x_BLD.shape[1:]))
    return y_MBLV.reshape(x_BLD.shape[0], *y_MBLV.shape[2:])
