"""Mixtures agree with numerical integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from metaft.surrogate import likelihood


@pytest.fixture
def mixture():
    """Five cells of three components each, from narrow to wide, far apart and overlapping."""
    rng = np.random.default_rng(0)
    return likelihood.Mixture(
        log_weight=jax.nn.log_softmax(jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)),
        mean=jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        sd=jnp.asarray(rng.uniform(0.05, 1.0, (5, 3)), jnp.float32),
    )


def density(mixture, cell):
    weight, mean, sd = np.exp(mixture.log_weight[cell]), np.asarray(mixture.mean[cell]), np.asarray(mixture.sd[cell])
    return lambda y: float(np.sum(weight * np.exp(-0.5 * ((y - mean) / sd) ** 2) / sd) / np.sqrt(2 * np.pi))


def integral(function, low, high):
    return quad(function, low, high, limit=500, points=np.linspace(low, high, 41)[1:-1])[0]


def test_density_mean_and_distribution_are_integrals(mixture):
    y = jnp.linspace(-1.0, 1.0, 5)
    for cell in range(5):
        p = density(mixture, cell)
        assert integral(p, -10, 10) == pytest.approx(1.0, abs=1e-6)
        assert float(likelihood.log_density(mixture, y)[cell]) == pytest.approx(np.log(p(float(y[cell]))), abs=1e-4)
        assert float(likelihood.cdf(mixture, y)[cell]) == pytest.approx(integral(p, -10, float(y[cell])), abs=1e-5)
        expected = integral(lambda v, p=p: v * p(v), -10, 10)
        assert float(likelihood.mean(mixture)[cell]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('best', [-1.0, 0.0, 0.7])
def test_expected_improvement_is_its_integral(mixture, best):
    found = likelihood.expected_improvement(mixture, jnp.full((5,), best))
    for cell in range(5):
        p = density(mixture, cell)
        assert float(found[cell]) == pytest.approx(integral(lambda v, p=p: (best - v) * p(v), -10, best), abs=1e-5)


@pytest.mark.parametrize('probability', [0.001, 0.1, 0.5, 0.975])
def test_a_quantile_is_the_inverse_of_the_distribution(mixture, probability):
    y = likelihood.quantile(mixture, jnp.full((1,), probability))
    np.testing.assert_allclose(likelihood.cdf(mixture, y), probability, atol=2e-5)


def test_samples_share_their_quantile_and_follow_the_distribution(mixture):
    samples_QC = likelihood.sample(mixture, jax.random.key(0), 400)
    probability_QC = jax.vmap(lambda y: likelihood.cdf(mixture, y))(samples_QC)
    np.testing.assert_allclose(probability_QC, probability_QC[:, :1] * np.ones((1, 5)), atol=1e-4)
    # Kolmogorov-Smirnov at a false alarm rate of 1e-3: 1.95 / sqrt(400).
    gap = np.abs(np.sort(probability_QC[:, 0]) - (np.arange(400) + 0.5) / 400)
    assert gap.max() < 1.95 / 20
