"""A Gaussian a cell, and the plain guess of costs that peers without a cost model get."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from metaft.metadataset.tables import TaskTable
from metaft.surrogate import transforms
from metaft.surrogate.likelihood import Mixture
from metaft.surrogate.prediction import Prediction

_MIN_SD = 1e-3


@dataclasses.dataclass(frozen=True)
class GaussianCurves:
    """Independent Gaussians over [C, T] in the metric's own unit; observed cells are their observation."""

    mean_CT: np.ndarray
    sd_CT: np.ndarray
    cost_seconds_CT: np.ndarray

    def quantile_CT(self, probability: float) -> np.ndarray:
        """Returns the value that is undercut with the given probability."""
        return self.mean_CT + norm.ppf(probability) * self.sd_CT

    def log_density_CT(self, values_CT: np.ndarray) -> np.ndarray:
        """Returns the log density, nats per unit of the metric."""
        return norm.logpdf(values_CT, self.mean_CT, np.maximum(self.sd_CT, 1e-9))

    def expected_improvement_CT(self, best_value: float | np.ndarray) -> np.ndarray:
        """Returns E[max(0, best - value)]."""
        return expected_improvement(self.mean_CT, self.sd_CT, best_value)


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float | np.ndarray) -> np.ndarray:
    """Returns E[max(0, best - Y)] of Gaussians (Jones, Schonlau and Welch 1998, equation 15)."""
    sd = np.maximum(sd, 1e-12)
    z = (best - mean) / sd
    return sd * (z * norm.cdf(z) + norm.pdf(z))


def transformed(
    table: TaskTable, mean_CT: np.ndarray, sd_CT: np.ndarray, observed_CT: np.ndarray, costs_CT: np.ndarray
) -> Prediction:
    """Returns Gaussians in the surrogate's space (`transforms`) as a prediction in the metric's own unit."""
    sd_CT = np.maximum(sd_CT, _MIN_SD)
    parts = (np.zeros_like(mean_CT), mean_CT, sd_CT)
    return Prediction(
        metric=table.metric,
        reference_value=table.reference_value,
        fractions_T=table.fractions_T,
        mixture=Mixture(*(jnp.asarray(part[..., None], jnp.float32) for part in parts)),
        observed_CT=observed_CT,
        cost_seconds_CT=proportional_costs(costs_CT, table.fractions_T),
        cost_log_sd_CT=np.zeros_like(mean_CT),
    )


def transform(table: TaskTable, values_CT: np.ndarray) -> np.ndarray:
    """Returns values of a task in the surrogate's space, float64."""
    return transforms.transform(values_CT, table.metric, table.reference_value).astype(np.float64)


def proportional_costs(costs_CT: np.ndarray, fractions_T: np.ndarray) -> np.ndarray:
    """Reckons each run's cost from its own last one, of others from their median; NaN where nothing was measured."""
    rate_CT = costs_CT / fractions_T[None, :]
    seen_CT = ~np.isnan(rate_CT)
    if not seen_CT.any():
        return np.full(costs_CT.shape, np.nan)
    last_C = rate_CT.shape[1] - 1 - np.argmax(seen_CT[:, ::-1], axis=1)
    rate_C = rate_CT[np.arange(len(rate_CT)), last_C]
    rate_C = np.where(np.isnan(rate_C), np.nanmedian(rate_C), rate_C)
    return np.where(seen_CT, costs_CT, rate_C[:, None] * fractions_T[None, :])
