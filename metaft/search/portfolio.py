"""Which k configurations to run where k will be run: those whose best is best, not the k best ones.

The surrogate gives each configuration's own distribution and nothing between two of them: independent draws would hide
that neighbours fail together, and one probability for all makes every sample the same order, so that the best k are the
top k. What configurations have in common is what they had on the known tasks, so the samples are the mixture's
(task_mixture.py): draw which task the new one is like, by its meta-features, and all configurations together are as
there. On our 92 tasks, each left out, the best of 1 / 2 / 3 / 5 configurations so chosen has a regret of .28 / .15 /
.12 / .07, the top of the ranking .63 / .32 / .23 / .09, and samples by a Gaussian copula over encoded configurations,
which were here before, .83 / .32 / .23 / .15 (docs/results.md).

The greedy choice is within a factor 1 - 1/e of the best one: the expected improvement of a set is submodular
(Nemhauser, Wolsey and Fisher 1978).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from metaft.search.acquisition import Prediction
from metaft.search.ranking import rank
from metaft.search.task_mixture import TaskMixture

_NODES = np.linspace(-3.2, 3.2, 33)  # standard normal scores at which quantiles are asked for; beyond lies .1 %


def choose(samples_QC: np.ndarray, size: int, reference_value: float) -> tuple[list[int], list[float]]:
    """Chooses up to `size` configurations one by one, each the one that lowers the expected best value most.

    Args:
      samples_QC: joint samples of values, lower is better; +inf is a run that diverged.
      size: of the portfolio.
      reference_value: of the model before finetuning, which is there to fall back on.

    Returns:
      the configurations in the order of the choice, and E[min(reference, values of those so far)] after each.
    """
    best_Q = np.full(len(samples_QC), float(reference_value))
    chosen: list[int] = []
    expected: list[float] = []
    for _ in range(min(size, samples_QC.shape[1])):
        mean_C = np.mean(np.minimum(best_Q[:, None], samples_QC), axis=0)
        mean_C[chosen] = np.inf
        chosen.append(int(np.argmin(mean_C)))
        best_Q = np.minimum(best_Q, samples_QC[:, chosen[-1]])
        expected.append(float(best_Q.mean()))
    return chosen, expected


def order(prediction: Prediction, mixture: TaskMixture | None, size: int, seed: int = 0) -> list[int]:
    """Returns all configurations: a portfolio of up to `size` first, the others by their predicted medians.

    Args:
      prediction: before anything was observed.
      mixture: what is known of how runs go together; None: all are in the order of their medians.
      size: of the portfolio.
      seed: of the mixture's samples.
    """
    final_C = np.asarray(prediction.quantile_CT(0.5), np.float64)[:, -1]  # as in `ranking.rank`
    first = [] if mixture is None else choose(mixture.joint_samples(seed=seed), size, np.inf)[0]
    taken = set(first)
    return [*first, *(int(c) for c in np.argsort(final_C, kind='stable') if int(c) not in taken)]


def portfolio(
    configurations: Sequence[Mapping[str, Any]],
    prediction: Prediction,
    mixture: TaskMixture | None,
    reference_value: float,
    size: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns the portfolio as a table like `ranking.rank`'s, in the order of the choice.

    It is chosen by transformed values, as the search reckons. Its columns `place` (in the ranking) and `expected_best`,
    E[min(reference, values of this row and those above)], come first. There each configuration has the distribution
    that the prediction gives it, which is calibrated, and the mixture says which go together.
    """
    chosen = order(prediction, mixture, size, seed)[:size]
    y_QK = np.zeros((1, len(chosen))) if mixture is None else mixture.joint_samples(seed=seed)[:, chosen]
    values_QK = _with_distributions(y_QK, prediction, chosen)
    best_QK = np.minimum.accumulate(np.minimum(reference_value, values_QK), axis=1)
    ranking = rank(configurations, prediction).set_index('configuration_index', drop=False)
    frame = ranking.loc[chosen].reset_index(drop=True)
    frame.insert(1, 'expected_best', best_QK.mean(axis=0))
    return frame


def _with_distributions(y_QK: np.ndarray, prediction: Prediction, chosen: Sequence[int]) -> np.ndarray:
    """Returns predicted final values in the order that samples have in each column: their copula, [Q, K]."""
    quantile_PK = np.stack([np.asarray(prediction.quantile_CT(p), np.float64)[chosen, -1] for p in ndtr(_NODES)])
    score_Q = ndtri((np.arange(len(y_QK)) + 0.5) / len(y_QK))
    values_QK = np.empty(y_QK.shape)
    for k, place_Q in enumerate(np.argsort(y_QK, axis=0, kind='stable').T):
        values_QK[place_Q, k] = np.interp(score_Q, _NODES, quantile_PK[:, k])
    return values_QK
