"""From task tables to a calibrated surrogate.

Training runs twice. First each member leaves a fold of the datasets out: on those tasks it shows how many steps help
tasks that are new, how far the standard deviations are off, and how much the regression (regression.py) knows beside
it. Then all members learn from all tasks, for that many steps, and take these corrections over.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import episodes, evaluation, prior, process, regression, regression_fit, training, transforms
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.episodes import EpisodeSettings
from metaft.surrogate.memory import Memory
from metaft.surrogate.network import Architecture
from metaft.surrogate.surrogate import Calibration, Surrogate, factors
from metaft.surrogate.training import TrainingSettings

_CALIBRATION_POINTS = (0, 1, 4, 16, 64, 200)  # observed grid points of the states it is fitted on
_MAX_CELLS = 20_000  # of those states; enough for a dozen numbers
_PRIOR_SD = 1.0  # of the logarithm of a correction: one cell that says 1


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """The whole recipe."""

    num_members: int = 3
    architecture: str = 'deep_set'  # one of `architectures.ARCHITECTURES`
    head: str = 'anchored'  # one of `heads.HEADS`
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
      tables: of at least `num_members` datasets and of one grid; several metrics of a task are several tables.
      settings: the recipe.
      seed: of folds, parameters and episodes.
      progress: called with the phase ('folds', 'regression' once a metric, 'members'), the step and the loss.

    Returns:
      The surrogate; its provenance holds the tasks, the settings, and the loss on left-out tasks by step.
    """
    num_M = settings.num_members
    encoding = fit_encoding(tables)
    memory = Memory.fit(tables, encoding)
    architecture = Architecture(
        encoding.num_hyperparameters + process.SIZE,
        encoding.num_task_features,
        name=settings.architecture,
        head=settings.head,
        unread=encoding.size_places if settings.head in ('law', 'law_alone') else (),
    )
    collated = episodes.collate(tables, encoding, memory)
    weight_W = _weights(tables)
    fractions = tuple(map(float, tables[0].fractions_T))
    recipe = training.Recipe(architecture, fractions, settings.training, settings.episodes)

    folds = splits.folds(tables, num_M, seed)
    is_left_out_MW = np.array([[any(table is other for other in fold.test) for table in tables] for fold in folds])
    kernel = prior.fit(collated, tables[0].fractions_T, np.log(weight_W), seed)
    validate = training.validator(recipe, kernel, collated, is_left_out_MW * weight_W, seed)
    left_out_loss: list[tuple[int, float]] = []
    best: dict[str, training.Params] = {}

    def look(step: int, loss: float, params: training.Params) -> None:
        left_out_loss.append((step, validate(params)))
        if left_out_loss[-1][1] <= min(value for _, value in left_out_loss):
            best['params'] = jax.tree.map(np.asarray, params)
        progress('folds', step, loss)

    training.fit(recipe, kernel, collated, ~is_left_out_MW * weight_W, seed, look)
    regressions = regression_fit.fit(
        tables, weight_W, encoding, memory, seed, lambda step, loss: progress('regression', step, loss)
    )
    alone = lambda m: jax.tree.map(lambda x: x[m : m + 1], best['params'])
    members = [
        Surrogate(architecture, encoding, memory, kernel, alone(m), regressions=regressions) for m in range(num_M)
    ]
    calibration = calibrate(members, [fold.test for fold in folds], seed)

    best_step = min(left_out_loss, key=lambda point: point[1])[0]
    report = lambda step, loss, _: progress('members', step, loss)
    params = training.fit(
        recipe, kernel, collated, np.tile(weight_W, (num_M, 1)), seed + 1, report, stop_after=best_step
    )
    provenance = {
        'tasks': sorted(f'{table.task} ({table.metric})' for table in tables),
        'seed': seed,
        'settings': dataclasses.asdict(settings),
        'best_step': best_step,
        'left_out_loss': left_out_loss,
        'proven': proven(tables),
    }
    params = jax.tree.map(np.asarray, params)
    return Surrogate(architecture, encoding, memory, kernel, params, calibration, provenance, regressions)


def proven(tables: Sequence[TaskTable], num_per_table: int = 2) -> list[dict]:
    """Returns the configurations that were among the best of some task, each once: worth a try on the next one.

    A surrogate of few tasks tells configurations that were run on them apart better than new ones.
    """
    found: dict[tuple, dict] = {}
    for table in tables:
        best_C = np.min(np.where(np.isfinite(table.values_CT), table.values_CT, np.inf), axis=1)
        for c in np.argsort(best_C, kind='stable')[:num_per_table]:
            configuration = dict(table.configurations[c])
            found[tuple(sorted(configuration.items(), key=lambda item: item[0]))] = configuration
    return list(found.values())


def fit_encoding(tables: Sequence[TaskTable]) -> Encoding:
    """Reads the ranges of hyperparameters, meta-features and costs off tables."""
    rates = [
        transforms.log_rates(table.costs_CT, table.fractions_T, table.reference_seconds * table.max_examples)
        for table in tables
    ]
    return Encoding.fit(
        [configuration for table in tables for configuration in table.configurations],
        [table.meta_features for table in tables],
        np.concatenate([rate_CT.ravel() for rate_CT in rates]),
    )


