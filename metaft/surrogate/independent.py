"""Every curve for itself: a query sees its own curve so far, its configuration and the task, and no other run.

What the surrogates of DyHPO and Quick-Tune see. It is here to show what the set is worth. Other tasks' runs of such a
configuration (memory.py, process.py) are a part of the configuration, so it transfers as the others do.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.surrogate import curves
from metaft.surrogate.context import Context, Query, Task
from metaft.surrogate.heads import CurveHead
from metaft.surrogate.network import Architecture, Mlp, Output, features


class Independent(nnx.Module):
    """(query, task) -> distributions; of the context only the levels, to take them back."""

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs):
        a = self.architecture = architecture
        size = a.num_hyperparameters + curves.NUM_FEATURES + a.num_task_features
        self.trunk = Mlp([size, a.trunk_width, a.trunk_width, a.trunk_width], rngs)
        self.head = CurveHead(a, rngs)

    def __call__(self, context: Context, query: Query, task: Task, log_budget_CT: jax.Array) -> Output:
        """Predicts each query at its own T budgets, log2 fractions of a full run."""
        query = _without_levels(query, context)
        task_Z = features(self.architecture, task)
        task_CZ = jnp.broadcast_to(task_Z[None, :], (len(query.config_CE), len(task_Z)))
        trunk_CD = self.trunk(jnp.concatenate([query.config_CE, query.curve_CX, task_CZ], axis=1))
        return self.head(trunk_CD, query, task, log_budget_CT)


def _without_levels(query: Query, context: Context) -> Query:
    """Returns the query as it is before anything of the context reaches it."""
    return query._replace(
        config_CE=query.remembered_CE,
        curve_CX=curves.raise_levels(query.curve_CX, context.level, context.rate_level),
        last_y_C=query.last_y_C + query.has_curve_C * context.level,
        last_rate_C=query.last_rate_C + query.has_curve_C * context.rate_level,
    )
