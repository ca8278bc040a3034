"""Training episodes: a task, some of its runs in the state a freeze-thaw search would leave them in, and questions.

All of it is drawn inside `jit` from tables that were padded once, so that an episode costs next to nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import curves, process, transforms
from metaft.surrogate.context import Task
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.memory import Memory, Recall
from metaft.surrogate.process import Runs

_NUM_WAVES = 16  # of a random function: a sample of a Gaussian process, nearly


class Tables(NamedTuple):
    """All training tables, padded to one shape."""

    runs: Runs  # each part with a first axis W; what is remembered leaves a table's own dataset out
    y_WCT: jax.Array  # transformed values, the last one carried on where a run was not measured
    rate_WCT: jax.Array  # standardised log cost rates, likewise
    has_rate_WCT: jax.Array  # bool: a cost was measured here
    length_WC: jax.Array  # int32, measured grid points; 0: no such row
    task: Task  # each part with a first axis W
    same_WCW: jax.Array  # int32, the row of another task with the same configuration, -1 if it has none


class Episode(NamedTuple):
    """One task with C of its runs; the first ones of them are asked about."""

    runs: Runs
    shown: curves.Curves  # what has been observed of them
    y_CT: jax.Array  # what comes
    rate_CT: jax.Array
    has_rate_CT: jax.Array
    measured_C: jax.Array  # int32, grid points that were ever measured
    task: Task


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """How episodes are drawn; every number is a share or a standard deviation unless it says otherwise."""

    num_runs: int = 128  # C, at most
    empty: float = 0.15  # episodes with nothing observed
    biased: float = 0.7  # episodes where good runs were advanced more
    remembered: float = 0.7  # of those, where the runs advanced are those that were good on other tasks
    mixup: float = 0.4  # episodes that blend two tasks
    min_shared: int = 8  # configurations that two tasks must share to be blended
    warp: float = 0.5  # of log scale and shift of the values
    bend: float = 0.35  # of a random smooth function of the configuration, in spreads of the final values
    cost_shift: float = 0.3  # of the log cost rate, so that the machine is read off the context
    task_dropout: float = 0.8  # episodes without meta-features: with few tasks they identify the task
    task_noise: float = 0.5  # of standardised meta-features


def unperturbed(settings: EpisodeSettings) -> EpisodeSettings:
    """Returns settings that draw the tasks as they are."""
    return dataclasses.replace(
        settings, mixup=0.0, warp=0.0, bend=0.0, cost_shift=0.0, task_dropout=0.0, task_noise=0.0
    )


def collate(tables: Sequence[TaskTable], encoding: Encoding, memory: Memory) -> Tables:
    """Encodes, transforms and pads tables of one grid; what is remembered of a table leaves its own dataset out."""
    num_C = max(len(table.configurations) for table in tables)
    keys = [[repr(sorted(c.items(), key=str)) for c in table.configurations] for table in tables]
    rows = [{key: c for c, key in reversed(list(enumerate(column)))} for column in keys]
    padded = []
    for table, column in zip(tables, keys, strict=True):
        y_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
        rate_CT = transforms.log_rates(table.costs_CT, table.fractions_T, table.reference_seconds * table.max_examples)
        rate_CT = (rate_CT - encoding.cost_center) / encoding.cost_scale
        config_CE = encoding.configurations(table.configurations)
        recall = memory.recall(config_CE, table.metric, without=splits.dataset_of(table))
        parts = (
            config_CE,
            *recall[:2],
            curves.forward_fill(y_CT),
            curves.forward_fill(rate_CT),
            np.isfinite(rate_CT),
            curves.lengths(y_CT),
            np.array([[other.get(key, -1) for other in rows] for key in column], np.int32),
        )
        extra = num_C - len(table.configurations)
        padded.append([np.pad(part, [(0, extra)] + [(0, 0)] * (part.ndim - 1)) for part in parts])
    config, curve, near, y, rate, has_rate, length, same = (
        jnp.asarray(np.stack(parts)) for parts in zip(*padded, strict=True)
    )
    features_WZ = jnp.asarray(np.stack([encoding.task(table.meta_features, table.metric) for table in tables]))
    examples_W, parameters_W = jnp.asarray(np.stack([encoding.sizes(table.meta_features) for table in tables])).T
    return Tables(
        Runs(config, Recall(curve, near)),
        y,
        rate,
        has_rate,
        length,
        Task(features_WZ, examples_W, parameters_W),
        same,
    )


def draw(key: jax.Array, tables: Tables, log_weight_W: jax.Array, settings: EpisodeSettings) -> Episode:
    """Draws one episode; tasks with log weight -inf are never used."""
    task_key, row_key, state_key, change_key = jax.random.split(key, 4)
    num_all, num_T = tables.y_WCT.shape[1:]
    w, other, share = _choose_tasks(task_key, tables, log_weight_W, settings)
    is_row_C = jnp.where(tables.length_WC[w] > 0, 0.0, -jnp.inf)
    row_C = jax.lax.top_k(jax.random.gumbel(row_key, (num_all,)) + is_row_C, min(settings.num_runs, num_all))[1]

    same_C = tables.same_WCW[w, row_C, other]
    share = jnp.where(jnp.sum(same_C >= 0) >= settings.min_shared, share, 0.0)
    blend = lambda mine, theirs: (1.0 - share) * mine + share * theirs
    y_CT = blend(tables.y_WCT[w, row_C], tables.y_WCT[other, same_C])
    rate_CT = blend(tables.rate_WCT[w, row_C], tables.rate_WCT[other, same_C])
    task = jax.tree.map(lambda x_W: blend(x_W[w], x_W[other]), tables.task)
    measured_C = tables.length_WC[w, row_C]
    both_C = jnp.where(same_C >= 0, jnp.minimum(measured_C, tables.length_WC[other, same_C]), 0)
    measured_C = jnp.where(share > 0.0, both_C, measured_C)

    runs = jax.tree.map(lambda x_WC: x_WC[w, row_C], tables.runs)
    state_key, by_key = jax.random.split(state_key)
    is_remembered = jax.random.uniform(by_key) < settings.remembered
    promising_C = jnp.where(is_remembered, process.prior_mean(runs.recall)[:, -1], y_CT[:, -1])
    is_seen_CT = observed(state_key, promising_C, measured_C, num_T, settings)
    y_CT, rate_CT, features_Z = _perturb(
        change_key, runs.config_CE, y_CT, rate_CT, task.features_Z, jnp.any(is_seen_CT), settings
    )
    task = task._replace(features_Z=features_Z)
    shown = curves.Curves(y_CT, rate_CT, is_seen_CT)
    return Episode(runs, shown, y_CT, rate_CT, tables.has_rate_WCT[w, row_C], measured_C, task)


def _choose_tasks(key, tables: Tables, log_weight_W: jax.Array, settings: EpisodeSettings):
    """Draws a task, another one of the same metric, and the share of the other one, often 0."""
    task_key, share_key = jax.random.split(key)
    noise_SW = jax.random.gumbel(task_key, (2, len(log_weight_W)))
    w = jnp.argmax(log_weight_W + noise_SW[0])
    metric_W = jnp.argmax(tables.task.features_Z[:, -transforms.NUM_METRICS :], axis=1)
    other = jnp.argmax(jnp.where(metric_W == metric_W[w], log_weight_W, -jnp.inf) + noise_SW[1])
    uniform_S = jax.random.uniform(share_key, (2,))
    return w, other, jnp.where(uniform_S[0] < settings.mixup, 0.5 * uniform_S[1], 0.0)


def _perturb(
    key: jax.Array,
    config_CE: jax.Array,
    y_CT: jax.Array,
    rate_CT: jax.Array,
    task_Z: jax.Array,
    has_context: jax.Array,
    settings: EpisodeSettings,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes a task like none of the tables, so that what is observed is worth more than what is remembered.

    Without a context values and costs stay as they are: there the tables are all there is to know.
    """
    scalar_key, wave_key, task_key, told_key = jax.random.split(key, 4)
    drawn = jax.random.normal(scalar_key, (4,)) * jnp.array(
        [settings.warp, settings.warp, settings.bend, settings.cost_shift]
    )
    log_scale, shift, bend, cost_shift = jnp.where(has_context, drawn, 0.0)
    waves_FE = jax.random.normal(wave_key, (config_CE.shape[1] + 2, _NUM_WAVES))
    phase_CF = config_CE @ waves_FE[2:] + 2.0 * jnp.pi * waves_FE[:1]
    smooth_C = jnp.cos(phase_CF) @ waves_FE[1] * (2.0 / _NUM_WAVES) ** 0.5
    progress_T = jnp.linspace(0.0, 1.0, y_CT.shape[1])
    bend_CT = (bend * jnp.std(y_CT[:, -1])) * smooth_C[:, None] * progress_T[None, :]
    y_CT = jnp.exp(log_scale) * y_CT + shift + bend_CT

    num_Z = len(task_Z) - transforms.NUM_METRICS  # the metric is always told
    noise_Z = settings.task_noise * jax.random.normal(task_key, (num_Z,))
    is_told = jax.random.uniform(told_key) >= settings.task_dropout
    task_Z = jnp.concatenate([jnp.where(is_told, task_Z[:num_Z] + noise_Z, 0.0), task_Z[num_Z:]])
    return y_CT, rate_CT + cost_shift, task_Z


