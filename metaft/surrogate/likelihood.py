"""Mixtures of Gaussians: density, distribution, quantiles, moments, expected improvement, samples.

Everything is elementwise over leading axes `...`; the last axis G are the components. Lower is better.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

_BISECTIONS = 26  # 2^-26 of the bracket: float32's own precision
_TAILS = 8.0  # standard deviations in a quantile's bracket; beyond is less than 1e-15


class Mixture(NamedTuple):
    """A mixture of Gaussians a cell."""

    log_weight: jax.Array  # [..., G], normalised
    mean: jax.Array  # [..., G]
    sd: jax.Array  # [..., G]


def log_density(mixture: Mixture, y: jax.Array) -> jax.Array:
    """Returns log sum_g w_g N(y; mean_g, sd_g), shape [...]."""
    z = (y[..., None] - mixture.mean) / mixture.sd
    log_normal = -0.5 * z**2 - jnp.log(mixture.sd) - 0.5 * jnp.log(2.0 * jnp.pi)
    return jax.nn.logsumexp(mixture.log_weight + log_normal, axis=-1)


def cdf(mixture: Mixture, y: jax.Array) -> jax.Array:
    """Returns P(Y <= y), shape [...]."""
    return jnp.sum(jnp.exp(mixture.log_weight) * ndtr((y[..., None] - mixture.mean) / mixture.sd), axis=-1)


def mean(mixture: Mixture) -> jax.Array:
    """Returns E[Y], shape [...]."""
    return jnp.sum(jnp.exp(mixture.log_weight) * mixture.mean, axis=-1)


def quantile(mixture: Mixture, probability: jax.Array) -> jax.Array:
    """Returns y with P(Y <= y) = probability, by bisection.

    Args:
      mixture: of cells [...].
      probability: in (0, 1), of shape [...] or of ones that broadcasts to it.
    """
    low = jnp.min(mixture.mean - _TAILS * mixture.sd, axis=-1)
    high = jnp.max(mixture.mean + _TAILS * mixture.sd, axis=-1)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        below = cdf(mixture, middle) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return 0.5 * (low + high)


def expected_improvement(mixture: Mixture, best: jax.Array) -> jax.Array:
    """Returns E[max(0, best - Y)] = sum_g w_g sd_g (z_g Phi(z_g) + phi(z_g)) with z_g = (best - mean_g) / sd_g.

    Reference: Jones, Schonlau and Welch 1998, equation 15, summed over the components.
    """
    z = (best[..., None] - mixture.mean) / mixture.sd
    density = jnp.exp(-0.5 * z**2) / jnp.sqrt(2.0 * jnp.pi)
    return jnp.sum(jnp.exp(mixture.log_weight) * mixture.sd * (z * ndtr(z) + density), axis=-1)


def sample(mixture: Mixture, key: jax.Array, num: int) -> jax.Array:
    """Draws `num` times one probability, shared by all cells, and returns their quantiles, shape [num, ...].

    Cells move together: where the model is optimistic it is so everywhere. Of independent draws a search would take the
    luckiest of a thousand cells, and over-explore.
    """
    probability_Q = jax.random.uniform(key, (num,), minval=1e-4, maxval=1.0 - 1e-4)
    ones = (1,) * (mixture.mean.ndim - 1)
    return jax.lax.map(lambda probability: quantile(mixture, probability.reshape(ones)), probability_Q)
