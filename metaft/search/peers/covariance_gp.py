"""A Gaussian process whose covariance over configurations and budgets is the empirical one of the training tasks.

    y(c, t) = m(c, t) + sum_w a_w (y_w(c, t) - m(c, t)) / sqrt(W) + r(c, t),      a_w ~ N(0, 1)

so a new task is the mean of the others plus a combination of how each of them differs from it; r is a Gaussian process
of each run for itself, along log budget, that the tasks do not share, and white noise. It has rank W, so it is Bayesian
linear regression. Configurations must be shared; one that no training task has keeps the mean of all, with its spread.
Values are those of the surrogate's space (logarithms, logits). The variances of r and of the noise are fitted by the
likelihood of what is observed each time it is asked, from a grid around what the training tasks say.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from metaft.metadataset.published.benchmarks import key
from metaft.metadataset.tables import TaskTable
from metaft.search.peers.gaussian import transform, transformed
from metaft.surrogate import curves
from metaft.surrogate.prediction import Prediction

_OCTAVES = 4.0  # length scale of r in log2 budget
_NOISE = (0.01, 0.05)  # standard deviations of white noise, in units of the tasks' spread
_SCALES = (0.1, 0.25, 0.5, 1.0)  # of r, in units of its spread when each training task is left out


@dataclasses.dataclass(frozen=True)
class CovarianceGP:
    """Mean and deviations over the rows of one task.

    Attributes:
      mean_CT: of the training tasks.
      deviation_WCT: of each of them, over sqrt(W); 0 where it has no such run.
      own_sd: spread of what the other tasks do not explain of a task.
      unknown_C: rows that no training task has.
    """

    mean_CT: np.ndarray
    deviation_WCT: np.ndarray
    own_sd: float
    unknown_C: np.ndarray

    @classmethod
    def fit(cls, tables: Sequence[TaskTable], configurations: Sequence[dict]) -> 'CovarianceGP':
        """Reads the training tasks' runs of these configurations."""
        stacked = np.stack([_rows(table, configurations) for table in tables])
        known_WC = ~np.isnan(stacked).all(axis=2)
        with np.errstate(invalid='ignore'):
            count_C = known_WC.sum(axis=0)
            mean_CT = np.nansum(stacked, axis=0) / np.maximum(count_C, 1)[:, None]
        overall_T = mean_CT[count_C > 0].mean(axis=0) if (count_C > 0).any() else np.zeros(stacked.shape[2])
        mean_CT[count_C == 0] = overall_T
        deviation_WCT = np.nan_to_num(stacked - mean_CT[None], nan=0.0) / np.sqrt(len(tables))
        return cls(mean_CT, deviation_WCT, _unexplained(deviation_WCT), count_C == 0)

    def predict(self, table: TaskTable, values_CT: np.ndarray, costs_CT: np.ndarray) -> Prediction:
        """Conditions on what was observed of the task."""
        y_CT = transform(table, values_CT)
        log_T = np.log2(table.fractions_T)
        own_TT = np.exp(-np.abs(log_T[:, None] - log_T[None, :]) / _OCTAVES)
        spread = float(np.sqrt(np.mean(np.sum(self.deviation_WCT**2, axis=0)))) or 0.1
        candidates = [
            _Conditioned.on(y_CT, self, scale * self.own_sd, own_TT, noise * spread)
            for scale, noise in itertools.product(_SCALES, _NOISE)
        ]
        mean_CT, variance_CT = max(candidates, key=lambda found: found.log_likelihood).posterior(self)
        return transformed(table, mean_CT, np.sqrt(variance_CT), values_CT, costs_CT)


def _rows(table: TaskTable, configurations: Sequence[dict]) -> np.ndarray:
    """Returns a training task's curves at these configurations, NaN where it has none; repeats are averaged."""
    y_CT = transform(table, table.values_CT)
    y_CT[np.isfinite(y_CT).any(axis=1)] = curves.forward_fill(y_CT[np.isfinite(y_CT).any(axis=1)])
    found: dict[tuple, list[np.ndarray]] = {}
    for configuration, y_T in zip(table.configurations, y_CT):
        if np.isfinite(y_T).all():
            found.setdefault(key(configuration), []).append(y_T)
    missing_T = np.full(y_CT.shape[1], np.nan)
    return np.stack([np.mean(found.get(key(c), [missing_T]), axis=0) for c in configurations])