def observed(
    key: jax.Array,
    y_C: jax.Array,
    measured_C: jax.Array,
    num_T: int,
    settings: EpisodeSettings,
    num_points: jax.Array | None = None,
) -> jax.Array:
    """Draws what a search has seen: few or many runs, evenly or a few of them deeply, at random or the good ones.

    In half of the states every grid point of an advanced run was measured, in the others some; its last one always.

    Args:
      key: randomness.
      y_C: final values; they only say which runs are good.
      measured_C: the most that can be shown of each run.
      num_T: grid points of a full run.
      settings: shares of the shapes.
      num_points: grid points that runs advanced over, in all; default none with probability `empty`, else log-uniform
        up to half of all.

    Returns:
      bool [C, T].
    """
    scalar_key, run_key, gap_key = jax.random.split(key, 3)
    amount, empty, breadth, biased, bias, unevenness, gappy, kept = jax.random.uniform(scalar_key, (8,))
    order_C, depth_C = jax.random.gumbel(run_key, (2, len(y_C)))
    num_runs = jnp.maximum(jnp.sum(measured_C > 0), 1).astype(jnp.float32)
    if num_points is None:
        all_points = jnp.maximum(jnp.sum(measured_C), 2).astype(jnp.float32)
        num_points = jnp.where(empty < settings.empty, 0.0, (0.5 * all_points) ** amount)

    # Between as few runs as can hold the points and as many as there are points.
    fewest = jnp.clip(num_points / num_T, 1.0, num_runs)
    most = jnp.clip(num_points, fewest, num_runs)
    num_started = jnp.round(fewest * (most / fewest) ** breadth)
    bias = jnp.where(biased < settings.biased, 3.0 * bias, 0.0)
    goodness_C = bias * (jnp.mean(y_C) - y_C) / (jnp.std(y_C) + 1e-3)
    score_C = jnp.where(measured_C > 0, order_C + goodness_C, -jnp.inf)
    rank_C = jnp.sum(score_C[None, :] > score_C[:, None], axis=1)
    is_started_C = (rank_C < num_started.astype(jnp.int32)) & (measured_C > 0) & (num_points > 0)

    weight_C = jnp.where(is_started_C, jnp.exp(jnp.clip(goodness_C + 2.0 * unevenness * depth_C, -20.0, 20.0)), 0.0)
    share_C = weight_C / jnp.maximum(jnp.sum(weight_C), 1e-9)
    extra_C = jnp.round(jnp.maximum(num_points - num_started, 0.0) * share_C).astype(jnp.int32)
    length_C = jnp.where(is_started_C, jnp.minimum(1 + extra_C, measured_C), 0)

    is_kept_CT = jax.random.uniform(gap_key, (len(y_C), num_T)) < jnp.where(gappy < 0.5, 1.0, kept)
    behind_CT = length_C[:, None] - 1 - jnp.arange(num_T)[None, :]
    return ((behind_CT > 0) & is_kept_CT) | (behind_CT == 0)
