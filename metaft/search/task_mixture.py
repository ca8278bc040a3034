"""The new task is like one of the known ones: a mixture over them, which a few measurements tell apart.

    y_w(c, t) = a(c, t) + r_w(c) (m_w(c, t) - m(c, t)) + b_w + noise(t)         if the task is like task w
    a = (median + m + shift) / 2,     b_w ~ N(0, .5^2)

m_w is what such a run did on task w, r_w in [0, 1) whether there was one, m the mean over tasks (surrogate/memory.py),
median the surrogate's zero-shot prediction. Each known task is thus moved to where a new one is expected, by the
network and by plain memory in equal parts: they err differently. The noise is as large as a known task usually is from
the one most like it. Before anything is measured, tasks weigh as their meta-features let one expect them to be apart
from the new one, D_w (surrogate/memory.py), with tails so heavy that a few runs can say otherwise; no dataset weighs
more because more base models were tuned on it:

    p_w  proportional to  1 / ((noise^2 + D_w^2) (number of tables of w's dataset))

Then weights of tasks and b_w follow from the last values of all runs begun, exactly.

    gain(c) = sum_w p_w E[max(0, best - min over t ahead of y_w(c, t))]

with y_w of a run that was begun moved so that it passes through its last value. Because what is good on task w is good
all together, a run that would be good where the best one so far turned out bad gains more than one that is the next
best everywhere: the greedy portfolio of other tasks, but one that looks at what came, after a few steps already. The
surrogate's own posterior, which sees each run alone, chose worse second and third runs than its zero-shot ranking did;
once some runs are begun, the mean of both gains is better than either (docs/results.md).

Reference: complementary choices as in Wistuba et al. 2015; weights over tasks by how well each explains the new one as
in Feurer et al. 2018 (arXiv 1802.02219), there by ranks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Self

import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, softmax

from metaft.search.acquisition import is_ahead
from metaft.search.observations import Observations
from metaft.surrogate import curves, process
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.surrogate import Surrogate

_NOISE_SD = 0.15  # of transformed values, where a single dataset is known; it is .1 to .2 on LCBench and our own
_LEAST_SD = 0.03  # about the noise of a seed
_SHIFT_SD = 0.5
_MEMORY_SHARE = 0.5  # of the center; with 0 and with 1 the second to fifth run are worse by a fifth
_NEGLECTED = 1e-3  # weight of tasks that are left out of a sum over tasks


@dataclasses.dataclass(frozen=True)
class TaskMixture:
    """What each known task says about the new one.

    Attributes:
      curve_WCT: transformed values of all candidates if the task is like w, before anything was measured, float32.
      log_prior_W: log weights of the tasks.
      noise_T: standard deviation of a run from what is expected if the task is like w.
      transform: from values in the metric's own unit.
    """

    curve_WCT: np.ndarray
    log_prior_W: np.ndarray
    noise_T: np.ndarray
    transform: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(
        cls,
        surrogate: Surrogate,
        meta_features: Mapping[str, float | None],
        runs: process.Runs,
        zero_shot: Prediction,
    ) -> Self | None:
        """Builds it from what a surrogate knows; None where it knows no task with the metric.

        Args:
          surrogate: that remembers the known tasks.
          meta_features: of the new task.
          runs: all candidates, as `surrogate.encode` gave them.
          zero_shot: the surrogate's prediction of them before anything was measured.
        """
        near_CW, curve_CWU = np.asarray(runs.recall.near_CV), np.asarray(runs.recall.curve_CVU)
        datasets = surrogate.memory.datasets_of(zero_shot.metric)
        known = [w for w in range(len(datasets)) if near_CW[:, w].any()]
        if not known:
            return None
        budget_CT = np.broadcast_to(
            np.log2(np.asarray(zero_shot.fractions_T)), (len(near_CW), len(zero_shot.fractions_T))
        ).astype(np.float32)
        read = lambda curve_CU: np.asarray(curves.read(jnp.asarray(curve_CU), jnp.asarray(budget_CT[: len(curve_CU)])))
        remembered_CT = read(process.prior_mean(runs.recall))
        median_CT = zero_shot.transform(np.asarray(zero_shot.quantile_CT(0.5)))
        shift = np.median(median_CT[:, -1]) - np.median(remembered_CT[:, -1])
        center_CT = (1.0 - _MEMORY_SHARE) * median_CT + _MEMORY_SHARE * (remembered_CT + shift)
        away = [near_CW[:, w, None] * (read(curve_CWU[:, w]) - remembered_CT) for w in known]
        names = [datasets[w] for w in known]
        unlike_U = surrogate.memory.unlikeness.get(zero_shot.metric, np.full(curves.NUM_RESAMPLED, _NOISE_SD))
        noise_T = np.maximum(read(unlike_U[None])[0], _LEAST_SD)
        task_Z = surrogate.encoding.task(meta_features, zero_shot.metric)
        apart_W = surrogate.memory.expected_apart(task_Z, zero_shot.metric, known)
        log_prior_W = -np.log([names.count(n) for n in names]) - np.log(float(noise_T[-1]) ** 2 + apart_W)
        curve_WCT = np.stack([center_CT + a for a in away]).astype(np.float32)
        return cls(curve_WCT, log_prior_W, noise_T, zero_shot.transform)

    def posterior(self, observations: Observations) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weights p_w, which add to 1, and the means of the shifts b_w, each [W]."""
        rows = np.flatnonzero(observations.started_C)
        last_O = observations.last_grid_index_C[rows]
        error_WO = self.transform(observations.values_CT[rows, last_O])[None, :] - self.curve_WCT[:, rows, last_O]
        sureness_O = self.noise_T[last_O].astype(np.float64) ** -2
        precision = _SHIFT_SD**-2 + sureness_O.sum()
        shift_W = np.asarray(error_WO.astype(np.float64) @ sureness_O / precision)
        square_W = (error_WO - shift_W[:, None]) ** 2 @ sureness_O + (shift_W / _SHIFT_SD) ** 2
        return softmax(self.log_prior_W - 0.5 * square_W), shift_W

    def gain_C(self, observations: Observations, reach_C: np.ndarray) -> np.ndarray:
        """Returns the expected improvement, of transformed values, over the best so far until a grid index; [C].

        It is -inf for runs that are at or beyond theirs.
        """
        weight_W, shift_W = self.posterior(observations)
        kept = np.flatnonzero(weight_W >= min(_NEGLECTED, weight_W.max()))
        curve_WCT, weight_W, shift_W = self.curve_WCT[kept], weight_W[kept] / weight_W[kept].sum(), shift_W[kept]

        last_C, rows = observations.last_grid_index_C, np.arange(len(reach_C))
        at_C = np.maximum(last_C, 0)
        y_C = np.nan_to_num(self.transform(observations.values_CT[rows, at_C]))
        offset_WC = np.where(last_C >= 0, y_C - curve_WCT[:, rows, at_C], shift_W[:, None])
        is_ahead_CT = is_ahead(observations, reach_C)
        lowest_WC = np.min(curve_WCT, axis=2, where=is_ahead_CT, initial=np.inf) + offset_WC
        noise_C = self.noise_T[reach_C]
        best = float(self.transform(np.array(observations.best_value)))
        gain_WC = _expected_improvement(best - lowest_WC, noise_C)
        return np.where(is_ahead_CT.any(axis=1), weight_W @ gain_WC, -np.inf)

    def joint_samples(self, num: int = 1024, seed: int = 0) -> np.ndarray:
        """Draws the lowest values of all full runs together, transformed, before anything was measured; [num, C]."""
        rng = np.random.default_rng(seed)
        w_Q = rng.choice(len(self.log_prior_W), num, p=softmax(self.log_prior_W))
        shift_Q1 = _SHIFT_SD * rng.normal(size=(num, 1))
        lowest_WC = self.curve_WCT.min(axis=2)
        return lowest_WC[w_Q] + shift_Q1 + self.noise_T[-1] * rng.normal(size=(num, lowest_WC.shape[1]))


def _expected_improvement(improvement: np.ndarray, sd: np.ndarray | float) -> np.ndarray:
    """Returns E[max(0, x)] of normal x with these means; minus infinity gives what mean 0 does."""
    z = np.where(np.isfinite(improvement), improvement / sd, 0.0)
    return sd * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi))
