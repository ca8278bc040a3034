"""Phi-3 in Flax NNX: embedding, decoder blocks, output head. Nothing here knows of tuning, files or token text.

Adapters replace the attributes `qkv_proj`, `o_proj`, `gate_up_proj` and `down_proj` by modules with the same call.
Layers are an unrolled loop: XLA on CPU runs the body of a `lax.scan` with less parallelism.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.phi3.attention import attention
from metaft.phi3.config import Phi3Config
from metaft.phi3.rotary import Rotary, rotary_tables, rotate

# What a layer keeps of its forward pass for its backward pass; the rest is computed again. 'dots': the results of
# matmuls with weights, not those of attention; 'layer': the layer's input alone.
REMAT: Mapping[str, Callable | None] = MappingProxyType(
    {
        'none': None,
        'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        'layer': jax.checkpoint_policies.nothing_saveable,
    }
)


class Masks(NamedTuple):
    """Which keys a query may see, beside causality and window: both as in `attention.attention`."""

    key_mask_BS: jax.Array | None = None
    segment_ids_BL: jax.Array | None = None


class KeyValues(NamedTuple):
    """Keys and values of one layer, [B, S, K, H] each."""

    k_BSKH: jax.Array
    v_BSKH: jax.Array


class Cache(NamedTuple):
    """Keys and values of every layer; the first `length` of the S slots are filled."""

    layers: tuple[KeyValues, ...]
    length: jax.Array


class Linear(nnx.Module):
    """Computes x W without bias; `kernel` is [in, out], the transpose of a checkpoint's weight."""

    def __init__(self, in_features: int, out_features: int, *, stddev: float, rngs: nnx.Rngs, dtype: Any) -> None:
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (in_features, out_features), dtype) * stddev)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return jnp.einsum('BLD,DF->BLF', x_BLD, self.kernel[...])


