"""A base in 8 bits, for adapters to train on: the blocks' linear weights as int8 with one float32 scale an output.

    W ~ int8[D, F] * scale[F],  scale = max |W[:, f]| / 127

Activations, embedding, norms and the output head stay as they are. Written here and not by an interception library,
because a checkpoint is quantised while it streams in: the whole of it never lies in memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metaft.phi3.model import Linear, Phi3

LINEARS = (('self_attn', 'qkv_proj'), ('self_attn', 'o_proj'), ('mlp', 'gate_up_proj'), ('mlp', 'down_proj'))


class QuantizedLinear(nnx.Module):
    """Computes x W without bias, W = kernel * kernel_scale; the scale is applied to the product."""

    def __init__(self, kernel_DF: jax.Array, scale_F: jax.Array) -> None:
        self.kernel = nnx.Param(kernel_DF)
        self.kernel_scale = nnx.Param(scale_F)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        product = jnp.einsum(
            'BLD,DF->BLF', x_BLD, self.kernel[...].astype(x_BLD.dtype), preferred_element_type=jnp.float32
        )
        return (product * self.kernel_scale[...][None, None, :]).astype(x_BLD.dtype)


def quantize(model: Phi3) -> Phi3:
    """Replace the linear layers of every block by quantised ones; `model` itself is changed and returned."""
    for block in model.layers:
        for parent, name in LINEARS:
            linear: Linear = getattr(getattr(block, parent), name)
            setattr(getattr(block, parent), name, QuantizedLinear(*to_int8(linear.kernel[...])))
    return model


def is_quantized(model: Phi3) -> bool:
    """Return whether the model's linear layers are in 8 bits."""
    return isinstance(model.layers[0].mlp.down_proj, QuantizedLinear)


def to_int8(kernel_DF):
    """Return a kernel (NumPy or JAX) as int8 [D, F] and its scales, float32 [F]; a column's largest is 127."""
    xp = np if isinstance(kernel_DF, np.ndarray) else jnp
    kernel_DF = kernel_DF.astype(xp.float32)
    # Not divided by 127: XLA would multiply by the inverse, and NumPy round otherwise.
    scale_F = xp.maximum(xp.max(xp.abs(kernel_DF), axis=0), np.float32(1e-30)) * np.float32(1 / 127)
    return xp.round(kernel_DF / scale_F[None, :]).astype(xp.int8), scale_F
