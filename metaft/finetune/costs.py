"""What a run costs, analytically: FLOPs and tokens, the same on every machine.

Counted are the FLOPs that the method needs (2 a multiply-add), not those that a padded program happens to do:

    forward of a token    2 * (weights of the blocks' linear layers) + 4 * L * N * H a layer for attention (scores and
                          values)
    output head           2 * D * V at the answer's tokens only
    LoRA branch           2 * r * (D + F) a target
    DoRA's norms          2 * (r + 1) * D * F a target and update, whatever the number of tokens
    training              base: forward and backward through activations (2 x); LoRA: also its weights (3 x);
                          full tuning: everything 3 x
"""

import dataclasses

import numpy as np

from metaft.adapters.lora import TARGET_MODULES, layers_in_use
from metaft.finetune.data import Rows
from metaft.finetune.search_space import Configuration
from metaft.phi3 import Phi3Config


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cumulative cost of a run: its share of wall time in seconds, FLOPs, and tokens trained on without padding."""

    seconds: float
    flops: float
    tokens: float


def linear_shapes(config: Phi3Config) -> dict[str, tuple[int, int]]:
    """Return (in, out) of each linear layer of one block."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.kv_heads
    return {
        'qkv_proj': (d, (heads + 2 * kv_heads) * h),
        'o_proj': (heads * h, d),
        'gate_up_proj': (d, 2 * f),
        'down_proj': (f, d),
    }


def forward_flops(config: Phi3Config, length_N: np.ndarray, answer_N: np.ndarray) -> np.ndarray:
    """Return the FLOPs of one forward pass over each row, float64 [N], of which `answer_N` tokens are the answer's."""
    length = np.asarray(length_N, float)
    weights = sum(i * o for i, o in linear_shapes(config).values())
    attention = 4.0 * length * config.num_attention_heads * config.head_dim
    head = 2.0 * config.hidden_size * config.vocab_size * np.asarray(answer_N, float)
    return config.num_hidden_layers * length * (2.0 * weights + attention) + head


def training_flops(
    config: Phi3Config, configuration: Configuration, length_N: np.ndarray, answer_N: np.ndarray
) -> np.ndarray:
    """Return the FLOPs of training on each row once, float64 [N]."""
    length = np.asarray(length_N, float)
    if configuration.method == 'prompt':
        return 2.0 * forward_flops(config, length + configuration.prompt_length, answer_N)
    if configuration.method == 'full':
        return 3.0 * forward_flops(config, length, answer_N)
    names = [n for group, ns in TARGET_MODULES.items() if configuration.targets in (group, 'all') for n in ns]
    shapes = [linear_shapes(config)[n] for n in names]
    num_layers = len(layers_in_use(configuration.layers, config.num_hidden_layers))
    branch = 3.0 * 2.0 * configuration.rank * sum(d + f for d, f in shapes) * length
    norms = 2.0 * (configuration.rank + 1) * sum(d * f for d, f in shapes) / configuration.batch_size
    own = branch + norms if configuration.dora else branch
    return 2.0 * forward_flops(config, length, answer_N) + num_layers * own


def mean_training_cost(config: Phi3Config, configuration: Configuration, rows: Rows) -> tuple[float, float]:
    """Return (FLOPs, tokens) of one training example, averaged over `rows`."""
    length, answer = np.asarray(rows.length_N), np.asarray(rows.length_N - rows.answer_start_N)
    return float(training_flops(config, configuration, length, answer).mean()), float(length.mean())
