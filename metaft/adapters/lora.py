"""LoRA for a population: every member has its own A and B on the linear layers of one shared base.

    y = W0 x + s B A dropout(x),  s = alpha / r           (Hu et al., arXiv 2106.09685)
                                  s = alpha / sqrt(r)     (rsLoRA: Kalajdzievski, arXiv 2312.03732)

A member's adapter is a flat dict {module path: {'lora_A': [D, R], 'lora_B': [R, F]}}; in a population every leaf has a
leading axis M. Ranks below R are masked, target modules and layers left out have scale 0, so one compiled program
serves all of them. The base matmul sees the members folded into the batch; only the two LoRA einsums keep the member
axis. Adapters are float32 whatever the base is.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from metaft.errors import ModelError
from metaft.phi3 import Phi3
from metaft.phi3.quantized import is_quantized

TARGET_MODULES = {'attention': ('qkv_proj', 'o_proj'), 'mlp': ('gate_up_proj', 'down_proj')}
GROUPS = tuple(TARGET_MODULES)
_PARENT = {'attention': 'self_attn', 'mlp': 'mlp'}
# Shares of the depth, from and to; the middle layer of an odd number belongs to both halves.
LAYERS = {'all': (0.0, 1.0), 'first_half': (0.0, 0.5), 'last_half': (0.5, 1.0)}


def module_paths(num_layers: int) -> list[tuple[str, int, str, str]]:
    """Return (path, layer, group, module name) of every linear layer that can carry a LoRA, in the order of the
    forward pass.

    Paths are Hugging Face's, for example 'layers.0.self_attn.qkv_proj'.
    """
    return [
        (f'layers.{layer}.{_PARENT[group]}.{name}', layer, group, name)
        for layer in range(num_layers)
        for group, names in TARGET_MODULES.items()
        for name in names
    ]


def linear(model: Phi3, layer: int, group: str, name: str) -> nnx.Module:
    """Return the linear layer that an entry of `module_paths` names."""
    return getattr(getattr(model.layers[layer], _PARENT[group]), name)


def layers_in_use(layers: str, num_layers: int) -> list[int]:
    """Return the indices of the layers that carry a LoRA with `layers` of LAYERS."""
    bounds = np.array(LAYERS[layers], np.float32)
    return [layer for layer in range(num_layers) if _is_within(bounds, layer, num_layers)]


def init(model: Phi3, key: Array, mask_R: Array) -> dict:
    """Return one member's adapter: A ~ U(-1/sqrt(D), 1/sqrt(D)) on the columns in use, B = 0: it changes nothing.

    Args:
      model: gives the layers' widths.
      key: typed PRNG key.
      mask_R: `rank_mask`; its width R is what all members of a population share.
    """
    shapes = {
        path: linear(model, layer, group, name).kernel.shape
        for path, layer, group, name in module_paths(model.config.num_hidden_layers)
    }
    rank = mask_R.size
    # One draw for all layers: a random generator a layer would triple the time to compile.
    draw = jax.random.uniform(key, (sum(d for d, _ in shapes.values()), rank), jnp.float32, -1.0, 1.0) * mask_R[None, :]
    ends = np.cumsum([d for d, _ in shapes.values()])
    return {
        path: {'lora_A': draw[end - d : end] * d**-0.5, 'lora_B': jnp.zeros((rank, f), jnp.float32)}
        for (path, (d, f)), end in zip(shapes.items(), ends, strict=True)
    }


def rank_mask(rank: int, max_rank: int) -> Array:
    """Return float32 [R]: 1 for the columns in use."""
    return (jnp.arange(max_rank) < rank).astype(jnp.float32)


def settings(
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str,
    max_rank: int,
    rslora: bool = False,
    layers: str = 'all',
) -> dict:
    """Return what differs between members but is not trained, as float32 arrays (stacked over M in a population).

    'scale' [2] is alpha / r (rsLoRA: alpha / sqrt(r)) for each of GROUPS, 0 where it is not a target; 'layers' [2] the
    shares of the depth from and to which layers carry a LoRA; 'rank_mask' [R]; 'dropout' [].
    """
    on = jnp.array([targets in (group, 'all') for group in GROUPS], jnp.float32)
    return {
        'scale': on * (alpha / (math.sqrt(rank) if rslora else rank)),
        'layers': jnp.array(LAYERS[layers], jnp.float32),
        'rank_mask': rank_mask(rank, max_rank),
        'dropout': jnp.float32(dropout),
    }


def adapt(
    model: Phi3,
    adapter: dict,
    settings: dict,
    key_M: Array | None = None,
    module: 'type[LoraLinear] | None' = None,
) -> Phi3:
    """Put a population's adapters in front of the base's linear layers; `model` itself is changed and returned.

    Meant to be called on a freshly merged model, inside jit. The adapted model takes x_BLD whose batch is M members'
    batches one after another.

    Args:
      adapter: leaves with leading axis M.
      settings: as from `settings`, leaves with leading axis M.
      key_M: typed PRNG keys; None turns dropout off (evaluation, decoding).
      module: what a linear layer becomes; LoraLinear if None.
    """
    for index, (path, layer, group, name) in enumerate(module_paths(model.config.num_hidden_layers)):
        if path not in adapter:
            continue
        scale_MR = _scale(settings, layer, group, model.config.num_hidden_layers)
        key_m = None if key_M is None else jax.vmap(lambda k, i=index: jax.random.fold_in(k, i))(key_M)
        base = linear(model, layer, group, name)
        adapted = (module or LoraLinear)(base, adapter[path], scale_MR, settings['dropout'], key_m)
        setattr(getattr(model.layers[layer], _PARENT[group]), name, adapted)
    return model


def _scale(settings: dict, layer: int, group: str, num_layers: int) -> Array:
    """Returns the scale of a module's columns, [M, R], or [R] of one member's settings."""
    is_on = _is_within(settings['layers'], layer, num_layers).astype(jnp.float32)
    return (settings['scale'][..., GROUPS.index(group)] * is_on)[..., None] * settings['rank_mask']


def _is_within(bounds, layer: int, num_layers: int):
    return (layer / num_layers < bounds[..., 1]) & ((layer + 1) / num_layers > bounds[..., 0])


def hidden(
    model: Phi3, adapter: dict, settings: dict, tokens_BL: Array, key_M: Array | None = None, **layout: Array
) -> Array:
    """Return the final hidden states [M*B, L, D] of a population on right-padded tokens [M*B, L].

    `layout` goes to `Phi3.hidden`: positions and segment ids of packed rows.
    """
    model = adapt(model, adapter, settings, key_M)
    return model.hidden(model.embed(tokens_BL), **layout)


def merge(
    model: Phi3,
    adapter: dict,
    settings: dict,
    combine: Callable[[Array, Array, dict], Array] = lambda w_DF, delta_DF, member: w_DF + delta_DF,
) -> Phi3:
    """Return `model` with one member's adapter (no M axis) put into its weights, in float32 and cast last.

    Args:
      combine: (a base weight, s A B, the module's adapter) -> the merged weight, all float32; the sum if left out.

    Raises:
      ModelError: the base is quantised: an update would be rounded away.
    """
    if is_quantized(model):
        raise ModelError('an adapter cannot be merged into a base in 8 bits; load the base without quantising it')
    graphdef, state = nnx.split(model)
    merged = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    for path, layer, group, name in module_paths(model.config.num_hidden_layers):
        scale_R = _scale(settings, layer, group, model.config.num_hidden_layers)
        if path not in adapter or not scale_R.any():
            continue
        kernel = linear(merged, layer, group, name).kernel
        a_DR, b_RF = adapter[path]['lora_A'], adapter[path]['lora_B']
        delta_DF = jnp.matmul(a_DR * scale_R[None, :], b_RF, precision='highest')
        w_DF = kernel[...]
        kernel[...] = combine(w_DF.astype(jnp.float32), delta_DF, adapter[path]).astype(w_DF.dtype)
    return merged


class LoraLinear(nnx.Module):
    """A linear layer with the LoRA branches of M members: [M*B, L, D] -> [M*B, L, F]."""

    def __init__(self, base: nnx.Module, member: dict, scale_MR: Array, dropout_M: Array, key_M: Array | None):
        self.base = base
        self.lora_A = nnx.Variable(member['lora_A'])
        self.lora_B = nnx.Variable(member['lora_B'])
        self.scale_MR = nnx.Variable(scale_MR)
        self.dropout_M = nnx.Variable(dropout_M)
        self.key_M = None if key_M is None else nnx.Variable(key_M)

    def __call__(self, x_BLD: Array) -> Array:
        y_BLF, y_MBLF = self.base(x_BLD), self.branch(x_BLD)
        return y_BLF + y_MBLF.reshape(y_BLF.shape).astype(y_BLF.dtype)

    def branch(self, x_BLD: Array) -> Array:
        """Return what the members add, float32 [M, B, L, F]."""
        a_MDR, b_MRF = self.lora_A[...], self.lora_B[...]
        m = a_MDR.shape[0]
        b, length, d = x_BLD.shape
        x_MBLD = x_BLD.reshape(m, b // m, length, d).astype(jnp.float32)
        if self.key_M is not None:
            x_MBLD = _dropout(x_MBLD, self.dropout_M[...], self.key_M[...])
        h_MBLR = jnp.einsum('MBLD,MDR->MBLR', x_MBLD, a_MDR) * self.scale_MR[...][:, None, None, :]
        return jnp.einsum('MBLR,MRF->MBLF', h_MBLR, b_MRF)


def _dropout(x_MBLD: Array, rate_M: Array, key_M: Array) -> Array:
    """Zero entries with each member's rate, rounded to 1/256 (one random byte an entry), and rescale the rest.

    A member's mask depends on its own key alone. When no member drops anything the random numbers are not drawn.
    """
    threshold_M = jnp.round(rate_M * 256.0)

    def drop(x):
        bits = jax.vmap(lambda key: jax.random.bits(key, x.shape[1:], jnp.uint8))(key_M)
        threshold = threshold_M[:, None, None, None]
        return jnp.where(bits.astype(jnp.float32) >= threshold, x * (256.0 / (256.0 - threshold)), 0.0)

    return jax.lax.cond(jnp.any(threshold_M > 0), drop, lambda x: x, x_MBLD)
