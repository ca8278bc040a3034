"""What a configuration did on the tasks of the past: a kernel estimate that no network has to learn.

    m_w(c, u) = sum_n k(c, c_n) y_n(u) / sum_n k(c, c_n)      over the runs n of task w, y centred within the task
    m(c, u) = sum_w r_w m_w(c, u) / (sum_w r_w + floor)       r_w in [0, 1): is there a run like c on task w?

Far from every run it is 0, the middle of a task's runs. Ranking by it alone is the mean rank of the field's baselines,
smoothed. The network gets it as part of an encoded configuration, from all tasks but the one that is asked about, and
bends it by task and context. (Without it a small network ranks the head of the field worse than the mean over tasks
does: what sets one good configuration apart from its neighbours is small beside four decades of learning rates.)

Reference: Nadaraya 1964; Watson 1964.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from metaft.metadataset import splits
from metaft.metadataset.tables import TaskTable
from metaft.surrogate import curves, transforms
from metaft.surrogate.encoding import Encoding

SIZE = curves.NUM_RESAMPLED + 2  # mean curve, spread between tasks, and how much there is
_BANDWIDTH = 0.5  # of encoded configurations; half of it to twice as much rank alike
_NEAR = 0.1  # kernel mass at which a task counts half
_FLOOR = 0.5  # tasks without an opinion


@dataclasses.dataclass(frozen=True)
class Memory:
    """All runs of the training tasks.

    Attributes:
      config_NE: encoded configurations, float32.
      curve_NU: transformed values at the surrogate's own budgets, less the median of the task's final values.
      table_N: int32, the task and metric of a run.
      metrics: of each table.
      datasets: of each table, so that a table can be left out with all that shares its dataset.
    """

    config_NE: np.ndarray
    curve_NU: np.ndarray
    table_N: np.ndarray
    metrics: tuple[str, ...]
    datasets: tuple[str, ...]

    @classmethod
    def fit(cls, tables: Sequence[TaskTable], encoding: Encoding) -> Self:
        """Reads the runs off tables; those without a single value are left out."""
        configs, values, table_of = [], [], []
        for index, table in enumerate(tables):
            y_CT = transforms.transform(table.values_CT, table.metric, table.reference_value)
            is_run_C = ~np.isnan(y_CT).all(axis=1)
            y_CU = curves.resample(curves.forward_fill(y_CT[is_run_C]), table.fractions_T)
            configs.append(encoding.configurations(table.configurations)[is_run_C])
            values.append(y_CU - np.median(y_CU[:, -1]) if len(y_CU) else y_CU)
            table_of.append(np.full(len(y_CU), index, np.int32))
        return cls(
            np.concatenate(configs).astype(np.float32),
            np.concatenate(values).astype(np.float32),
            np.concatenate(table_of),
            tuple(table.metric for table in tables),
            tuple(splits.dataset_of(table) for table in tables),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, for a checkpoint."""
        return {'config_NE': self.config_NE, 'curve_NU': self.curve_NU, 'table_N': self.table_N}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metrics: Sequence[str], datasets: Sequence[str]) -> Self:
        """Builds it from what `arrays` gave and the names."""
        return cls(arrays['config_NE'], arrays['curve_NU'], arrays['table_N'], tuple(metrics), tuple(datasets))

    def recall(self, config_CE: np.ndarray, metric: str, without: str | None = None) -> np.ndarray:
        """Returns what is known of configurations: m(c, u) at U budgets, its spread, ln(1 + tasks with one like it).

        Args:
          config_CE: encoded.
          metric: tables of another one say nothing.
          without: a dataset to leave out.

        Returns:
          float32 [C, SIZE].
        """
        counts = [m == metric and d != without for m, d in zip(self.metrics, self.datasets, strict=True)]
        used_N = np.isin(self.table_N, np.flatnonzero(counts))
        mine_NE, y_NU = self.config_NE[used_N], self.curve_NU[used_N]
        tables, table_N = np.unique(self.table_N[used_N], return_inverse=True)
        square_CN = (
            np.sum(config_CE**2, axis=1)[:, None] + np.sum(mine_NE**2, axis=1)[None, :] - 2.0 * config_CE @ mine_NE.T
        )
        kernel_CN = np.exp(-0.5 * np.maximum(square_CN, 0.0) / _BANDWIDTH**2)
        near_CW = np.zeros((len(config_CE), len(tables)))
        mean_CWU = np.zeros((len(config_CE), len(tables), y_NU.shape[1]))
        for w in range(len(tables)):
            part_CN = kernel_CN[:, table_N == w]
            mass_C = part_CN.sum(axis=1)
            near_CW[:, w] = mass_C / (mass_C + _NEAR)
            mean_CWU[:, w] = part_CN @ y_NU[table_N == w] / (mass_C[:, None] + 1e-9)
        total_C = near_CW.sum(axis=1)
        mean_CU = np.einsum('CW,CWU->CU', near_CW, mean_CWU) / (total_C + _FLOOR)[:, None]
        square_C = np.sum(near_CW * (mean_CWU[:, :, -1] - mean_CU[:, None, -1]) ** 2, axis=1) / (total_C + _FLOOR)
        return np.column_stack([mean_CU, np.sqrt(square_C), np.log1p(total_C)]).astype(np.float32)
