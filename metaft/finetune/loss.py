"""Scores of answer tokens under an output head, without ever holding all logits where they would be large."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# Logits held at once, in numbers: 2^25 float32 are 128 MiB, and a gradient needs about three times that. 8 members of
# 8 answers of 64 tokens over the 32,064 words of Phi-3-mini would be 500 MiB; a small vocabulary never gets there.
MAX_LOGITS = 2**25


def token_scores(
    logits: Callable[[Array], Array],
    x_BAD: Array,
    targets_BA: Array,
    *,
    vocab_size: int,
    max_logits: int = MAX_LOGITS,
) -> tuple[Array, Array, Array]:
    """Return nats, whether the arg max is right, and how far the target is above the mean logit, each [B, A].

        nats  = logsumexp(logits) - logits[target]
        above = logits[target] - mean(logits)            (for label smoothing)

    Where B * A * V exceeds `max_logits`, positions are scored chunk by chunk in a scan that keeps the hidden states
    and computes a chunk's logits again for its gradient. Values and gradients are the same.

    Args:
      logits: the output head, [B, A', D] -> float32 [B, A', V] for any A'.
      x_BAD: hidden states that predict the targets.
      targets_BA: int32.
      vocab_size: V.
      max_logits: a chunk holds at most so many, though at least one position of every row.
    """
    b, a, d = x_BAD.shape
    size = max(1, max_logits // (b * vocab_size))
    if size >= a:
        return _scores(logits, x_BAD, targets_BA)
    num = -(-a // size)
    size = -(-a // num)  # chunks of one size: no more padding than positions in one of them
    extra = num * size - a
    x_chunks = jnp.pad(x_BAD, ((0, 0), (0, extra), (0, 0))).reshape(b, num, size, d).swapaxes(0, 1)
    target_chunks = jnp.pad(targets_BA, ((0, 0), (0, extra))).reshape(b, num, size).swapaxes(0, 1)
    score = jax.checkpoint(lambda x, targets: _scores(logits, x, targets), prevent_cse=False)
    _, found = jax.lax.scan(lambda carry, chunk: (carry, score(*chunk)), None, (x_chunks, target_chunks))
    nats, right, above = (scores.swapaxes(0, 1).reshape(b, num * size)[:, :a] for scores in found)
    return nats, right, above


def _scores(logits: Callable[[Array], Array], x_BAD: Array, targets_BA: Array) -> tuple[Array, Array, Array]:
    logits_BAV = logits(x_BAD)
    target_BA = jnp.take_along_axis(logits_BAV, targets_BA[:, :, None], axis=-1)[:, :, 0]
    nats_BA = jax.nn.logsumexp(logits_BAV, axis=-1) - target_BA
    return nats_BA, jnp.argmax(logits_BAV, axis=-1) == targets_BA, target_BA - jnp.mean(logits_BAV, axis=-1)
