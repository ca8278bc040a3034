"""Prompt tuning for a population: trained vectors in front of the input (Lester et al., arXiv 2104.08691).

A member's adapter is {'prompt_embeddings': [P, D]}; in a population with a leading axis M. Members with fewer than P
vectors use the last ones (next to the text); the rest is masked out of attention and takes no position.
"""

import jax
import jax.numpy as jnp
from jax import Array

from metaft.phi3 import Phi3


def init(model: Phi3, key: Array, *, max_length: int, from_vocabulary: Array | bool = True) -> dict:
    """Return one member's soft prompt, float32 [P, D].

    Args:
      model: gives the embeddings.
      key: typed PRNG key.
      max_length: P.
      from_vocabulary: embeddings of random vocabulary entries; otherwise normal draws with the standard deviation of
        the whole table, so that the model sees vectors of the length it knows (PEFT draws them with deviation 1).
    """
    ids_P = jax.random.randint(key, (max_length,), 0, model.config.vocab_size)
    chosen_PD = model.embed(ids_P[None])[0].astype(jnp.float32)
    deviation = jnp.std(model.embed_tokens[...].astype(jnp.float32))
    drawn_PD = deviation * jax.random.normal(jax.random.fold_in(key, 1), chosen_PD.shape, jnp.float32)
    return {'prompt_embeddings': jnp.where(from_vocabulary, chosen_PD, drawn_PD)}


def settings(*, length: int, init: str = 'vocabulary') -> dict:
    """Return {'prompt_length': int32 [], the number of vectors in use, 'from_vocabulary': bool []}."""
    return {'prompt_length': jnp.int32(length), 'from_vocabulary': jnp.bool_(init == 'vocabulary')}


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
