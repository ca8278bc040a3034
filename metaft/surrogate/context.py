"""What the network reads: the observed runs of a task as a set, and the asked configurations with their own curves.

Values and cost rates are given relative to their level over the set, so that a task that is harder throughout, or a
machine that is slower, is no news to the network.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaft.surrogate import curves, process


class Context(NamedTuple):
    """The observed runs of a task."""

    config_OE: jax.Array
    curve_OX: jax.Array
    row_O: jax.Array  # int32, which query a run belongs to; -1: padding
    level: jax.Array  # of the values, what `curve_OX` is relative to
    rate_level: jax.Array  # of the cost rates, likewise


class Query(NamedTuple):
    """The asked configurations of a task, with their own curves so far (length 0: none is shown)."""

    config_CE: jax.Array
    remembered_CE: jax.Array  # likewise, with what is remembered of it in place of what the context says
    curve_CX: jax.Array
    row_C: jax.Array  # int32
    last_y_C: jax.Array  # transformed value at the end of the curve so far, relative to the level; 0: there is none
    last_rate_C: jax.Array  # likewise, of the standardised log cost rate
    last_log_budget_C: jax.Array  # log2 fraction of a full run; that of the grid's beginning if there is none
    has_curve_C: jax.Array  # float32 0 / 1


class Task(NamedTuple):
    """What is known of a task before any run."""

    features_Z: jax.Array  # encoded meta-features, bounded, and the metric
    log_examples: jax.Array  # ln training examples less its median in training, as it is; 0: not known
    log_parameters: jax.Array  # likewise, of the base model


def observe(
    kernel: process.Kernel,
    runs: process.Runs,
    shown: curves.Curves,
    fractions_T: np.ndarray,
    context_rows_O: jax.Array,
    query_rows_C: jax.Array,
    is_own_shown_C: jax.Array,
) -> tuple[Context, Query]:
    """Prepares what the network reads from runs and how far each has been observed.

    Args:
      kernel: the prior of tasks.
      runs: encoded configurations of all runs.
      shown: their curves so far.
      fractions_T: the grid.
      context_rows_O: rows that make the context; -1: padding. Rows without an observation count as padding.
      query_rows_C: rows that are asked about.
      is_own_shown_C: bool, which queries see their own curve; the others are treated as not started.
    """
    last_C = shown.last_C
    log_T = jnp.asarray(np.log2(np.asarray(fractions_T, np.float64)), jnp.float32)
    row_O = jnp.where((context_rows_O >= 0) & (last_C[context_rows_O] >= 0), context_rows_O, -1)
    last_O = jnp.maximum(last_C, 0)[row_O]
    y_O = curves.at(shown.y_CT[row_O], last_O)
    level, rate_level = _level(y_O, row_O), _level(curves.at(shown.rate_CT[row_O], last_O), row_O)
    known_CF = process.posterior(kernel, runs, row_O, y_O, log_T[last_O], level)
    config_CE = jnp.concatenate([runs.config_CE, known_CF], axis=1)
    shown = curves.Curves(shown.y_CT - level, shown.rate_CT - rate_level, shown.is_seen_CT)
    feature_CX = curves.features(shown, fractions_T)
    context = Context(config_CE[row_O], feature_CX[row_O], row_O, level, rate_level)

    has_C = (is_own_shown_C & (last_C[query_rows_C] >= 0)).astype(jnp.float32)
    last_C = jnp.maximum(jnp.where(is_own_shown_C, last_C[query_rows_C], 0), 0)
    query = Query(
        config_CE=config_CE[query_rows_C],
        remembered_CE=jnp.concatenate([runs.config_CE, process.prior(runs.recall)], axis=1)[query_rows_C],
        curve_CX=feature_CX[query_rows_C] * has_C[:, None],
        row_C=query_rows_C,
        last_y_C=has_C * curves.at(shown.y_CT[query_rows_C], last_C),
        last_rate_C=has_C * curves.at(shown.rate_CT[query_rows_C], last_C),
        last_log_budget_C=log_T[last_C],
        has_curve_C=has_C,
    )
    return context, query


def _level(y_O: jax.Array, row_O: jax.Array) -> jax.Array:
    """Returns the mean over the context, shrunk to 0 as if one more element were 0."""
    present_O = (row_O >= 0).astype(jnp.float32)
    return jnp.sum(y_O * present_O) / (jnp.sum(present_O) + 1.0)
