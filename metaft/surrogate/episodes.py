"""Training episodes: a task, some of its runs in the state a freeze-thaw search would leave them in, and questions.

All of it is drawn inside `jit` from tables that were padded once, so that an episode costs next to nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.surrogate import curves, transforms
from metaft.surrogate.encoding import Encoding


class Tables(NamedTuple):
    """All training tables, padded to one shape."""

    config_WCE: jax.Array
    y_WCT: jax.Array  # transformed values, the last one carried on where a run was not measured
    rate_WCT: jax.Array  # standardised log cost rates, likewise
    has_rate_WCT: jax.Array  # bool: a cost was measured here
    length_WC: jax.Array  # int32, measured grid points; 0: no such row
    task_WZ: jax.Array
    same_WCW: jax.Array  # int32, the row of another task with the same configuration, -1 if it has none


class Episode(NamedTuple):
    """One task with C of its runs; the first ones of them are asked about."""

    config_CE: jax.Array
    shown: curves.Curves  # what has been observed
    y_CT: jax.Array  # what comes
    rate_CT: jax.Array
    has_rate_CT: jax.Array
    measured_C: jax.Array  # int32, grid points that were ever measured
    task_Z: jax.Array


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """How episodes are drawn; every number is a share or a standard deviation unless it says otherwise."""

    num_runs: int = 128  # C, at most
    empty: float = 0.1  # episodes with nothing observed
    biased: float = 0.5  # episodes where good runs were advanced more
    mixup: float = 0.4  # episodes that blend two tasks
    warp: float = 0.2  # of log scale and shift of the values
    cost_shift: float = 0.3  # of the log cost rate, so that the machine is read off the context
    task_dropout: float = 0.3  # episodes without meta-features: with few tasks they identify the task
    task_noise: float = 0.2  # of standardised meta-features


def collate(tables: Sequence[TaskTable], encoding: Encoding) -> Tables:
    """Encodes, transforms and pads tables of one grid."""
    num_C = max(len(table.configurations) for table in tables)
    keys = [[repr(sorted(c.items(), key=str)) for c in table.configurations] for table in tables]
    rows = [{key: c for c, key in reversed(list(enumerate(column)))} for column in keys]
    padded = []
    for table, column in zip(tables, keys, strict=True):
        y_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
        rate_CT = transforms.log_rates(table.costs_CT, table.fractions_T, table.reference_seconds * table.max_examples)
        rate_CT = (rate_CT - encoding.cost_center) / encoding.cost_scale
        parts = (encoding.configurations(table.configurations), forward_fill(y_CT), forward_fill(rate_CT),
                 np.isfinite(rate_CT), lengths(y_CT),
                 np.array([[other.get(key, -1) for other in rows] for key in column], np.int32))
        extra = num_C - len(table.configurations)
        padded.append([np.pad(part, [(0, extra)] + [(0, 0)] * (part.ndim - 1)) for part in parts])
    config, y, rate, has_rate, length, same = (jnp.asarray(np.stack(parts)) for parts in zip(*padded, strict=True))
    task_WZ = jnp.asarray(np.stack([encoding.task(table.meta_features, table.metric) for table in tables]))
    return Tables(config, y, rate, has_rate, length, task_WZ, same)


def lengths(values_CT: np.ndarray) -> np.ndarray:
    """Returns one more than the index of each row's last number that is not NaN, 0 for none; int32."""
    seen_CT = ~np.isnan(values_CT)
    return np.where(seen_CT.any(axis=1), seen_CT.shape[1] - np.argmax(seen_CT[:, ::-1], axis=1), 0).astype(np.int32)


def forward_fill(values_CT: np.ndarray) -> np.ndarray:
    """Carries values on over NaN, and the first one back; rows of NaN become 0."""
    seen_CT = ~np.isnan(values_CT)
    index_CT = np.maximum.accumulate(np.where(seen_CT, np.arange(values_CT.shape[1])[None, :], -1), axis=1)
    first_C = np.argmax(seen_CT, axis=1)
    filled_CT = np.take_along_axis(values_CT, np.where(index_CT < 0, first_C[:, None], index_CT), axis=1)
    return np.where(seen_CT.any(axis=1)[:, None], filled_CT, 0.0).astype(np.float32)


