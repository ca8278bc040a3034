"""Generates text: batched, with a key-value cache, greedily or by sampling.

Prompts are padded on the left to a bucket: few shapes are compiled, and every row's next token lies in the same slot.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metaft.errors import DataError
from metaft.phi3.model import Cache, Phi3


def generate(
    model: Phi3,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    temperature: float = 0.0,
    key: jax.Array | None = None,
    prefix_PD: jax.Array | None = None,
) -> list[list[int]]:
    """Continues every prompt until a stop token or `max_new_tokens`.

    A row's result does not depend on the other rows, but for longrope, where the factors follow the longest row.

    Args:
      model: a `Phi3`; its linear layers may be adapted ones.
      prompts: token ids, each at least one.
      max_new_tokens: at least 1.
      stop_ids: a row ends with the first of them; it is part of the result, so that a caller sees why the row ended.
      temperature: 0 takes the most probable token; above, tokens are drawn from softmax(logits / temperature).
      key: typed PRNG key, needed when temperature > 0.
      prefix_PD: a soft prompt of P embeddings put in front of every prompt.

    Returns:
      The new tokens of each prompt.

    Raises:
      ValueError: an empty prompt, no new tokens asked for, a temperature below 0, or sampling without a key.
      DataError: prompt and new tokens do not fit into the model's `max_position_embeddings`.
    """
    if max_new_tokens < 1 or not all(len(prompt) for prompt in prompts):
        raise ValueError('max_new_tokens must be at least 1 and every prompt must hold a token')
    if temperature < 0.0 or (temperature > 0.0 and key is None):
        raise ValueError(f'temperature is {temperature}; it must be 0, or above 0 with a key to sample with')
    if not prompts:
        return []
    P = 0 if prefix_PD is None else prefix_PD.shape[0]
    longest = P + max(map(len, prompts))
    room, original = model.config.max_position_embeddings, model.config.original_max_position_embeddings
    if longest + max_new_tokens > room:
        raise DataError(
            f'a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into the {room} positions of the '
            'model; shorten the prompt or ask for fewer tokens.'
        )
    again = partial(generate, model, stop_ids=stop_ids, temperature=temperature, prefix_PD=prefix_PD)
    if model.config.rope_scaling is not None and longest <= original < longest + max_new_tokens - 1:
        # Beyond `original` tokens the rotation of all of them changes: the cache is made anew from there.
        first_key, second_key = (None, None) if key is None else jax.random.split(key)
        first = again(prompts, max_new_tokens=original - longest + 1, key=first_key)
        going = [row for row, new in enumerate(first) if new[-1] not in stop_ids]
        left = max_new_tokens - (original - longest + 1)
        rest = again([[*prompts[row], *first[row]] for row in going], max_new_tokens=left, key=second_key)
        for row, new in zip(going, rest, strict=True):
            first[row] += new
        return first
    lengths = np.array([len(prompt) for prompt in prompts])
    B, L = _bucket(len(prompts), 1), _bucket(int(lengths.max()), 16)
    tokens_BL = np.zeros((B, L), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, L - len(prompt) :] = prompt
    length_B = np.zeros(B, np.int32)  # rows of length 0 fill the bucket
    length_B[: len(prompts)] = lengths
    new_BT = np.asarray(
        _decode(
            *nnx.split(model),
            tokens_BL,
            length_B,
            prefix_PD,
            max_new_tokens,
            np.array(sorted(stop_ids), np.int32),
            np.float32(temperature),
            key if temperature > 0.0 else None,
            new_slots=_bucket(max_new_tokens, 16),
        )
    )[: len(prompts), :max_new_tokens]
    return [_until_stop(row, stop_ids) for row in new_BT.tolist()]


class _State(NamedTuple):
    step: jax.Array  # tokens written so far, the last of them not yet in the cache
    new_BT: jax.Array
    done_B: jax.Array
    cache: Cache


@partial(jax.jit, static_argnums=(0,), static_argnames=('new_slots',))
def _decode(
    graph: nnx.GraphDef,
    state: nnx.State,
    tokens_BL: jax.Array,
    length_B: jax.Array,
    prefix_PD: jax.Array | None,
    limit: jax.Array,
    stop_ids: jax.Array,
    temperature: jax.Array,
    key: jax.Array | None,
    *,
    new_slots: int,
) -> jax.Array:
    """Returns the new tokens, int32 [B, new_slots]; what follows a stop token is arbitrary."""
    model = nnx.merge(graph, state)
    B = length_B.shape[0]
    x_BLD = model.embed(tokens_BL)
    if prefix_PD is not None:
        x_BLD = _put_before(prefix_PD.astype(x_BLD.dtype), x_BLD, length_B)
        length_B = jnp.where(length_B > 0, length_B + prefix_PD.shape[0], 0)
    L = x_BLD.shape[1]
    positions_BL = jnp.arange(L, dtype=jnp.int32)[None, :] - (L - length_B)[:, None]
    real_BL = positions_BL >= 0
    key_mask_BS = jnp.pad(real_BL, ((0, 0), (0, new_slots)), constant_values=True)
    row_keys = None if key is None else jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(B, dtype=jnp.uint32))

    def choose(x_BLD: jax.Array, step: jax.Array) -> jax.Array:
        logits_BV = model.logits(x_BLD[:, -1:])[:, 0]
        if row_keys is None:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        step_keys = jax.vmap(lambda row_key: jax.random.fold_in(row_key, step))(row_keys)
        return jax.vmap(jax.random.categorical)(step_keys, logits_BV / temperature).astype(jnp.int32)

    def stops(token_B: jax.Array) -> jax.Array:
        return jnp.any(token_B[:, None] == stop_ids[None, :], axis=1)

    def body(s: _State) -> _State:
        last_B1 = jax.lax.dynamic_slice_in_dim(s.new_BT, s.step - 1, 1, axis=1)
        position_B1 = (length_B + s.step - 1)[:, None]
        x_B1D, cache = model.extend(model.embed(last_B1), position_B1, key_mask_BS, s.cache)
        token_B = choose(x_B1D, s.step)
        new_BT = jax.lax.dynamic_update_slice_in_dim(s.new_BT, token_B[:, None], s.step, axis=1)
        return _State(s.step + 1, new_BT, s.done_B | stops(token_B), cache)

    x_BLD, cache = model.prefill(x_BLD, jnp.maximum(positions_BL, 0), real_BL, L + new_slots)
    token_B = choose(x_BLD, jnp.int32(0))
    new_BT = jnp.zeros((B, new_slots), jnp.int32).at[:, 0].set(token_B)
    start = _State(jnp.int32(1), new_BT, stops(token_B) | (length_B == 0), cache)
    return jax.lax.while_loop(lambda s: (s.step < limit) & ~jnp.all(s.done_B), body, start).new_BT


def _put_before(prefix_PD: jax.Array, x_BLD: jax.Array, length_B: jax.Array) -> jax.Array:
    """Puts a soft prompt right in front of each left-padded row: [B, L, D] -> [B, P + L, D]."""
    B, L, D = x_BLD.shape
    P = prefix_PD.shape[0]
    index_BS = jnp.arange(P + L, dtype=jnp.int32)[None, :] - (L - length_B)[:, None]  # 0 is the prefix's first vector
    in_prefix_BS = (index_BS >= 0) & (index_BS < P)
    prefix_BSD = jnp.take(prefix_PD, jnp.clip(index_BS, 0, P - 1), axis=0)
    padded_BSD = jnp.concatenate([jnp.zeros((B, P, D), x_BLD.dtype), x_BLD], axis=1)
    return jnp.where(in_prefix_BS[:, :, None], prefix_BSD, padded_BSD)


def _bucket(size: int, least: int) -> int:
    """Returns the smallest power of two that is at least `size` and `least`."""
    return max(least, 1 << (size - 1).bit_length())


def _until_stop(tokens: list[int], stop_ids: Collection[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[: stop + 1]