def _unexplained(deviation_WCT: np.ndarray) -> float:
    """Returns the spread of a task's deviations that a ridge regression on the other tasks' leaves."""
    flat_WN = deviation_WCT.reshape(len(deviation_WCT), -1) * np.sqrt(len(deviation_WCT))
    if len(flat_WN) < 2:
        return float(np.std(flat_WN)) or 0.1
    left = []
    for w in range(len(flat_WN)):
        others_VN = np.delete(flat_WN, w, axis=0)
        mean_N = others_VN.mean(axis=0)  # of the others alone: deviations from the mean of all add to 0
        others_VN = others_VN - mean_N
        gram = others_VN @ others_VN.T
        ridge = max(0.01 * np.trace(gram) / len(gram), np.finfo(float).tiny) * np.eye(len(gram))
        wanted_N = flat_WN[w] - mean_N
        left.append(wanted_N - np.linalg.solve(gram + ridge, others_VN @ wanted_N) @ others_VN)
    return float(np.std(left)) or 0.1


class _Seen(NamedTuple):
    """What was observed of one run."""

    points: np.ndarray  # grid indices, N of them
    factor: tuple  # Cholesky factor of its own covariance there
    basis_NW: np.ndarray
    error_N: np.ndarray  # observed less the mean


class _Conditioned(NamedTuple):
    """The posterior of the weights a at one choice of variances."""

    log_likelihood: float
    a_W: np.ndarray
    cholesky: tuple  # of the precision of a
    seen: dict[int, _Seen]
    own: np.ndarray  # covariance of r, [T, T]
    noise: float

    @classmethod
    def on(cls, y_CT: np.ndarray, prior: CovarianceGP, own_sd: float, own_TT: np.ndarray, noise: float):
        """Conditions on observations."""
        num_W = len(prior.deviation_WCT)
        precision_WW, pull_W, log_likelihood = np.eye(num_W), np.zeros(num_W), 0.0
        own, seen = own_sd**2 * own_TT, {}
        for c in np.flatnonzero(np.isfinite(y_CT).any(axis=1)):
            points = np.flatnonzero(np.isfinite(y_CT[c]))
            factor = scipy.linalg.cho_factor(own[np.ix_(points, points)] + noise**2 * np.eye(len(points)), lower=True)
            basis_NW = prior.deviation_WCT[:, c, points].T
            error_N = y_CT[c, points] - prior.mean_CT[c, points]
            solved = scipy.linalg.cho_solve(factor, np.column_stack([basis_NW, error_N]))
            precision_WW += basis_NW.T @ solved[:, :-1]
            pull_W += basis_NW.T @ solved[:, -1]
            log_likelihood -= 0.5 * error_N @ solved[:, -1] + np.sum(np.log(np.diag(factor[0])))
            seen[int(c)] = _Seen(points, factor, basis_NW, error_N)
        cholesky = scipy.linalg.cho_factor(precision_WW, lower=True)
        a_W = scipy.linalg.cho_solve(cholesky, pull_W)
        log_likelihood += 0.5 * pull_W @ a_W - np.sum(np.log(np.diag(cholesky[0])))
        return cls(float(log_likelihood), a_W, cholesky, seen, own, noise)

    def posterior(self, prior: CovarianceGP) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance, [C, T]."""
        flat_WN = prior.deviation_WCT.reshape(len(self.a_W), -1)
        covariance_WW = scipy.linalg.cho_solve(self.cholesky, np.eye(len(self.a_W)))
        mean_CT = prior.mean_CT + np.tensordot(self.a_W, prior.deviation_WCT, axes=1)
        variance_CT = np.sum(flat_WN * (covariance_WW @ flat_WN), axis=0).reshape(mean_CT.shape)
        variance_CT += np.diag(self.own)[None, :] + self.noise**2
        variance_CT[prior.unknown_C] += float(np.mean(np.sum(prior.deviation_WCT**2, axis=0)))
        for c, run in self.seen.items():
            gain_TN = scipy.linalg.cho_solve(run.factor, self.own[run.points]).T
            mean_CT[c] += gain_TN @ (run.error_N - run.basis_NW @ self.a_W)
            # The run's own curve explains a part of the shared deviations too: what its gain does not.
            rest_WT = prior.deviation_WCT[:, c, :] - (gain_TN @ run.basis_NW).T
            shared_T = np.sum(rest_WT * (covariance_WW @ rest_WT), axis=0)
            variance_CT[c] = shared_T + np.diag(self.own - gain_TN @ self.own[run.points]) + self.noise**2
        return mean_CT, np.maximum(variance_CT, self.noise**2)