def draw(key: jax.Array, tables: Tables, log_weight_W: jax.Array, settings: EpisodeSettings) -> Episode:
    """Draws one episode; tasks with log weight -inf are never used."""
    keys = jax.random.split(key, 8)
    num_C = min(settings.num_runs, tables.y_WCT.shape[1])
    w, other = jax.random.categorical(keys[0], log_weight_W, shape=(2,))
    row_C = jax.lax.top_k(jax.random.gumbel(keys[1], tables.length_WC.shape[1:])
                          + jnp.where(tables.length_WC[w] > 0, 0.0, -jnp.inf), num_C)[1]
    y_CT, rate_CT, measured_C = tables.y_WCT[w, row_C], tables.rate_WCT[w, row_C], tables.length_WC[w, row_C]

    same_C = tables.same_WCW[w, row_C, other]
    mix_key, share_key = jax.random.split(keys[2])
    is_mixed = jax.random.bernoulli(mix_key, settings.mixup) & (jnp.mean(same_C >= 0) > 0.5)
    share = jnp.where(is_mixed, jax.random.uniform(share_key, (), maxval=0.5), 0.0)
    blend = lambda mine, theirs: (1.0 - share) * mine + share * theirs  # noqa: E731
    y_CT = blend(y_CT, tables.y_WCT[other, same_C])
    rate_CT = blend(rate_CT, tables.rate_WCT[other, same_C])
    task_Z = blend(tables.task_WZ[w], tables.task_WZ[other])
    both_C = jnp.where(same_C >= 0, jnp.minimum(measured_C, tables.length_WC[other, same_C]), 0)
    measured_C = jnp.where(is_mixed, both_C, measured_C)

    length_C = observed_lengths(keys[3], y_CT[:, -1], measured_C, y_CT.shape[1], settings)
    has_context = (jnp.sum(length_C) > 0).astype(jnp.float32)
    log_scale, shift, cost_shift = (jax.random.normal(keys[4], (3,))
                                    * jnp.array([settings.warp, settings.warp, settings.cost_shift]))
    y_CT = jnp.exp(has_context * log_scale) * y_CT + has_context * shift
    rate_CT = rate_CT + has_context * cost_shift
    num_Z = task_Z.shape[0] - transforms.NUM_METRICS  # the metric is always told
    noise_Z = settings.task_noise * jax.random.normal(keys[5], (num_Z,))
    is_told = jax.random.bernoulli(keys[6], 1.0 - settings.task_dropout)
    task_Z = jnp.concatenate([jnp.where(is_told, task_Z[:num_Z] + noise_Z, 0.0), task_Z[num_Z:]])
    return Episode(tables.config_WCE[w, row_C], curves.Curves(y_CT, rate_CT, length_C), y_CT, rate_CT,
                   tables.has_rate_WCT[w, row_C], measured_C, task_Z)


def observed_lengths(key: jax.Array, y_C: jax.Array, measured_C: jax.Array, num_T: int, settings: EpisodeSettings,
                     num_points: jax.Array | None = None) -> jax.Array:
    """Draws how far each run was advanced: few or many runs, evenly or a few of them deeply, at random or the good ones.

    Args:
      key: randomness.
      y_C: final values; they only say which runs are good.
      measured_C: the most that can be shown of each run.
      num_T: grid points of a full run.
      settings: shares of the shapes.
      num_points: observed points in all; default none with probability `empty`, else log-uniform up to half of all.

    Returns:
      int32 [C], 0 ... measured.
    """
    keys = jax.random.split(key, 6)
    num_runs = jnp.maximum(jnp.sum(measured_C > 0), 1).astype(jnp.float32)
    if num_points is None:
        all_points = jnp.maximum(jnp.sum(measured_C), 2).astype(jnp.float32)
        drawn = jnp.exp(jax.random.uniform(keys[0], ()) * jnp.log(0.5 * all_points))
        num_points = jnp.where(jax.random.bernoulli(keys[1], settings.empty), 0.0, drawn)
    fewest = jnp.clip(num_points / num_T, 1.0, num_runs)
    most = jnp.clip(num_points, fewest, num_runs)
    num_started = fewest * (most / fewest) ** jax.random.uniform(keys[2], ())
    bias = jnp.where(jax.random.bernoulli(keys[3], settings.biased), 3.0, 0.0) * jax.random.uniform(keys[4], ())
    goodness_C = (jnp.mean(y_C) - y_C) / (jnp.std(y_C) + 1e-3)
    score_C = jax.random.gumbel(keys[5], (len(y_C),)) + bias * goodness_C
    score_C = jnp.where(measured_C > 0, score_C, -jnp.inf)
    rank_C = jnp.sum(score_C[None, :] > score_C[:, None], axis=1)
    is_started_C = (rank_C < jnp.round(num_started).astype(jnp.int32)) & (measured_C > 0) & (num_points > 0)
    depth_key, even_key = jax.random.split(keys[0])
    unevenness = 2.0 * jax.random.uniform(even_key, ())
    share_C = jax.nn.softmax(jnp.where(is_started_C, bias * goodness_C + unevenness
                                       * jax.random.gumbel(depth_key, (len(y_C),)), -jnp.inf))
    extra_C = jnp.round(jnp.maximum(num_points - num_started, 0.0) * jnp.nan_to_num(share_C)).astype(jnp.int32)
    return jnp.where(is_started_C, jnp.minimum(1 + extra_C, measured_C), 0)
