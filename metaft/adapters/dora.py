"""DoRA for a population: LoRA that trains how long each output column is apart from where it points.

    y = m * (W0 + s B A) x / ||W0 + s B A||        (Liu et al., arXiv 2402.09353), s as in `lora`

A member's adapter is LoRA's with a third leaf a module, 'magnitude' [F]: m, at the start the norms of W0's columns, so
that nothing changes. The norm is a constant to the gradient (section 4.3 of the paper; PEFT does the same). The paper
leaves open what dropout falls on: here the branch's input alone, where PEFT drops the base's too and so needs a second
base matmul a layer; without dropout both are the same.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from metaft.adapters import lora
from metaft.errors import ModelError
from metaft.phi3 import Phi3
from metaft.phi3.quantized import is_quantized


def init(model: Phi3, key: Array, mask_R: Array) -> dict:
    """Return one member's adapter: LoRA's, and the base's own norms; it changes nothing.

    Raises:
      ModelError: the base is quantised, and so has no norms of its own.
    """
    if is_quantized(model):
        raise ModelError('DoRA needs the norms of the weights and this base is in 8 bits; load it without quantising')
    adapter = lora.init(model, key, mask_R)
    for path, layer, group, name in lora.module_paths(model.config.num_hidden_layers):
        adapter[path]['magnitude'] = jnp.sqrt(_squares_F(lora.linear(model, layer, group, name).kernel[...]))
    return adapter


def adapt(model: Phi3, adapter: dict, settings: dict, key_M: Array | None = None) -> Phi3:
    """Put a population's adapters in front of the base's linear layers, as `lora.adapt`."""
    return lora.adapt(model, adapter, settings, key_M, DoraLinear)


def hidden(
    model: Phi3, adapter: dict, settings: dict, tokens_BL: Array, key_M: Array | None = None, **layout: Array
) -> Array:
    """Return the final hidden states [M*B, L, D] of a population, as `lora.hidden`."""
    model = adapt(model, adapter, settings, key_M)
    return model.hidden(model.embed(tokens_BL), **layout)


def merge(model: Phi3, adapter: dict, settings: dict) -> Phi3:
    """Return `model` with one member's adapter (no M axis) put into its weights, in float32 and cast last."""

    def combine(w_DF: Array, delta_DF: Array, member: dict) -> Array:
        sum_DF = w_DF + delta_DF
        return sum_DF * (member['magnitude'] / _not_zero(jnp.sqrt(_squares_F(sum_DF))))[None, :]

    return lora.merge(model, adapter, settings, combine)


class DoraLinear(lora.LoraLinear):
    """A linear layer with the DoRA branches of M members: [M*B, L, D] -> [M*B, L, F]."""

    def __init__(self, base: nnx.Module, member: dict, scale_MR: Array, dropout_M: Array, key_M: Array | None):
        super().__init__(base, member, scale_MR, dropout_M, key_M)
        norm_MF = _norms(base.kernel[...], member['lora_A'], member['lora_B'], scale_MR)
        is_on_M = jnp.any(scale_MR != 0.0, axis=1)  # elsewhere the module is no target of the member
        self.gain_MF = nnx.Variable(jnp.where(is_on_M[:, None], member['magnitude'] / norm_MF, 1.0))

    def __call__(self, x_BLD: Array) -> Array:
        y_BLF, y_MBLF = self.base(x_BLD), self.branch(x_BLD)
        y_MBLF = (y_BLF.astype(jnp.float32).reshape(y_MBLF.shape) + y_MBLF) * self.gain_MF[...][:, None, None, :]
        return y_MBLF.reshape(y_BLF.shape).astype(y_BLF.dtype)


def _norms(w_DF: Array, a_MDR: Array, b_MRF: Array, scale_MR: Array) -> Array:
    """Returns the norms of the columns of W0 + A s B for every member, float32 [M, F], constant to the gradient.

    Without the sum itself, which would be M times the base:
    ||w + d||^2 = ||w||^2 + 2 <w, d> + ||d||^2, <w, d> = sum_R (W0^T A s) B, ||d||^2 = B^T (A s)^T (A s) B.
    """
    a_MDR, b_MRF = map(jax.lax.stop_gradient, (a_MDR * scale_MR[:, None, :], b_MRF))
    einsum = lambda spec, *arrays: jnp.einsum(spec, *arrays, precision='highest')
    mixed_MF = jnp.sum(einsum('DF,MDR->MRF', w_DF.astype(jnp.float32), a_MDR) * b_MRF, axis=1)
    own_MRF = einsum('MSR,MRF->MSF', einsum('MDS,MDR->MSR', a_MDR, a_MDR), b_MRF)
    squares_MF = _squares_F(w_DF)[None, :] + 2.0 * mixed_MF + jnp.sum(own_MRF * b_MRF, axis=1)
    return _not_zero(jnp.sqrt(jnp.maximum(squares_MF, 0.0)))


def _squares_F(w_DF: Array) -> Array:
    return jnp.sum(jnp.square(w_DF.astype(jnp.float32)), axis=0)


def _not_zero(norm: Array) -> Array:
    """Keeps a column of zeros, whose magnitude is zero too, from becoming NaN."""
    return jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
