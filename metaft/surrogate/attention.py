"""Attention over the set of observed runs: each query attends to the runs, layer after layer.

Where the deep set weighs runs by a learned distance between configurations, here the weights are attention between a
query and what a run is and did. A query's own run is masked out; its curve is given to it directly. A learned empty
element takes the attention that no run deserves, and all of it where nothing was observed.

Attention: Vaswani et al., arXiv 1706.03762; over sets: Lee et al., arXiv 1810.00825.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.surrogate import curves
from metaft.surrogate.context import Context, Query, Task
from metaft.surrogate.heads import CurveHead
from metaft.surrogate.network import Architecture, Mlp, Output, features, linear, linear_general

_NUM_LAYERS = 2


class Attention(nnx.Module):
    """(context, query, task) -> distributions."""

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs):
        a = self.architecture = architecture
        run_size = a.num_hyperparameters + curves.NUM_FEATURES
        self.element = Mlp([run_size, a.width, a.width], rngs)
        self.nothing = nnx.Param(jnp.zeros((1, a.width)))
        self.query = Mlp([run_size + a.num_task_features + 3, a.trunk_width, a.trunk_width], rngs)
        self.layers = nnx.List([_Layer(a, rngs) for _ in range(_NUM_LAYERS)])
        self.head = CurveHead(a, rngs)

    def __call__(self, context: Context, query: Query, task: Task, log_budget_CT: jax.Array) -> Output:
        """Predicts each query at its own T budgets, log2 fractions of a full run."""
        element_OD = self.element(jnp.concatenate([context.config_OE, context.curve_OX], axis=1))
        element_OD = jnp.concatenate([element_OD, self.nothing[...]])
        is_present_O = context.row_O >= 0
        is_seen_CO = is_present_O[None, :] & (query.row_C[:, None] != context.row_O[None, :])
        is_seen_CO = jnp.pad(is_seen_CO, [(0, 0), (0, 1)], constant_values=True)

        log_count = jnp.log1p(jnp.sum(is_present_O.astype(jnp.float32))) / 4.0
        levels = jnp.stack([context.level, context.rate_level, log_count])
        told = jnp.concatenate([features(self.architecture, task), levels])
        told_C = jnp.broadcast_to(told[None, :], (len(query.config_CE), len(told)))
        trunk_CD = self.query(jnp.concatenate([query.config_CE, query.curve_CX, told_C], axis=1))
        for layer in self.layers:
            trunk_CD = layer(trunk_CD, element_OD, is_seen_CO)

        return self.head(trunk_CD, query, task, log_budget_CT).raised(context)


class _Layer(nnx.Module):
    """Multi-head attention of queries to elements, then an MLP, each added to what was there."""

    def __init__(self, a: Architecture, rngs: nnx.Rngs):
        shape = (a.num_kernels, a.kernel_size)
        self.to_query = linear_general(a.trunk_width, shape, use_bias=False, rngs=rngs)
        self.to_key = linear_general(a.width, shape, use_bias=False, rngs=rngs)
        self.to_value = linear_general(a.width, shape, use_bias=False, rngs=rngs)
        self.from_heads = linear(a.num_kernels * a.kernel_size, a.trunk_width, rngs=rngs)
        self.mlp = Mlp([a.trunk_width, a.trunk_width], rngs)

    def __call__(self, trunk_CD: jax.Array, element_OD: jax.Array, is_seen_CO: jax.Array) -> jax.Array:
        query_CNH, key_ONH, value_ONH = self.to_query(trunk_CD), self.to_key(element_OD), self.to_value(element_OD)
        logit_NCO = jnp.einsum('CNH,ONH->NCO', query_CNH, key_ONH) * query_CNH.shape[2] ** -0.5
        weight_NCO = jax.nn.softmax(jnp.where(is_seen_CO[None], logit_NCO, -jnp.inf), axis=2)
        read_CNH = jnp.einsum('NCO,ONH->CNH', weight_NCO, value_ONH)
        trunk_CD = trunk_CD + self.from_heads(read_CNH.reshape(len(trunk_CD), -1))
        return trunk_CD + self.mlp(trunk_CD)
