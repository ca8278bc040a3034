"""The published members of the family, as their `config.json` has them.

longrope factors are part of a checkpoint and not of this file: a longrope preset knows its parameter count and refuses
to run (`rotary.rotary_tables`); load the checkpoint to run it.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.phi3.config import LongRope, Phi3Config
from metaft.phi3.model import Phi3

_MINI = Phi3Config(
    vocab_size=32064,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=32,
    num_attention_heads=32,
    sliding_window=2047,
    bos_token_id=1,
    eos_token_id=32000,
    pad_token_id=32000,
)
_MINI_LONG = replace(_MINI, max_position_embeddings=131072, sliding_window=262144, rope_scaling=LongRope())
_MEDIUM = replace(
    _MINI,
    hidden_size=5120,
    intermediate_size=17920,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=10,
)

PRESETS: Mapping[str, Phi3Config] = MappingProxyType(
    {
        'phi-3-mini-4k': _MINI,
        'phi-3-mini-128k': _MINI_LONG,
        'phi-3.5-mini': _MINI_LONG,
        'phi-3-medium-4k': _MEDIUM,
        'phi-4': replace(
            _MEDIUM,
            vocab_size=100352,
            max_position_embeddings=16384,
            original_max_position_embeddings=16384,
            rope_theta=250000.0,
            sliding_window=None,
            bos_token_id=100257,
            eos_token_id=100265,
            pad_token_id=100349,
        ),
        'phi-4-mini': replace(
            _MINI_LONG,
            vocab_size=200064,
            num_attention_heads=24,
            num_key_value_heads=8,
            partial_rotary_factor=0.75,
            tie_word_embeddings=True,
            bos_token_id=199999,
            eos_token_id=199999,
            pad_token_id=199999,
        ),
    }
)


def count_parameters(config: Phi3Config) -> int:
    """Counts the parameters of a model of this shape without making one."""
    model = nnx.eval_shape(lambda: Phi3(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
