"""Small random Phi-3s that tests and goldens share. Weights come from numpy, so that a seed says everything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metaft.phi3 import LongRope, Phi3, Phi3Config

LENGTH = 13  # tokens a row, more than the windows below and than longrope's original length
_SHORT, _LONG = (1.0, 1.1, 1.3, 1.6), (1.5, 2.0, 4.0, 9.0)


def config(**changes):
    sizes = {
        'vocab_size': 61,
        'hidden_size': 32,
        'intermediate_size': 40,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
        'max_position_embeddings': 64,
        'original_max_position_embeddings': 64,
        'eos_token_id': 2,
        'pad_token_id': 0,
        'bos_token_id': 1,
    }
    return Phi3Config(**{**sizes, **changes})


CONFIGS = {
    'multi_head': config(),
    'grouped': config(num_key_value_heads=2),
    'multi_query_window': config(num_key_value_heads=1, sliding_window=4),
    'window': config(sliding_window=5, rope_theta=500.0),
    'window_of_one': config(sliding_window=1),
    'tied': config(tie_word_embeddings=True, num_hidden_layers=3, rms_norm_eps=1e-3),
    'partial_rotary': config(partial_rotary_factor=0.5, num_key_value_heads=2),
    'longrope_short': config(rope_scaling=LongRope(_SHORT, _LONG), original_max_position_embeddings=LENGTH),
    'longrope_long': config(rope_scaling=LongRope(_SHORT, _LONG), original_max_position_embeddings=LENGTH - 1),
    'longrope_partial': config(
        rope_scaling=LongRope(_SHORT[:2], _LONG[:2], attention_factor=1.2),
        original_max_position_embeddings=8,
        partial_rotary_factor=0.5,
        sliding_window=7,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}


def model(config, seed=0):
    """Draws every weight in the order of its path; large enough that attention is far from uniform."""
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(nnx.eval_shape(lambda: Phi3(config, rngs=nnx.Rngs(0))))
    leaves = []
    for path, leaf in sorted(nnx.to_flat_state(state), key=lambda item: '.'.join(map(str, item[0]))):
        noise = rng.standard_normal(leaf.shape, np.float32)
        value = 1.0 + 0.1 * noise if path[-1] == 'scale' else 0.2 * noise
        leaves.append((path, leaf.replace(jnp.asarray(value, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(leaves))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graph, state, tokens, positions, mask):
    return nnx.merge(graph, state)(tokens, positions, mask)


def logits(model, tokens, positions=None, mask=None):
    """Computes logits [B, L, V] as numpy, compiled as a whole: op by op, every length compiles some fifty programs."""
    return np.asarray(_forward(*nnx.split(model), tokens, positions, mask))


def tokens(config, batch=2, length=LENGTH, seed=1):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length)).astype(np.int32)


def padding(side, batch=2, length=LENGTH):
    """Returns a mask [B, L], False where a token pads; row b has 3 b pads."""
    index = np.arange(length)[None] * np.ones((batch, 1), int)
    pads = 3 * np.arange(batch)[:, None]
    return index >= pads if side == 'left' else index < length - pads
