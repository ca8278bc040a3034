"""What a configuration did on the tasks of the past: a kernel estimate that no network has to learn.

    m_w(c, u) = sum_n k(c, c_n) y_n(u) / sum_n k(c, c_n)      over the runs n of task w, y centred within the task
    r_w(c) = sum_n k(c, c_n) / (sum_n k(c, c_n) + near)       in [0, 1): is there a run like c on task w?
    k(c, c_n) = exp(-|c - c_n|^2 / 2 h^2) + 20 [c = c_n]

So a run of the very same configuration outweighs its neighbours, and where there is none they speak. (Without the
second part what 500 configurations did on 25 other tasks was smeared: the final value of a run not begun was
predicted with up to 1.3 times the error. docs/results.md)

How far tasks are apart, D(v, w)^2, the mean squared difference of their runs less that of levels, is told by their
meta-features z in part:

    D(v, w)^2 = c + sum_z a_z (z_v - z_w)^2,    a_z >= 0

by least squares over all pairs of known tasks; where meta-features say nothing (or there are none) a is 0.

process.py makes of them what a task's observations say about its other runs. (Without it a small network ranks the head
of the field worse than the mean over tasks does: what sets one good configuration apart from its neighbours is small
beside four decades of learning rates.)

Reference: Nadaraya 1964; Watson 1964.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import nnls

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import curves, transforms
from metaft.surrogate.encoding import Encoding

Array = Any  # of NumPy or of JAX

_BANDWIDTH = 0.5  # of encoded configurations; half of it to twice as much rank alike
_SAME = 20.0  # neighbours that a run of the very same configuration counts for; 5 to 100 are alike
_ROUNDING = 1e-4  # of a squared distance
_NEAR = 0.1  # kernel mass at which a task counts half
_RIDGE = 0.01  # of a_z, each in units of what its meta-feature is apart on average
_ARRAYS = ('config_NE', 'fine_NF', 'table_N', 'task_VZ', 'level_V')


class Recall(NamedTuple):
    """What each of V tables remembers of C configurations; arrays of NumPy or JAX, maybe with more axes in front.

    Networks read the first two parts alone, see `for_networks`.
    """

    curve_CVU: Array  # m_w(c, u) at the surrogate's own budgets
    near_CV: Array  # r_w: in [0, 1), is there a run like c in the table?
    level_V: Array | None = None  # l_w: how high the values of a table are; the regression's alone, as what follows
    fine_CVF: Array | None = None  # m_w at the fine budgets

    def for_networks(self) -> 'Recall':
        """Returns it without what they do not read."""
        return Recall(self.curve_CVU, self.near_CV)


@dataclasses.dataclass(frozen=True)
class Memory:
    """All runs of the training tasks.

    Attributes:
      config_NE: encoded configurations, float32.
      fine_NF: transformed values at the fine budgets (curves.py), less the median of the task's final values.
      table_N: int32, the task and metric of a run.
      task_VZ: encoded meta-features of each table, float32.
      level_V: median of each table's final values, transformed, float32; what `fine_NF` is less.
      metrics: of each table.
      datasets: of each table, so that a table can be left out with all that shares its dataset.
    """

    config_NE: np.ndarray
    fine_NF: np.ndarray
    table_N: np.ndarray
    task_VZ: np.ndarray
    level_V: np.ndarray
    metrics: tuple[str, ...]
    datasets: tuple[str, ...]

    @classmethod
    def fit(cls, tables: Sequence[TaskTable], encoding: Encoding) -> Self:
        """Reads the runs off tables; those without a single value are left out."""
        configs, values, table_of, levels = [], [], [], []
        for index, table in enumerate(tables):
            y_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
            is_run_C = ~np.isnan(y_CT).all(axis=1)
            y_CF = curves.resample(curves.forward_fill(y_CT[is_run_C]), table.fractions_T, curves.FINE_LOG_BUDGETS)
            configs.append(encoding.configurations(table.configurations)[is_run_C])
            levels.append(np.median(y_CF[:, -1]) if len(y_CF) else 0.0)
            values.append(y_CF - levels[-1])
            table_of.append(np.full(len(y_CF), index, np.int32))
        return cls(
            np.concatenate(configs).astype(np.float32),
            np.concatenate(values).astype(np.float32),
            np.concatenate(table_of),
            np.stack([encoding.task(table.meta_features, table.metric) for table in tables]),
            np.array(levels, np.float32),
            tuple(table.metric for table in tables),
            tuple(splits.dataset_of(table) for table in tables),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, for a checkpoint."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metrics: Sequence[str], datasets: Sequence[str]) -> Self:
        """Builds it from what `arrays` gave and the names."""
        return cls(**{name: arrays[name] for name in _ARRAYS}, metrics=tuple(metrics), datasets=tuple(datasets))

    @property
    def curve_NU(self) -> np.ndarray:
        """`fine_NF` at the surrogate's own budgets."""
        return self.fine_NF[:, :: curves.FINER]

    def recall(self, config_CE: np.ndarray, metric: str, without: str | None = None) -> Recall:
        """Returns what the tables remember of configurations, with as many tables for each metric.

        Args:
          config_CE: encoded.
          metric: tables of another one say nothing.
          without: a dataset to leave out.
        """
        tables = self.of_metric(metric)
        num_V = max(self.metrics.count(m) for m in self.metrics)
        fine_CVF = np.zeros((len(config_CE), num_V, self.fine_NF.shape[1]), np.float32)
        near_CV, level_V = np.zeros((len(config_CE), num_V), np.float32), np.zeros(num_V, np.float32)
        for v, w in enumerate(tables):
            if self.datasets[w] == without:
                continue
            is_its_N = self.table_N == w
            mine_NE = self.config_NE[is_its_N]
            square_CN = (
                np.sum(config_CE**2, axis=1)[:, None]
                + np.sum(mine_NE**2, axis=1)[None, :]
                - 2.0 * config_CE @ mine_NE.T
            )
            kernel_CN = np.exp(-0.5 * np.maximum(square_CN, 0.0) / _BANDWIDTH**2) + _SAME * (square_CN < _ROUNDING)
            mass_C = kernel_CN.sum(axis=1)
            near_CV[:, v] = mass_C / (mass_C + _NEAR)
            fine_CVF[:, v] = kernel_CN @ self.fine_NF[is_its_N] / (mass_C[:, None] + 1e-9)
            level_V[v] = self.level_V[w]
        return Recall(fine_CVF[:, :, :: curves.FINER], near_CV, level_V, fine_CVF)

    @functools.cached_property
    def unlikeness(self) -> dict[str, np.ndarray]:
        """How far a task is from the one that is most like it, for each metric, float32 [U], by budget.

        The median over the tables, each compared with those of other datasets. Metrics of a single dataset are not in
        it.
        """
        found = {}
        for metric, apart_VVU in self._apart.items():
            nearest_V = np.argmin(np.nan_to_num(apart_VVU[:, :, -1], nan=np.inf), axis=1)
            square_VU = apart_VVU[np.arange(len(nearest_V)), nearest_V]
            found[metric] = np.median(np.sqrt(square_VU), axis=0).astype(np.float32)
        return found

    def expected_apart(self, task_Z: np.ndarray, metric: str, among: Sequence[int]) -> np.ndarray:
        """How far final values of a task are from those of known ones, D^2 - c, by meta-features alone; [len(among)].

        Args:
          task_Z: its encoded meta-features.
          metric: of the tables.
          among: places of tables in the order of `recall`; the others are not learned from either.
        """
        if metric not in self._apart:
            return np.zeros(len(among))
        task_AZ = self.task_VZ[self.of_metric(metric)][list(among)]
        square_AA = self._apart[metric][np.ix_(among, among)][:, :, -1]
        pairs = np.nonzero(np.isfinite(square_AA))
        difference_PZ = (task_AZ[pairs[0]] - task_AZ[pairs[1]]) ** 2
        scale_Z = np.mean(difference_PZ, axis=0) if len(difference_PZ) else np.zeros(len(task_Z))
        told = np.flatnonzero(scale_Z > 0)
        if not len(told):
            return np.zeros(len(among))
        ridge = np.sqrt(_RIDGE * len(difference_PZ)) * np.eye(len(told), len(told) + 1)
        scaled = np.column_stack([difference_PZ[:, told] / scale_Z[told], np.ones(len(difference_PZ))])
        weights, _ = nnls(np.concatenate([scaled, ridge]), np.concatenate([square_AA[pairs], np.zeros(len(told))]))
        return (task_AZ - task_Z)[:, told] ** 2 @ (weights[:-1] / scale_Z[told])

    @functools.cached_property
    def _apart(self) -> dict[str, np.ndarray]:
        """D^2 for each metric of several datasets, float32 [V, V, U], by budget; NaN within a dataset."""
        found = {}
        for metric in dict.fromkeys(self.metrics):
            tables = self.of_metric(metric)
            if len({self.datasets[w] for w in tables}) > 1:
                found[metric] = np.stack([self._square(w, metric)[: len(tables)] for w in tables])
        return found

    def _square(self, w: int, metric: str) -> np.ndarray:
        """Returns the mean squared differences of table w's runs from those of others, less that of levels, [V, U]."""
        is_its_N = self.table_N == w
        recall = self.recall(self.config_NE[is_its_N], metric, self.datasets[w])
        near_CV1 = recall.near_CV[:, :, None]
        mean_CU = np.sum(near_CV1 * recall.curve_CVU, axis=1) / (np.sum(near_CV1, axis=1) + 1e-9)
        # Where the table has no such run, the mean over tables, as in search/task_mixture.py.
        expected_CVU = mean_CU[:, None] + near_CV1 * (recall.curve_CVU - mean_CU[:, None])
        error_CVU = self.curve_NU[is_its_N][:, None] - expected_CVU
        error_CVU = error_CVU - np.median(error_CVU[:, :, -1], axis=0)[None, :, None]
        is_known_V = recall.near_CV.any(axis=0)
        return np.where(is_known_V[:, None], np.mean(error_CVU**2, axis=0), np.nan).astype(np.float32)

    def datasets_of(self, metric: str) -> list[str]:
        """Returns the datasets of the tables of a metric, in the order of `recall`."""
        return [self.datasets[w] for w in self.of_metric(metric)]

    def of_metric(self, metric: str) -> list[int]:
        """Returns the tables of a metric, in the order in which `recall` gives them."""
        return [w for w, m in enumerate(self.metrics) if m == metric]
