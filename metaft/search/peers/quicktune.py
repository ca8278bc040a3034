"""Quick-Tune with its encoder repaired: every level of a category reaches the network.

The method of `quicktunetool` otherwise (arXiv 2306.03828, and 2411.01195 for its use without refitting): a deep-kernel
GP learned on the training tasks predicts each run's next score; the run with the largest expected improvement over the
best score at its next fidelity, divided by its predicted relative cost, goes on by one grid point. Transfer only
(`quicktune`): the GP keeps conditioning on training tasks. Refit (`quicktune_refit`): at each decision some more AdamW
steps on what was observed, filled up with training points, and conditioning on both.

Deviations: 512 conditioning points (it: 4,096) and five steps a refit (it: up to fifty epochs, stopped early on the
points it fits), both for speed; costs by the kernel mean over training tasks, not by a second network.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Suggestion
from metaft.search.peers import ask_tell, deep_kernel
from metaft.search.peers.gaussian import expected_improvement
from metaft.surrogate.encoding import Encoding

_STEPS = 1500  # of meta-training
_BATCH = 128
_KNOWN = (512,)  # training points that the GP conditions on
_REFIT_STEPS = 5  # at each decision
_REFIT_BATCH = 64
_NUM_FIRST = 3  # runs begun at random
_BANDWIDTH = 0.5  # of encoded configurations, for the cost


@dataclasses.dataclass(frozen=True)
class Learned:
    """What the training tasks taught.

    Attributes:
      encoding: of configurations and meta-features.
      model: the deep-kernel GP.
      known: training points that it conditions on.
      config_NE: encoded configurations of all training runs.
      log_cost_N: of their full runs, less their task's median.
    """

    encoding: Encoding
    model: deep_kernel.DeepKernel
    known: deep_kernel.Points
    config_NE: np.ndarray
    log_cost_N: np.ndarray

    def costs(self, config_CE: np.ndarray) -> np.ndarray:
        """Returns the cost of each configuration relative to the most expensive one."""
        square_CN = np.sum((config_CE[:, None, :] - self.config_NE[None, :, :]) ** 2, axis=2)
        kernel_CN = np.exp(-0.5 * square_CN / _BANDWIDTH**2) + 1e-9
        log_C = kernel_CN @ self.log_cost_N / kernel_CN.sum(axis=1)
        return np.exp(log_C - log_C.max())


def learn(tables: Sequence[TaskTable], encoding: Encoding, seed: int, steps: int = _STEPS) -> Learned:
    """Meta-trains on all points of all training tasks."""
    parts = [deep_kernel.points_of(inputs(encoding, table), scores(table, table.values_CT)) for table in tables]
    points = deep_kernel.joined(*parts)
    sizes = deep_kernel.Sizes(points.x_NE.shape[1], points.curve_NT.shape[1], convolution=False)
    model = deep_kernel.DeepKernel.initialise(sizes, seed).fit(points, steps, _BATCH, seed)
    whole = [np.where(np.isnan(table.costs_CT[:, -1]), np.nan, np.log(table.costs_CT[:, -1])) for table in tables]
    log_cost_N = np.concatenate([cost_C - np.nanmedian(cost_C) for cost_C in whole])
    config_NE = np.concatenate([encoding.configurations(table.configurations) for table in tables])
    has_cost_N = np.isfinite(log_cost_N)
    known = deep_kernel.padded(points, _KNOWN, seed)
    return Learned(encoding, model, known, config_NE[has_cost_N], log_cost_N[has_cost_N])


def inputs(encoding: Encoding, table: TaskTable) -> np.ndarray:
    """Returns configurations with the task's meta-features, [C, E]."""
    config_CE = encoding.configurations(table.configurations)
    task_Z = encoding.task(table.meta_features, table.metric)
    return np.concatenate([config_CE, np.tile(task_Z, (len(config_CE), 1))], axis=1)


def scores(table: TaskTable, values_CT: np.ndarray) -> np.ndarray:
    """Returns 1 - loss in [0, 1], NaN where nothing was measured."""
    unit = ask_tell.unit(table)
    return np.array([[np.nan if np.isnan(v) else 1.0 - unit(v) for v in row] for row in values_CT])


@dataclasses.dataclass
class QuickTune:
    """The searcher; with `refit` it learns from the task too, and keeps what it learned."""

    learned: Learned
    table: TaskTable  # its rows, not their values
    order: tuple[int, ...]  # in which the first runs begin
    refit: bool
    seed: int
    refitted: deep_kernel.DeepKernel | None = None

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next grid point of the `width` best runs."""
        last_C = observations.last_grid_index_C
        fresh = [c for c in self.order[:_NUM_FIRST] if last_C[c] < 0][:width]
        if fresh:
            return [Suggestion(c, 0) for c in fresh]
        score_CT = scores(self.table, observations.values_CT)
        mean_C, sd_C = self._predict(score_CT)
        num_T = score_CT.shape[1]
        best_T = np.maximum.accumulate(np.max(np.nan_to_num(score_CT), axis=0))
        best_C = best_T[np.minimum(last_C + 1, num_T - 1)]
        gain_C = expected_improvement(-mean_C, sd_C, -best_C)
        gain_C = gain_C / self._cost_C
        gain_C = np.where(last_C < num_T - 1, gain_C, -np.inf)
        best = np.argsort(-gain_C, kind='stable')[:width]
        return [Suggestion(int(c), int(last_C[c]) + 1) for c in best if gain_C[c] > -np.inf]

    @functools.cached_property
    def _cost_C(self) -> np.ndarray:
        return self.learned.costs(self.learned.encoding.configurations(self.table.configurations))

    @functools.cached_property
    def _x_CE(self) -> np.ndarray:
        return inputs(self.learned.encoding, self.table)

    def _predict(self, score_CT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x_CE, model, known = self._x_CE, self.learned.model, self.learned.known
        if self.refit:
            mine = deep_kernel.points_of(x_CE, score_CT)
            num = len(known.score_N)
            both = deep_kernel.joined(mine, known)
            known = deep_kernel.Points(*(part[:num] for part in both))
            model = self.refitted or model
            model = self.refitted = model.fit(known, _REFIT_STEPS, _REFIT_BATCH, len(mine.score_N))
        return model.predict(known, x_CE, np.nan_to_num(score_CT))