def calibrate(members: Sequence[Surrogate], left_out: Sequence[Sequence[TaskTable]], seed: int) -> Calibration:
    """Fits the factors of the standard deviations, and what the regression has to say, by maximum likelihood.

    It is that of what each member had left out.
    """
    states = [
        _cells(member, table, num_points, seed + w)
        for member, tables in zip(members, left_out, strict=True)
        for w, table in enumerate(tables)
        for num_points in _CALIBRATION_POINTS
    ]
    values, costs = zip(*states, strict=True)
    value, regressed, say = _fit_factors(values, seed)
    return Calibration(value, _fit_factors(costs, seed)[0], regressed, say)


class _Cells(NamedTuple):
    """Unseen values and what was predicted of them, a mixture of G Gaussians each."""

    factors_NF: np.ndarray  # what the coefficients of a `Calibration` weigh
    y_N: np.ndarray
    log_weight_NG: np.ndarray
    mean_NG: np.ndarray
    sd_NG: np.ndarray  # of a component that is not there 1, with a weight of 0
    is_regressed_N: np.ndarray  # bool: the last components are the regression's, and have half of the weight


def _cells(member: Surrogate, table: TaskTable, num_points: int, seed: int) -> tuple[_Cells, _Cells]:
    """Returns the unseen cells of a state of a search, for value and log cost."""
    values_CT, costs_CT = evaluation.hide(table, num_points, seed)
    prediction = evaluation.asking(member, table)(values_CT, costs_CT)
    is_target_CT = np.isnan(values_CT) & ~np.isnan(table.values_CT)
    is_begun_C = ~np.isnan(values_CT).all(axis=1)
    factors_CTF = np.repeat(np.asarray(factors(is_begun_C, is_begun_C.sum()))[:, None], values_CT.shape[1], axis=1)
    y_CT = prediction.transform(table.values_CT)
    parts = [np.asarray(part)[is_target_CT] for part in prediction.mixture]
    is_regressed = table.metric in member.regressions and bool(is_begun_C.any())
    if not is_regressed:
        absent = [(0, 0), (0, regression.NUM_COMPONENTS)]
        parts = [np.pad(x, absent, constant_values=v) for x, v in zip(parts, (-np.inf, 0.0, 1.0), strict=True)]

    with np.errstate(divide='ignore', invalid='ignore'):
        log_cost_CT = np.log(table.costs_CT)
    has_cost_CT = is_target_CT & np.isfinite(log_cost_CT)
    log_sd = prediction.cost_log_sd_CT[has_cost_CT]
    log_mean = np.log(prediction.cost_seconds_CT[has_cost_CT])
    gaussian = (np.zeros((len(log_sd), 1)), log_mean[:, None], log_sd[:, None])
    log_weight, mean, sd = parts
    is_regressed_N = np.full(is_target_CT.sum(), is_regressed)
    return (
        _Cells(factors_CTF[is_target_CT], y_CT[is_target_CT], log_weight, mean, sd, is_regressed_N),
        _Cells(factors_CTF[has_cost_CT], log_cost_CT[has_cost_CT], *gaussian, np.zeros(len(log_sd), bool)),
    )


def _fit_factors(cells: Sequence[_Cells], seed: int) -> tuple[tuple[float, float, float], ...]:
    """Returns the coefficients for the networks' deviations, for the regression's, and for its say."""
    parts = [np.concatenate(part) for part in zip(*cells, strict=True)]
    chosen = np.random.default_rng(seed).permutation(len(parts[0]))[:_MAX_CELLS]
    some = _Cells(*(part[chosen] for part in parts))
    has_regression, num_G = bool(some.is_regressed_N.any()), some.mean_NG.shape[1]
    is_its_G = (np.arange(num_G) >= num_G - regression.NUM_COMPONENTS) & has_regression
    num = 9 if has_regression else 3  # costs have none
    whole = lambda x: np.pad(x, (0, 9 - num)).reshape(3, 3)

    def loss(coefficients: np.ndarray) -> float:
        of_networks, of_regression, logit = (some.factors_NF @ part for part in whole(coefficients))
        log_sd_NG = np.log(some.sd_NG) + np.where(is_its_G, of_regression[:, None], of_networks[:, None])
        log_say_NG = -np.logaddexp(0.0, np.where(is_its_G, -logit[:, None], logit[:, None])) + np.log(2.0)
        log_weight_NG = some.log_weight_NG + np.where(some.is_regressed_N[:, None], log_say_NG, 0.0)
        z_NG = (some.y_N[:, None] - some.mean_NG) * np.exp(-log_sd_NG)
        log_density_N = logsumexp(log_weight_NG - 0.5 * z_NG**2 - log_sd_NG, axis=1)
        prior = -0.5 * np.sum((coefficients / _PRIOR_SD) ** 2)
        return -(np.sum(log_density_N) + prior) / len(z_NG)

    bounds = ([(-1.5, 1.5)] * 6 + [(-4.0, 4.0)] * 3)[:num]
    value, regressed, say = whole(minimize(loss, np.zeros(num), method='L-BFGS-B', bounds=bounds).x).tolist()
    return tuple(value), tuple(regressed), tuple(say)


def _weights(tables: Sequence[TaskTable]) -> np.ndarray:
    """Returns how often a table is drawn: all datasets alike, so that many bases of one do not drown the others."""
    datasets = [splits.dataset_of(table) for table in tables]
    return np.array([1.0 / datasets.count(name) for name in datasets])