class RMSNorm(nnx.Module):
    """Computes x / sqrt(mean(x^2) + eps) * scale, the variance in float32. Reference: arXiv 1910.07467."""

    def __init__(self, features: int, eps: float, *, dtype: Any) -> None:
        self.scale = nnx.Param(jnp.ones((features,), dtype))
        self.eps = eps

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        x32 = x_BLD.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return normed.astype(x_BLD.dtype) * self.scale[...][None, None, :]


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; the columns of `qkv_proj` are [queries | keys | values]."""

    def __init__(self, config: Phi3Config, *, rngs: nnx.Rngs, dtype: Any) -> None:
        self.config = config
        width = config.num_attention_heads * config.head_dim
        out = width + 2 * config.kv_heads * config.head_dim
        options = {'stddev': config.initializer_range, 'rngs': rngs, 'dtype': dtype}
        self.qkv_proj = Linear(config.hidden_size, out, **options)
        self.o_proj = Linear(width, config.hidden_size, **options)

    def __call__(
        self, x_BLD: jax.Array, rotary: Rotary, masks: Masks, past: KeyValues | None, offset: Any
    ) -> tuple[jax.Array, KeyValues]:
        """Returns the output [B, L, D] and the keys and values that were attended."""
        B, L, _ = x_BLD.shape
        N, K, H = self.config.num_attention_heads, self.config.kv_heads, self.config.head_dim
        heads = self.qkv_proj(x_BLD).reshape(B, L, N + 2 * K, H)
        rotated = rotate(heads[:, :, : N + K], rotary)
        q_BLNH, k, v = rotated[:, :, :N], rotated[:, :, N:], heads[:, :, N + K :]
        if past is not None:
            k = jax.lax.dynamic_update_slice_in_dim(past.k_BSKH, k, offset, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(past.v_BSKH, v, offset, axis=1)
        out = attention(q_BLNH, k, v, window=self.config.sliding_window, query_offset=offset, **masks._asdict())
        return self.o_proj(out.reshape(B, L, N * H)), KeyValues(k, v)


class MLP(nnx.Module):
    """SwiGLU, down(up * silu(gate)); the columns of `gate_up_proj` are [gate | up]."""

    def __init__(self, config: Phi3Config, *, rngs: nnx.Rngs, dtype: Any) -> None:
        options = {'stddev': config.initializer_range, 'rngs': rngs, 'dtype': dtype}
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, **options)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, **options)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        gate_BLF, up_BLF = jnp.split(self.gate_up_proj(x_BLD), 2, axis=-1)
        return self.down_proj(up_BLF * jax.nn.silu(gate_BLF))


class Block(nnx.Module):
    """One decoder layer: attention and MLP, each normed before and added after."""

    def __init__(self, config: Phi3Config, *, rngs: nnx.Rngs, dtype: Any) -> None:
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype)
        self.self_attn = Attention(config, rngs=rngs, dtype=dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype)
        self.mlp = MLP(config, rngs=rngs, dtype=dtype)

    def __call__(
        self, x_BLD: jax.Array, rotary: Rotary, masks: Masks, past: KeyValues | None, offset: Any
    ) -> tuple[jax.Array, KeyValues]:
        attended, keys_values = self.self_attn(self.input_layernorm(x_BLD), rotary, masks, past, offset)
        x_BLD = x_BLD + attended
        return x_BLD + self.mlp(self.post_attention_layernorm(x_BLD)), keys_values


class Phi3(nnx.Module):
    """A Phi-3 causal language model.

    `embed`, `hidden` and `logits` are the three parts of a forward pass, so that a caller can put a soft prompt in
    front of the embeddings, or take the logits of some positions only. Tokens that pad on the right need no mask: no
    real token sees them. Padding on the left needs `key_mask_BS`; positions change rounding only, rotary angles being
    relative (longrope apart, which goes by the largest).

    Args:
      config: the model's shape.
      rngs: seeds the random initialisation, normal with `config.initializer_range`.
      dtype: of parameters and activations; norms, softmax, rotary tables and logits are float32 whatever it is.

    Attributes:
      remat: a key of REMAT; may be set at any time before a program is traced.

    Reference: Abdin et al., Phi-3 Technical Report (arXiv 2404.14219).
    """

    def __init__(self, config: Phi3Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.config = config
        self.remat = 'none'
        shape = (config.vocab_size, config.hidden_size)
        self.embed_tokens = nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * config.initializer_range)
        self.layers = nnx.List([Block(config, rngs=rngs, dtype=dtype) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype)
        # One assignment: NNX settles at the first one whether an attribute is data. None: tied to the embedding.
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(*shape[::-1], stddev=config.initializer_range, rngs=rngs, dtype=dtype)
        )

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        """Looks tokens up: [B, L] int -> [B, L, D]. An id outside of the vocabulary gives NaN, never another token."""
        return jnp.take(self.embed_tokens[...], tokens_BL, axis=0, mode='fill')

    def hidden(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array | None = None,
        key_mask_BS: jax.Array | None = None,
        segment_ids_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the blocks and the final norm over embeddings.

        Args:
          x_BLD: embeddings.
          positions_BL: int positions for the rotary angles; None for 0 ... L-1.
          key_mask_BS: bool [B, L], False where a token is padding that nobody may attend; None where there is none.
          segment_ids_BL: int32, the example that a token belongs to, where several are packed into a row; give
            positions that restart with each.

        Returns:
          [B, L, D], what `logits` takes.
        """
        rotary = self._rotary(positions_BL, x_BLD)
        masks, policy = Masks(key_mask_BS, segment_ids_BL), REMAT[self.remat]
        for block in self.layers:
            layer = partial(_without_cache, block, rotary, masks)
            x_BLD = (layer if self.remat == 'none' else jax.checkpoint(layer, policy=policy))(x_BLD)
        return self.norm(x_BLD)

    def prefill(
        self, x_BLD: jax.Array, positions_BL: jax.Array | None, key_mask_BS: jax.Array | None, capacity: int
    ) -> tuple[jax.Array, Cache]:
        """Runs `hidden` and keeps the keys and values in a cache with room for `capacity` >= L tokens."""
        L = x_BLD.shape[1]
        x_BLD, layers = self._run(x_BLD, positions_BL, Masks(key_mask_BS), None, 0)
        room = ((0, 0), (0, capacity - L), (0, 0), (0, 0))
        layers = tuple(KeyValues(jnp.pad(layer.k_BSKH, room), jnp.pad(layer.v_BSKH, room)) for layer in layers)
        return x_BLD, Cache(layers, jnp.asarray(L, jnp.int32))

    def extend(
        self, x_BLD: jax.Array, positions_BL: jax.Array, key_mask_BS: jax.Array | None, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Runs `hidden` on the L tokens that follow those in the cache; `key_mask_BS` covers the cache's S slots."""
        x_BLD, layers = self._run(x_BLD, positions_BL, Masks(key_mask_BS), cache.layers, cache.length)
        return x_BLD, Cache(layers, cache.length + x_BLD.shape[1])

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Computes float32 logits [B, L, V] from the output of `hidden`."""
        if self.lm_head is None:
            return jnp.einsum('BLD,VD->BLV', x_BLD, self.embed_tokens[...], preferred_element_type=jnp.float32)
        return jnp.einsum('BLD,DV->BLV', x_BLD, self.lm_head.kernel[...], preferred_element_type=jnp.float32)

    def __call__(
        self, tokens_BL: jax.Array, positions_BL: jax.Array | None = None, key_mask_BS: jax.Array | None = None
    ) -> jax.Array:
        """Computes float32 logits [B, L, V] of the token after each of `tokens_BL`; arguments as in `hidden`."""
        return self.logits(self.hidden(self.embed(tokens_BL), positions_BL, key_mask_BS))

    def _rotary(self, positions_BL: jax.Array | None, x_BLD: jax.Array) -> Rotary:
        if positions_BL is None:
            positions_BL = jnp.arange(x_BLD.shape[1], dtype=jnp.int32)[None]
        return rotary_tables(self.config, positions_BL)

    def _run(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array | None,
        masks: Masks,
        past: tuple[KeyValues, ...] | None,
        offset: int | jax.Array,
    ) -> tuple[jax.Array, tuple[KeyValues, ...]]:
        rotary = self._rotary(positions_BL, x_BLD)
        layers = []
        for index, block in enumerate(self.layers):
            x_BLD, keys_values = block(x_BLD, rotary, masks, None if past is None else past[index], offset)
            layers.append(keys_values)
        return self.norm(x_BLD), tuple(layers)


def _without_cache(block: Block, rotary: Rotary, masks: Masks, x_BLD: jax.Array) -> jax.Array:
    return block(x_BLD, rotary, masks, None, 0)[0]
