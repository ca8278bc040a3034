"""Weights in another dtype, and what rounding them does to the logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from metaft.phi3.model import Phi3


def base_dtype(name: str | None) -> np.dtype:
    """Return the dtype of a frozen base: the one named; None for float32 on a CPU and bfloat16 on an accelerator."""
    return jnp.dtype(name or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16'))


def cast(model: Phi3, dtype: Any) -> Phi3:
    """Return the model with every weight in `dtype`; `model` itself is left as it is."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(dtype), state))


def largest_logit_change(model: Phi3, dtype: Any, tokens_BL: np.ndarray, mask_BL: np.ndarray) -> float:
    """Return the largest change of a logit that rounding the weights to `dtype` makes, both sides computed in float32.

    Args:
      model: with float32 weights; a second copy must fit beside it.
      dtype: what the weights are rounded to.
      tokens_BL: right-padded token ids.
      mask_BL: True where a token counts.
    """
    exact_BLV = _logits(model, tokens_BL)
    rounded_BLV = _logits(cast(cast(model, dtype), jnp.float32), tokens_BL)
    return float(jnp.max(jnp.abs(exact_BLV - rounded_BLV), where=mask_BL[:, :, None], initial=0.0))


def _logits(model: Phi3, tokens_BL: np.ndarray) -> Array:
    graph, state = nnx.split(model)
    return jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(state, tokens_BL)
