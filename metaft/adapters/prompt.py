"""Prompt tuning for a population: trained vectors in front of the input (Lester et al., arXiv 2104.08691).

A member's adapter is {'prompt_embeddings': [P, D]}; in a population with a leading axis M. Members with fewer than P
vectors use the last ones (next to the text); the rest is masked out of attention and takes no position.
"""

import jax
import jax.numpy as jnp
from jax import Array

from metaft.phi3 import Phi3


def init(model: Phi3, key: Array, *, max_length: int) -> dict:
    """Return one member's soft prompt: embeddings of `max_length` random vocabulary entries, float32 [P, D]."""
    ids_P = jax.random.randint(key, (max_length,), 0, model.config.vocab_size)
    return {'prompt_embeddings': model.embed(ids_P[None])[0].astype(jnp.float32)}


def settings(*, length: int) -> dict:
    """Return {'prompt_length': int32 []}, the number of vectors in use."""
    return {'prompt_length': jnp.int32(length)}


def hidden(model: Phi3, adapter: dict, settings: dict, tokens_BL: Array, key_M: Array | None = None) -> Array:
    """Return the final hidden states [M*B, L, D] of right-padded tokens [M*B, L]; the prompt's own are cut off."""
    del key_M  # nothing random here
    prompt_MPD = adapter['prompt_embeddings']
    m, p, d = prompt_MPD.shape
    b, length = tokens_BL.shape
    x_BLD = model.embed(tokens_BL)
    prompt_BPD = jnp.broadcast_to(prompt_MPD[:, None], (m, b // m, p, d)).reshape(b, p, d).astype(x_BLD.dtype)
    unused_B = p - jnp.repeat(settings['prompt_length'], b // m, total_repeat_length=b)
    index_S = jnp.arange(p + length)
    mask_BS = index_S[None, :] >= unused_B[:, None]
    positions_BS = jnp.maximum(index_S[None, :] - unused_B[:, None], 0)
    x_BSD = jnp.concatenate([prompt_BPD, x_BLD], axis=1)
    return model.hidden(x_BSD, positions_BS, mask_BS)[:, p:]


def in_use(adapter: dict, length: int) -> Array:
    """Return the vectors [length, D] that a member with `length` of them trains."""
    return adapter['prompt_embeddings'][-length:]
