"""From task tables to a calibrated surrogate.

Training runs twice. First each member leaves a fold of the datasets out: on those tasks it shows how many steps help tasks that
are new, and how far the standard deviations are off. Then all members learn from all tasks, for that many steps, and take
these corrections over.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import deep_set, episodes, evaluation, training, transforms
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.episodes import EpisodeSettings
from metaft.surrogate.surrogate import Calibration, Surrogate
from metaft.surrogate.training import TrainingSettings

_CALIBRATION_POINTS = (0, 1, 4, 16, 64, 200)  # observed grid points of the states it is fitted on
_MAX_CELLS = 20000  # of those states; enough for three numbers
_PRIOR_SD = 1.0  # of the logarithm of a correction: keeps it near 1 where there is little to fit it on


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """The whole recipe."""

    num_members: int = 3
    training: TrainingSettings = TrainingSettings()
    episodes: EpisodeSettings = EpisodeSettings()


def learn(
    tables: Sequence[TaskTable],
    settings: EnsembleSettings,
    seed: int = 0,
    progress: Callable[[str, int, float], None] = lambda *_: None,
) -> Surrogate:
    """Trains an ensemble on all tables and calibrates it on tasks that members had left out.

    Args:
      tables: of at least `num_members` datasets; several metrics of a task are several tables.
      settings: the recipe.
      seed: of folds, parameters and episodes.
      progress: called with the phase ('folds' or 'members'), the step and the loss.

    Returns:
      The surrogate; its provenance holds the tasks, the settings, and the loss on left-out tasks by step.
    """
    fractions_T = tables[0].fractions_T
    encoding = fit_encoding(tables)
    architecture = deep_set.Architecture(encoding.num_hyperparameters, encoding.num_task_features)
    collated = episodes.collate(tables, encoding)
    weight_W = _weights(tables)

    folds = splits.folds(tables, settings.num_members, seed)
    left_out = [{id(table) for table in fold.test} for fold in folds]
    is_left_out_MW = np.array([[id(table) in names for table in tables] for names in left_out])
    validate = training.validator(architecture, collated, fractions_T, settings.training, is_left_out_MW * weight_W, seed)
    curve, kept = [], {}

    def look(step: int, loss: float, params: training.Params) -> None:
        curve.append((step, validate(params)))
        if curve[-1][1] <= min(value for _, value in curve):
            kept['params'] = jax.tree.map(np.asarray, params)
        progress('folds', step, loss)

    training.fit(architecture, collated, fractions_T, settings.training, settings.episodes, ~is_left_out_MW * weight_W, seed, look)
    best_step = min(curve, key=lambda point: point[1])[0]
    members = [Surrogate(architecture, encoding, jax.tree.map(lambda x, m=m: x[m : m + 1], kept['params']))
               for m in range(settings.num_members)]
    calibration = calibrate(members, [fold.test for fold in folds], seed)

    params = training.fit(
        architecture, collated, fractions_T, settings.training, settings.episodes, np.tile(weight_W, (settings.num_members, 1)),
        seed + 1, lambda step, loss, _: progress('members', step, loss), stop_after=best_step)
    provenance = {'tasks': sorted({f'{table.task} ({table.metric})' for table in tables}), 'seed': seed,
                  'settings': dataclasses.asdict(settings), 'best_step': best_step, 'left_out_loss': curve}
    return Surrogate(architecture, encoding, jax.tree.map(np.asarray, params), calibration, provenance)


def fit_encoding(tables: Sequence[TaskTable]) -> Encoding:
    """Reads the ranges of hyperparameters, meta-features and costs off tables."""
    rates = [transforms.log_rates(table.costs_CT, table.fractions_T, table.reference_seconds * table.max_examples)
             for table in tables]
    return Encoding.fit([c for table in tables for c in table.configurations],
                        [table.meta_features for table in tables], np.concatenate([rate.ravel() for rate in rates]))


def calibrate(members: Sequence[Surrogate], left_out: Sequence[Sequence[TaskTable]], seed: int) -> Calibration:
    """Fits the factors of the standard deviations by maximum likelihood on what each member had left out."""
    value_cells, cost_cells = [], []
    for member, tables in zip(members, left_out, strict=True):
        for w, table in enumerate(tables):
            for points in _CALIBRATION_POINTS:
                values_CT, costs_CT = evaluation.hide(table, points, seed + w)
                prediction = evaluation.ask(member, table, values_CT, costs_CT)
                is_target_CT = np.isnan(values_CT) & ~np.isnan(table.values_CT)
                own_CT = np.broadcast_to(~np.isnan(values_CT).all(axis=1, keepdims=True), values_CT.shape)
                num_runs = np.sum(own_CT[:, 0])
                factors = np.stack([np.ones_like(own_CT), own_CT, np.full(own_CT.shape, np.log1p(num_runs) / 4.0)], axis=-1)
                y_CT = prediction.transform(table.values_CT)
                mixture = [np.asarray(part)[is_target_CT] for part in prediction.mixture]
                value_cells.append((factors[is_target_CT], y_CT[is_target_CT], *mixture))
                log_mean_CT = np.log(prediction.cost_seconds_CT) - 0.5 * prediction.cost_log_sd_CT**2
                with np.errstate(divide='ignore', invalid='ignore'):
                    error_CT = np.log(table.costs_CT) - log_mean_CT
                has_cost_CT = is_target_CT & np.isfinite(error_CT)
                one = np.zeros((np.sum(has_cost_CT), 1))
                cost_cells.append((factors[has_cost_CT], error_CT[has_cost_CT], one, one, prediction.cost_log_sd_CT[has_cost_CT][:, None]))
    return Calibration(value=_fit_factors(value_cells, seed), cost=_fit_factors(cost_cells, seed))


def _fit_factors(cells: list[tuple[np.ndarray, ...]], seed: int) -> tuple[float, float, float]:
    factors, y, log_weight, mean, sd = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    chosen = np.random.default_rng(seed).permutation(len(y))[:_MAX_CELLS]
    factors, y, log_weight, mean, sd = (part[chosen].astype(np.float64) for part in (factors, y, log_weight, mean, sd))

    def loss(coefficients):
        scaled = sd * np.exp(factors @ coefficients)[:, None]
        log_density = logsumexp(log_weight - 0.5 * ((y[:, None] - mean) / scaled) ** 2 - np.log(scaled), axis=1)
        return -np.mean(log_density) + 0.5 * np.sum((coefficients / _PRIOR_SD) ** 2) / len(y)

    return tuple(map(float, minimize(loss, np.zeros(3), method='L-BFGS-B', bounds=[(-1.5, 1.5)] * 3).x))


def _weights(tables: Sequence[TaskTable]) -> np.ndarray:
    """Returns the share of episodes a table gets: equal for datasets, so that many bases of one do not drown the others."""
    datasets = [splits.dataset_of(table) for table in tables]
    return np.array([1.0 / datasets.count(name) for name in datasets])
