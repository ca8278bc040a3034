"""The network: from a task's runs so far, its meta-features and configurations to curves with their uncertainty.

An observed run becomes one element (configuration, curve so far, cost). A query sees the set of them in two ways that
do not depend on its order: a global pool (mean, maximum, spread), and a kernel pool, in which runs with a similar
configuration count more, by metrics that are learned. A query's own run is left out of its kernel pool; its curve so
far is given to it directly. A part of each configuration is what a Gaussian process over this task and the others
expects of it (process.py), a sum over the set as well.

Deep sets: Zaheer et al., arXiv 1703.06114. The kernel pool is a Nadaraya-Watson estimate with learned metrics.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.surrogate import curves
from metaft.surrogate.context import Context, Query, Task
from metaft.surrogate.heads import CurveHead
from metaft.surrogate.network import Architecture, Mlp, Output, features, linear, linear_general

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

    def __call__(self, context: Context, query: Query, task: Task, log_budget_CT: jax.Array) -> Output:
        """Predicts each query at its own T budgets, log2 fractions of a full run."""
        present_O = (context.row_O >= 0).astype(jnp.float32)
        element_OD = self.element(jnp.concatenate([context.config_OE, context.curve_OX], axis=1))
        levels = jnp.stack([context.level, context.rate_level])
        told = [features(self.architecture, task), levels, _global_pool(element_OD, present_O)]
        task_D = self.task(jnp.concatenate(told)[None, :])[0]
        kernel_CF = self.pool(query, context, element_OD, present_O)
        own_CD = self.own_curve(jnp.concatenate([query.config_CE, query.curve_CX], axis=1))
        shared_CD = jnp.broadcast_to(task_D[None, :], own_CD.shape)
        trunk_CD = self.trunk(jnp.concatenate([query.config_CE, own_CD, shared_CD, kernel_CF], axis=1))
        return self.head(trunk_CD, query, task, log_budget_CT).raised(context)


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
