"""What the surrogate answers: distributions of value and cost for C configurations at T budgets.

Cells that were observed are their observation, without uncertainty. Values are lower-is-better in the metric's own
unit; samples are in the transformed space, where halving a loss is worth the same on every task.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from metaft.surrogate import likelihood, transforms
from metaft.surrogate.likelihood import Mixture

# Gauss-Hermite nodes: the moments of a transformed Gaussian to about 1e-4 of its spread.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()

_IMPROVEMENT_NODES = 33  # of the integral of an expected improvement


@jax.jit
def _cdf_at(mixture: Mixture, y_QC1: jax.Array) -> jax.Array:
    """Returns P(Y <= y) at several y, [Q, C, T]; one after another, for the mixture is large beside the result."""
    return jax.lax.map(lambda y_C1: likelihood.cdf(mixture, y_C1), y_QC1)


_improvement = jax.jit(likelihood.expected_improvement)
_log_density = jax.jit(likelihood.log_density)
_quantile = jax.jit(likelihood.quantile)
_sample = jax.jit(likelihood.sample, static_argnums=2)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Distributions over [C, T]."""

    metric: str
    reference_value: float
    fractions_T: np.ndarray
    mixture: Mixture  # of transformed values, [C, T, G]
    observed_CT: np.ndarray  # the metric's own unit, NaN where not observed
    cost_seconds_CT: np.ndarray  # cumulative, median; as measured where it was
    cost_log_sd_CT: np.ndarray  # of its logarithm; 0 where measured

    @property
    def mean_CT(self) -> np.ndarray:
        """The expected value; a run as bad as diverged counts with the worst value there is."""
        return self._moments[0]

    @property
    def standard_deviation_CT(self) -> np.ndarray:
        """The standard deviation of the value; 0 where it was observed."""
        return self._moments[1]

    def quantile_CT(self, probability: float) -> np.ndarray:
        """Returns the value that is undercut with the given probability, in (0, 1)."""
        y_CT = _quantile(self.mixture, jnp.full((1, 1), probability, jnp.float32))
        return self._unless_observed(self._inverse(np.asarray(y_CT)), self.observed_CT)

    def expected_improvement_CT(self, best_value: float | np.ndarray) -> np.ndarray:
        """Returns E[max(0, best - value)] / reference value, in the metric's own unit; [C, 1] is a best for each.

        Not in the transformed space: there a small chance of a loss near 0 outweighs a sure good one, and the search
        spends a short budget on configurations that mostly fail. Integrated over the distribution function:
        E[max(0, best - V)] is the integral of P(V < v) for v from 0 to best.
        """
        best_C1 = np.broadcast_to(np.asarray(best_value, np.float64), (len(self.observed_CT), 1))
        v_QC1 = np.linspace(0.0, best_C1, _IMPROVEMENT_NODES)
        below_QCT = np.asarray(_cdf_at(self.mixture, self.transform(v_QC1).astype(np.float32)))
        improvement_CT = np.trapezoid(below_QCT, v_QC1, axis=0)
        observed_CT = np.maximum(best_C1 - self.observed_CT, 0.0)
        return self._unless_observed(improvement_CT, observed_CT) / max(self.reference_value, 1e-6)

    def transformed_improvement_CT(self, best_value: float) -> np.ndarray:
        """Returns E[max(0, y(best) - y(value))] in the transformed space; 0 where the value was observed."""
        improvement_CT = np.asarray(
            _improvement(self.mixture, jnp.full((1, 1), self.transform(np.asarray(best_value)), jnp.float32))
        )
        return self._unless_observed(improvement_CT, np.zeros_like(improvement_CT))

    def sample_QCT(self, key: jax.Array, num: int) -> np.ndarray:
        """Draws `num` whole tables in the transformed space, each at one quantile shared by all of its cells."""
        return self._unless_observed(np.asarray(_sample(self.mixture, key, num)), self._observed_y_CT)

    def log_density_CT(self, values_CT: np.ndarray) -> np.ndarray:
        """Returns the log density (nats, of the transformed value) at values in the metric's own unit."""
        return np.asarray(_log_density(self.mixture, jnp.asarray(self.transform(values_CT))))

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        weight, mean, sd = np.exp(np.asarray(self.mixture.log_weight)), *map(np.asarray, self.mixture[1:])
        first_CT, second_CT = np.zeros(mean.shape[:2]), np.zeros(mean.shape[:2])
        for node, node_weight in zip(_NODES.astype(np.float32), _NODE_WEIGHTS, strict=True):
            values = self._inverse(mean + node * sd)
            first_CT += node_weight * np.sum(weight * values, axis=2)
            second_CT += node_weight * np.sum(weight * values**2, axis=2)
        sd_CT = np.sqrt(np.maximum(second_CT - first_CT**2, 0.0))
        return (self._unless_observed(first_CT, self.observed_CT), self._unless_observed(sd_CT, np.zeros_like(sd_CT)))

    @functools.cached_property
    def _observed_y_CT(self) -> np.ndarray:
        return self.transform(self.observed_CT)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Maps values in the unit of the metric to the space of `mixture`."""
        return transforms.transform(values, self.metric, self.reference_value)

    def _inverse(self, y: np.ndarray) -> np.ndarray:
        return transforms.inverse(y, self.metric, self.reference_value)

    def _unless_observed(self, predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(self.observed_CT), predicted, observed)
