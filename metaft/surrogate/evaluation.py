"""How good a surrogate's answers are on tasks it has not seen, by how much of the task was observed."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import curves, episodes, likelihood, transforms
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.process import Runs
from metaft.surrogate.surrogate import Surrogate

_observed = jax.jit(episodes.observed, static_argnums=(3, 4))
_mean = jax.jit(likelihood.mean)
_cdf = jax.jit(likelihood.cdf)


def evaluate(
    surrogate: Surrogate,
    tables: Sequence[TaskTable],
    num_points: Sequence[int] = (0, 50, 200),
    num_draws: int = 4,
    seed: int = 0,
    beyond: float | None = None,
) -> list[dict[str, float]]:
    """Scores predictions of everything that a freeze-thaw search has not observed yet.

    Args:
      surrogate: to be judged.
      tables: tasks that it was not trained on.
      num_points: observed grid points of the task, all its runs together.
      num_draws: states of the search a task and number.
      seed: of the states.
      beyond: score budgets beyond this fraction of a full run only, with nothing of them observed.

    Returns:
      A row a number of points, means over tasks: `log_likelihood` (nats) and `mse` of transformed values, `spearman` of
      the predicted with the true final values of unfinished runs, `coverage_80`, and for the cumulative cost its median
      absolute log error `cost_error` and `cost_coverage_80`.
    """
    rows = []
    for points in num_points:
        scores = [
            _score(surrogate, table, points, seed + 1000 * w + draw, beyond)
            for w, table in enumerate(tables)
            for draw in range(num_draws)
        ]
        rows.append({'num_points': points, **pd.DataFrame(scores).mean().to_dict()})  # leaves NaN out
    return rows


def hide(table: TaskTable, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and costs [C, T] as a search would know them after `num_points` observations; NaN: hidden."""
    y_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
    num_T = len(table.fractions_T)
    last_y_C, measured_C = jnp.asarray(curves.forward_fill(y_CT)[:, -1]), jnp.asarray(curves.lengths(y_CT))
    state = _observed(
        jax.random.key(seed), last_y_C, measured_C, num_T, episodes.EpisodeSettings(), jnp.float32(num_points)
    )
    is_shown_CT = np.asarray(state)
    return np.where(is_shown_CT, table.values_CT, np.nan), np.where(is_shown_CT, table.costs_CT, np.nan)


def asking(surrogate: Surrogate, table: TaskTable) -> Callable[[np.ndarray, np.ndarray], Prediction]:
    """Returns the prediction of a table's runs as a function of their observed values and costs [C, T]; NaN: none.

    The runs are encoded once, see `encoded`.
    """
    runs = encoded(surrogate, table)
    return lambda values_CT, costs_CT: surrogate.predict(
        table.meta_features,
        runs,
        values_CT,
        costs_CT,
        metric=table.metric,
        max_examples=table.max_examples,
        reference_value=table.reference_value,
        reference_seconds=table.reference_seconds,
        fractions_T=table.fractions_T,
    )


def encoded(surrogate: Surrogate, table: TaskTable) -> Runs:
    """Encodes a table's configurations, remembering no run of the table's dataset."""
    return surrogate.encode(table.configurations, table.metric, without=splits.dataset_of(table))


def _score(
    surrogate: Surrogate, table: TaskTable, num_points: int, seed: int, beyond: float | None
) -> dict[str, float]:
    known = table if beyond is None else splits.until(table, beyond)
    values_CT, costs_CT = hide(known, num_points, seed)
    prediction = asking(surrogate, table)(values_CT, costs_CT)
    is_target_CT = np.isnan(values_CT) & ~np.isnan(table.values_CT)
    if beyond is not None:
        is_target_CT &= np.isnan(known.values_CT)
    y_CT = prediction.transform(table.values_CT)
    mean_CT = np.asarray(_mean(prediction.mixture))
    below_CT = np.asarray(_cdf(prediction.mixture, jnp.asarray(y_CT)))
    is_final_C = is_target_CT[:, -1]
    with np.errstate(divide='ignore', invalid='ignore'):
        cost_error_CT = np.log(prediction.cost_seconds_CT / table.costs_CT)
    has_cost_CT = is_target_CT & np.isfinite(cost_error_CT)
    cost_z_CT = cost_error_CT[has_cost_CT] / prediction.cost_log_sd_CT[has_cost_CT]
    return {
        'log_likelihood': float(np.mean(prediction.log_density_CT(table.values_CT)[is_target_CT])),
        'mse': float(np.mean((mean_CT - y_CT)[is_target_CT] ** 2)),
        'spearman': _spearman(mean_CT[is_final_C, -1], y_CT[is_final_C, -1]),
        'coverage_80': float(np.mean(np.abs(below_CT[is_target_CT] - 0.5) <= 0.4)),
        'cost_error': float(np.median(np.abs(cost_error_CT[has_cost_CT]))),
        'cost_coverage_80': float(np.mean(np.abs(cost_z_CT) <= 1.2816)),
    }


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the rank correlation; NaN where one side is all alike, as exact match is on a task that nobody learns."""
    if min(len(np.unique(x)), len(np.unique(y))) < 2:
        return float('nan')
    return float(spearmanr(x, y)[0])
