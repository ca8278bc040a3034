"""A tiny model and tiny rows that the tests of finetuning share."""

from collections.abc import Sequence

import numpy as np
from flax import nnx

from metaft.finetune.data import Rows
from metaft.finetune.population import Population
from metaft.finetune.search_space import Configuration
from metaft.phi3 import Phi3, Phi3Config


def tiny_model(seed: int = 0) -> Phi3:
    config = Phi3Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        original_max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Phi3(config, rngs=nnx.Rngs(seed))


def tiny_rows(num: int = 40, length: int = 16, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    start = generator.integers(4, 8, num).astype(np.int32)
    answer = generator.integers(2, 5, num).astype(np.int32)
    tokens = generator.integers(2, 48, (num, length)).astype(np.int32)
    end = start + answer
    tokens[np.arange(length)[None, :] >= end[:, None]] = 0
    return Rows(tokens, start, end, 8)


def tiny_population(rows: Rows, configurations: Sequence[Configuration], advances: Sequence[int]) -> Population:
    """Returns a population with one member a configuration, after calls of `advance` by so many steps."""
    population = Population(tiny_model(), configurations[0].method, rows, width=len(configurations))
    for slot, configuration in enumerate(configurations):
        population.put(slot, population.new_member(configuration, slot), configuration, seed=slot, total_steps=30)
    population.compile(tiny_rows())
    for steps in advances:
        population.advance([steps] * len(configurations))
    return population
