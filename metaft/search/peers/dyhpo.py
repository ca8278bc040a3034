"""DyHPO: a deep-kernel GP fitted to the target task alone, and multi-fidelity expected improvement.

Reference: Wistuba, Kadra and Grabocka 2022, arXiv 2202.09774, algorithm 1: the run whose next point is expected to
improve most on the best score at that budget (where none is known there, on the best of all) goes on by one step.
The budget is an input; the curve so far goes through a convolution. Deviations: 200 AdamW steps at first and five more
each time (it: 1,000 and 50 epochs), on batches of at most 64 and a posterior of at most 512 points, for speed.
"""

import dataclasses

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Suggestion
from metaft.search.peers import deep_kernel
from metaft.search.peers.gaussian import expected_improvement
from metaft.search.peers.improvement import DECISIONS_A_RUN
from metaft.search.peers.quicktune import scores
from metaft.surrogate.encoding import Encoding

_FIRST_STEPS = 200
_STEPS = 5
_BATCH = 64
_POINTS = (64, 512)


@dataclasses.dataclass
class DyHPO:
    """The searcher; it keeps what it learned."""

    encoding: Encoding
    table: TaskTable  # its rows, not their values
    order: tuple[int, ...]
    seed: int
    model: deep_kernel.DeepKernel | None = None

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns the next step of the `width` best runs."""
        last_C = observations.last_grid_index_C
        num_T = len(observations.fractions_T)
        step = max(1, num_T // DECISIONS_A_RUN)
        if not observations.started_C.any():
            return [Suggestion(c, step - 1) for c in self.order[:width]]
        score_CT = scores(self.table, observations.values_CT)
        next_C = np.minimum(last_C + step, num_T - 1)
        mean_C, sd_C = self.predict(score_CT, next_C)
        best_T = np.max(np.where(np.isnan(score_CT), -np.inf, score_CT), axis=0)
        best_C = np.where(np.isfinite(best_T), best_T, np.nanmax(score_CT))[next_C]
        gain_C = np.where(last_C < num_T - 1, expected_improvement(-mean_C, sd_C, -best_C), -np.inf)
        best = np.argsort(-gain_C, kind='stable')[:width]
        return [Suggestion(int(c), int(next_C[c])) for c in best if gain_C[c] > -np.inf]

    def predict(self, score_CT: np.ndarray, next_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of the score of each run at a grid point of its own."""
        config_CE = self.encoding.configurations(self.table.configurations)
        budget_CT1 = np.broadcast_to(self.table.fractions_T[None, :, None], (*score_CT.shape, 1))
        x_CTE = np.concatenate([np.repeat(config_CE[:, None], score_CT.shape[1], axis=1), budget_CT1], axis=2)
        points = deep_kernel.padded(deep_kernel.points_of(x_CTE, score_CT), _POINTS, self.seed)
        sizes = deep_kernel.Sizes(x_CTE.shape[2], score_CT.shape[1], convolution=True)
        steps = _FIRST_STEPS if self.model is None else _STEPS
        model = self.model or deep_kernel.DeepKernel.initialise(sizes, self.seed)
        self.model = model.fit(points, steps, _BATCH, int(np.sum(points.weight_N)))
        return self.model.predict(points, x_CTE[np.arange(len(next_C)), next_C], np.nan_to_num(score_CT))
