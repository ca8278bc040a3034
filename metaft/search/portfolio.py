"""Which k configurations to run where k will be run: those whose best is best, not the k best ones.

Two things are here: joint samples of the final values of all configurations, and the greedy choice under them. The
surrogate gives each configuration's own distribution and nothing between two of them. One probability drawn for all
cells (`metaft.surrogate.likelihood.sample`) makes every sample the same order of configurations, so that the best k
by it are the top k; independent draws hide that neighbours fail together. Between them is a Gaussian copula, which
leaves each distribution as the surrogate gives it:

    z_c = sqrt(shared) u + sqrt(similar) g(x_c) + sqrt(1 - shared - similar) e_c,    value_c = quantile_c(Phi(z_c))

u is the task's own part (all runs come out better, or worse, than predicted), g a Gaussian process over encoded
configurations with k(x, x') = exp(-|x - x'|^2 / 2 length^2) (a region does), e the rest (a run does: its seed, and what
the encoding does not tell). The members of the ensemble, which are joint draws too, are three: too few to tell
configurations apart by.

The greedy choice is within a factor 1 - 1/e of the best one: the expected improvement of a set is submodular
(Nemhauser, Wolsey and Fisher 1978). Copula: Wilson and Ghahramani, arXiv 1006.1350.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from metaft.search.acquisition import Prediction
from metaft.search.ranking import rank

_NODES = np.linspace(-3.2, 3.2, 33)  # standard normal scores at which quantiles are asked for; beyond lies .1 %
_NUM_FEATURES = 512  # of the Gaussian process; its correlations are off by 1 / sqrt(512 / 2) at most


@dataclasses.dataclass(frozen=True)
class CopulaSettings:
    """How errors of prediction go together.

    By maximum likelihood of the normal scores of 66 final losses on each of 40 tasks, whose dataset the surrogate that
    predicted them had left out; little is a run's own. Mean normalised regret of the best of k there, on the 37 tasks
    where configurations differ:

        k                    1     2     3     5     8
        top k by mean      .579  .465  .409  .330  .281
        top k by median    .371  .290  .258  .159  .136
        portfolio          .350  .263  .203  .188  .126

    with standard errors of .05; that of the difference between the last two is .02 to .04.
    """

    shared: float = 0.3  # of the variance of a normal score: all configurations of the task alike
    similar: float = 0.67  # like configurations alike
    length: float = 1.45  # of the kernel, in encoded configurations

    def __post_init__(self):
        if not (min(self.shared, self.similar) >= 0 and self.shared + self.similar <= 1 and self.length > 0):
            raise ValueError(f'{self} has to have shares of at least 0 that add to at most 1, and a positive length')


def joint_samples(
    prediction: Prediction,
    encoded_CE: np.ndarray,
    num: int = 1024,
    seed: int = 0,
    settings: CopulaSettings = CopulaSettings(),
) -> np.ndarray:
    """Draws the final values of all configurations together, float64 [num, C], in the metric's own unit.

    Args:
      prediction: of all configurations.
      encoded_CE: where they lie; distances between rows say how alike two configurations are.
      num: samples.
      seed: of the draw.
      settings: the copula.
    """
    score_QC = _scores(np.asarray(encoded_CE, np.float64), num, np.random.default_rng(seed), settings)
    quantile_PC = np.stack([np.asarray(prediction.quantile_CT(p), np.float64)[:, -1] for p in ndtr(_NODES)])
    columns = [np.interp(z_Q, _NODES, q_P) for z_Q, q_P in zip(score_QC.T, quantile_PC.T, strict=True)]
    return np.stack(columns, axis=1)


def _scores(encoded_CE: np.ndarray, num: int, rng: np.random.Generator, settings: CopulaSettings) -> np.ndarray:
    """Draws standard normal scores with the copula's correlations, [num, C], in time linear in C.

    Reference: random Fourier features of Rahimi and Recht 2007, in pairs of cosine and sine, so that variances are 1.
    """
    num_C, num_E = encoded_CE.shape
    frequency_EF = rng.normal(size=(num_E, _NUM_FEATURES // 2)) / settings.length
    phase_CF = encoded_CE @ frequency_EF
    feature_CF = np.concatenate([np.cos(phase_CF), np.sin(phase_CF)], axis=1) / np.sqrt(_NUM_FEATURES // 2)
    similar_QC = rng.normal(size=(num, _NUM_FEATURES)) @ feature_CF.T
    own = 1.0 - settings.shared - settings.similar
    return (
        np.sqrt(settings.shared) * rng.normal(size=(num, 1))
        + np.sqrt(settings.similar) * similar_QC
        + np.sqrt(own) * rng.normal(size=(num, num_C))
    )


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


def portfolio(
    configurations: Sequence[Mapping[str, Any]],
    prediction: Prediction,
    encoded_CE: np.ndarray,
    reference_value: float,
    size: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns the portfolio as a table like `ranking.rank`'s, in the order of the choice.

    Its columns `place` (in the ranking) and `expected_best` (of this row and those above, see `choose`) come first.
    """
    chosen, expected = choose(joint_samples(prediction, encoded_CE, seed=seed), size, reference_value)
    ranking = rank(configurations, prediction).set_index('configuration_index', drop=False)
    frame = ranking.loc[chosen].reset_index(drop=True)
    frame.insert(1, 'expected_best', expected)
    return frame
