"""The last value is the final one: the simplest model of a curve, with its error learned on other tasks.

y_c(s) ~ N(y_c(t), r(t, s)^2)   of a run last seen at t;  r: root mean square of y(s) - y(t) over other tasks
y_c(s) ~ N(m(s), d(s)^2)        of a run not seen: mean and spread over other tasks, m moved by what was seen here
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.peers.gaussian import transform, transformed
from metaft.surrogate import curves
from metaft.surrogate.prediction import Prediction

_PRIOR_SD = 0.3  # in the surrogate's space, where there is no other task
_LEVEL_RUNS = 1.0  # runs that the other tasks' level counts for


@dataclasses.dataclass(frozen=True)
class LastValue:
    """What other tasks say of it."""

    change_TT: np.ndarray  # r(t, s)
    mean_T: np.ndarray
    sd_T: np.ndarray

    @classmethod
    def fit(cls, tables: Sequence[TaskTable], num_grid_points: int) -> 'LastValue':
        """Reads the changes off other tasks; without any, a constant."""
        if not tables:
            change_TT = _PRIOR_SD * (1.0 - np.eye(num_grid_points))
            return cls(change_TT, np.zeros(num_grid_points), np.full(num_grid_points, _PRIOR_SD))
        y_NT = np.concatenate([transform(table, table.values_CT) for table in tables])
        change_TT = np.sqrt(np.nanmean((y_NT[:, None, :] - y_NT[:, :, None]) ** 2, axis=0))
        return cls(change_TT, np.nanmean(y_NT, axis=0), np.nanstd(y_NT, axis=0))

    def predict(self, table: TaskTable, values_CT: np.ndarray, costs_CT: np.ndarray) -> Prediction:
        """Predicts all rows of a task from what was observed of it."""
        y_CT = transform(table, values_CT)
        last_C = curves.lengths(y_CT) - 1
        seen = np.flatnonzero(last_C >= 0)
        last_y = y_CT[seen, last_C[seen]]
        level = np.sum(last_y - self.mean_T[last_C[seen]]) / (len(seen) + _LEVEL_RUNS)
        mean_CT = np.tile(self.mean_T + level, (len(y_CT), 1))
        sd_CT = np.tile(self.sd_T, (len(y_CT), 1))
        mean_CT[seen], sd_CT[seen] = last_y[:, None], self.change_TT[last_C[seen]]
        return transformed(table, mean_CT, sd_CT, values_CT, costs_CT)
