"""The network: from a task's runs so far, its meta-features and configurations to curves with their uncertainty.

An observed run becomes one element (configuration, curve so far, cost). A query sees the set of them in two ways that
do not depend on its order: a global pool (mean, maximum, spread), and a kernel pool, in which runs with a similar
configuration count more, by metrics that are learned. A query's own run is left out of its kernel pool; its curve so
far is given to it directly.

Deep sets: Zaheer et al., arXiv 1703.06114. The kernel pool is a Nadaraya-Watson estimate with learned metrics.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.surrogate import curves, memory
from metaft.surrogate.context import Context, Query
from metaft.surrogate.likelihood import Mixture
from metaft.surrogate.network import Architecture, Mlp, Output, linear, linear_general

_MIN_SD = 2e-3  # of a value; far below the noise of a seed
_MIN_COST_SD = 2e-2
_KERNEL_FLOOR = 0.1  # weight of "no neighbour": the pool shrinks to 0 far from every observation


class DeepSet(nnx.Module):
    """(context, query, task) -> distributions."""

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs):
        a = architecture
        run_size = a.num_hyperparameters + curves.NUM_FEATURES
        self.architecture = a
        self.own_curve = Mlp([run_size, a.width, a.width], rngs)
        self.element = Mlp([run_size, a.width, a.width], rngs)
        self.pool = KernelPool(a, rngs)
        self.task = Mlp([a.num_task_features + 3 * a.width + 3, a.width, a.width], rngs)
        kernel_out = a.num_kernels * (a.kernel_size + 1)
        self.trunk = Mlp([a.num_hyperparameters + 2 * a.width + kernel_out, a.trunk_width, a.trunk_width], rngs)
        self.head = CurveHead(a, rngs)

    def __call__(self, context: Context, query: Query, task_Z: jax.Array, log_budget_CT: jax.Array) -> Output:
        """Predicts each query at its own T budgets, log2 fractions of a full run."""
        present_O = (context.row_O >= 0).astype(jnp.float32)
        element_OD = self.element(jnp.concatenate([context.config_OE, context.curve_OX], axis=1))
        levels = jnp.stack([context.level, context.rate_level])
        task_D = self.task(jnp.concatenate([task_Z, levels, _global_pool(element_OD, present_O)])[None, :])[0]
        kernel_CF = self.pool(query, context, element_OD, present_O)
        own_CD = self.own_curve(jnp.concatenate([query.config_CE, query.curve_CX], axis=1))
        shared_CD = jnp.broadcast_to(task_D[None, :], own_CD.shape)
        trunk_CD = self.trunk(jnp.concatenate([query.config_CE, own_CD, shared_CD, kernel_CF], axis=1))
        known_CU = query.config_CE[:, -memory.SIZE : -memory.SIZE + curves.NUM_RESAMPLED]
        relative = self.head(trunk_CD, query, known_CU, log_budget_CT)
        value = relative.value._replace(mean=relative.value.mean + context.level)
        return relative._replace(value=value, rate_mean_CT=relative.rate_mean_CT + context.rate_level)


class KernelPool(nnx.Module):
    """N weighted means of the context around each query: sum_o k(c, o) w_o v_o / (sum_o k(c, o) w_o + floor)."""

    def __init__(self, a: Architecture, rngs: nnx.Rngs):
        shape = (a.num_kernels, a.kernel_size)
        self.metric = linear_general(a.num_hyperparameters, shape, use_bias=False, rngs=rngs)
        self.weight = linear(a.width, a.num_kernels, rngs=rngs)
        self.value = linear_general(a.width, shape, rngs=rngs)

    def __call__(self, query: Query, context: Context, element_OD: jax.Array, present_O: jax.Array) -> jax.Array:
        place_CNH, place_ONH = self.metric(query.config_CE), self.metric(context.config_OE)
        square_NCO = (
            jnp.sum(place_CNH**2, axis=2).T[:, :, None]
            + jnp.sum(place_ONH**2, axis=2).T[:, None, :]
            - 2.0 * jnp.einsum('CNH,ONH->NCO', place_CNH, place_ONH)
        )
        is_other_CO = query.row_C[:, None] != context.row_O[None, :]
        weight_ON = jax.nn.softplus(self.weight(element_OD)) * present_O[:, None]
        kernel_NCO = (
            jnp.where(is_other_CO[None], jnp.exp(-0.5 * jnp.maximum(square_NCO, 0.0)), 0.0) * weight_ON.T[:, None, :]
        )
        density_CN = jnp.sum(kernel_NCO, axis=2).T
        pooled_CNH = jnp.einsum('NCO,ONH->CNH', kernel_NCO, self.value(element_OD))
        pooled_CNH = pooled_CNH / (density_CN[:, :, None] + _KERNEL_FLOOR)
        log_density_CN = jnp.log(density_CN + _KERNEL_FLOOR)
        return jnp.concatenate([pooled_CNH.reshape(len(pooled_CNH), -1), log_density_CN], axis=1)


class CurveHead(nnx.Module):
    """A power law from the last observation on, G Gaussians around it, and one Gaussian for the log cost rate.

    law(t) = y_n + a (1 - (budget_n / budget_t)^b) + (1 + g) (m(t) - m(n))

    so that without m, what such runs did on other tasks (memory.py), y_n + a is reached in the limit. Without an own
    curve y_n is predicted too and stands at the grid's beginning, and m(n) is 0.
    """

    def __init__(self, a: Architecture, rngs: nnx.Rngs):
        self.num_components = a.num_components
        self.law = linear(a.trunk_width, 5, rngs=rngs)
        self.from_trunk = linear(a.trunk_width, a.width, rngs=rngs)
        self.from_budget = linear(4, a.width, use_bias=False, rngs=rngs)
        self.out = linear(a.width, 3 * a.num_components + 2, rngs=rngs)

    def __call__(self, trunk_CD: jax.Array, query: Query, known_CU: jax.Array, log_budget_CT: jax.Array) -> Output:
        start_C, limit_C, exponent_C, rate_C, gain_C = self.law(trunk_CD).T
        has_C = query.has_curve_C
        octaves_CT = jnp.maximum(log_budget_CT - query.last_log_budget_C[:, None], 0.0)
        anchor_C = has_C * query.last_y_C + (1.0 - has_C) * start_C
        progress_CT = 1.0 - jnp.exp2(-jax.nn.softplus(exponent_C)[:, None] * octaves_CT)
        law_CT = anchor_C[:, None] + limit_C[:, None] * progress_CT
        # What such runs did elsewhere, from the last observation on.
        known_CT = curves.read(known_CU, log_budget_CT)
        known_CT -= has_C[:, None] * curves.read(known_CU, query.last_log_budget_C[:, None])
        law_CT += (1.0 + gain_C)[:, None] * known_CT

        budget_CTF = jnp.stack(
            [
                1.0 + log_budget_CT / curves.OCTAVES,
                octaves_CT / curves.OCTAVES,
                progress_CT,
                has_C[:, None] * jnp.exp2(-octaves_CT),
            ],
            axis=2,
        )
        hidden_CTD = jax.nn.silu(self.from_trunk(trunk_CD)[:, None, :] + self.from_budget(budget_CTF))
        out_CTF = self.out(hidden_CTD)
        logit_CTG, shift_CTG, log_sd_CTG = jnp.split(out_CTF[..., :-2], 3, axis=2)
        spread_CTG = 0.5 * jnp.exp(jnp.clip(log_sd_CTG, -7.0, 2.0))
        value = Mixture(
            log_weight=jax.nn.log_softmax(logit_CTG, axis=2),
            mean=law_CT[..., None] + shift_CTG + 0.5 * jnp.linspace(-1.0, 1.0, self.num_components)[None, None, :],
            sd=spread_CTG + _MIN_SD,
        )
        rate_mean_CT = (has_C * query.last_rate_C + (1.0 - has_C) * rate_C)[:, None] + out_CTF[..., -2]
        return Output(value, rate_mean_CT, 0.5 * jnp.exp(jnp.clip(out_CTF[..., -1], -5.0, 2.0)) + _MIN_COST_SD)


def _global_pool(element_OD: jax.Array, present_O: jax.Array) -> jax.Array:
    """Returns mean, maximum and standard deviation over the present elements, and their log number; 0 for none."""
    count = jnp.sum(present_O)
    mask_OD = jnp.broadcast_to(present_O[:, None], element_OD.shape)
    mean_D = jnp.sum(element_OD * mask_OD, axis=0) / jnp.maximum(count, 1.0)
    square_D = jnp.sum((element_OD - mean_D[None, :]) ** 2 * mask_OD, axis=0) / jnp.maximum(count, 1.0)
    largest_D = jnp.max(jnp.where(mask_OD > 0, element_OD, -jnp.inf), axis=0)
    largest_D = jnp.where(count > 0, largest_D, 0.0)
    return jnp.concatenate(
        [mean_D, largest_D, jnp.where(count > 0, jnp.sqrt(square_D + 1e-6), 0.0), jnp.log1p(count)[None] / 4.0]
    )
