"""A small honest posterior: jointly Gaussian curves, conditioned exactly; a surrogate to the search in closed form."""

import dataclasses

import numpy as np
from scipy.stats import norm

from metaft.search.observations import Observations

FRACTIONS_T = 2.0 ** np.arange(-4, 1)  # 1/16 ... 1


@dataclasses.dataclass(frozen=True)
class GaussianPrediction:
    """Implements `metaft.search.acquisition.Prediction`; the transformation is the identity."""

    mean_CT: np.ndarray
    sd_CT: np.ndarray
    cost_seconds_CT: np.ndarray

    def quantile_CT(self, probability):
        return self.mean_CT + norm.ppf(probability) * self.sd_CT

    def expected_improvement_CT(self, best_value):
        sd_CT = np.maximum(self.sd_CT, 1e-12)
        z_CT = (best_value - self.mean_CT) / sd_CT
        return sd_CT * (z_CT * norm.cdf(z_CT) + norm.pdf(z_CT))

    def transformed_improvement_CT(self, best_value):
        return self.expected_improvement_CT(best_value)


@dataclasses.dataclass(frozen=True)
class GaussianBelief:
    """A prior over curves: covariance sd^2 * correlation(c, c') * rho^|t - t'|, costs known."""

    mean_CT: np.ndarray
    seconds_CT: np.ndarray
    sd: float = 1.0
    rho: float = 0.95
    correlation_CC: np.ndarray | None = None  # default: configurations tell nothing about one another

    def __call__(self, observations: Observations) -> GaussianPrediction:
        num_C, num_T = self.mean_CT.shape
        grid = np.arange(num_T)
        correlation_CC = np.eye(num_C) if self.correlation_CC is None else self.correlation_CC
        covariance = self.sd**2 * np.kron(correlation_CC, self.rho ** np.abs(grid[:, None] - grid[None, :]))
        seen = np.flatnonzero(np.isfinite(observations.values_CT))
        mean = self.mean_CT.ravel().copy()
        variance = np.diag(covariance).copy()
        if seen.size:
            gain = np.linalg.solve(covariance[np.ix_(seen, seen)] + 1e-9 * np.eye(seen.size), covariance[seen]).T
            mean += gain @ (observations.values_CT.ravel() - self.mean_CT.ravel())[seen]
            variance -= np.sum(gain * covariance[:, seen], axis=1)
        shape = (num_C, num_T)
        return GaussianPrediction(
            mean.reshape(shape), np.sqrt(np.maximum(variance, 0.0)).reshape(shape), self.seconds_CT
        )


def curves(final_C, start=3.0):
    """Returns curves that fall in a straight line over the grid, from `start` to their final value, [C, T]."""
    return start + np.linspace(0.2, 1.0, len(FRACTIONS_T))[None, :] * (np.asarray(final_C, float)[:, None] - start)


def seconds(full_run_C):
    """Returns cumulative seconds, in proportion to the budget, [C, T]."""
    return np.asarray(full_run_C, float)[:, None] * FRACTIONS_T[None, :]


def empty(num_configurations, **kwargs):
    """Returns observations of nothing; the reference value is the start of every curve."""
    return Observations.empty(num_configurations, FRACTIONS_T, 3.0, **kwargs)
