"""What the observed runs of a task say about every configuration: a Gaussian process that remembers other tasks.

    y(c, t) = (1 + g) m(c, t) + b + sum_w a_w r_w (m_w(c, t) - m(c, t)) + f(c, t) + noise
    m(c, t) = sum_w r_w m_w(c, t) / (sum_w r_w + floor)

m_w is what such a run did on task w, and r_w in [0, 1) says whether there was one (memory.py). The weights g, b and a_w
are normal around 0: a task is the mean over the others, moved towards those that it turns out to resemble. f is what
only this task does, a Gaussian process over configurations, with a length for each feature, and over log budgets. One
`Kernel` holds for all tasks (prior.py fits it). A run counts with its last observation.

The posterior mean is a feature of a configuration, a curve, which the network bends; without any observation it is m,
the smoothed mean rank of the field's baselines. A pool of a small network makes less of a hundred runs than a Gaussian
process does, and knows no other task by itself (docs/results.md has both measured).

Reference: Rasmussen and Williams 2006, equation 2.25; weights over tasks as in Bonilla, Chai and Williams 2007.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from metaft.surrogate import curves
from metaft.surrogate.memory import Array, Recall

SIZE = (
    curves.NUM_RESAMPLED + 4
)  # mean curve; ln s; spread of the tasks, ln(1 + tasks) and ln(1 + runs) with one like it
_FLOOR = 0.5  # tasks without an opinion
_JITTER = 1e-4
_FREEDOM = 4.0  # observations that the prior of s is worth
_TOLERANCE, _STEPS = 1e-6, 64  # of conjugate gradients; what they leave is below the noise


class Kernel(NamedTuple):
    """Logarithms of standard deviations and lengths."""

    shift: Array  # of b
    gain: Array  # of g
    tasks: Array  # of a_w, times the root of the number of tasks
    own: Array  # of f
    octaves: Array  # of the budget, over which f forgets
    noise: Array
    length_E: Array  # over which f forgets a feature of a configuration

    @classmethod
    def initial(cls, num_hyperparameters: int) -> 'Kernel':
        """Returns where a fit begins."""
        shift, gain, tasks, own, octaves, noise = np.log(np.array([0.3, 0.3, 0.5, 0.3, 3.0, 0.1], np.float32))
        length_E = np.full(num_hyperparameters, np.log(2.0), np.float32)
        return cls(shift, gain, tasks, own, octaves, noise, length_E)


class Runs(NamedTuple):
    """Configurations, encoded, and what other tasks remember of them; arrays of NumPy or JAX."""

    config_CE: Array
    recall: Recall


def prior(recall: Recall) -> jax.Array:
    """Returns what is known of each run before any observation, float32 [C, SIZE]; `posterior` of nothing."""
    near_C = jnp.sum(recall.near_CV, axis=1)
    nothing_C = jnp.zeros_like(near_C)
    columns = (nothing_C, _spread(recall), jnp.log1p(near_C), nothing_C)
    return jnp.concatenate([prior_mean(recall), jnp.stack(columns, axis=1)], axis=1)


def prior_mean(recall: Recall) -> jax.Array:
    """Returns m, [C, U]."""
    weight_C = jnp.sum(recall.near_CV, axis=1) + _FLOOR
    return jnp.einsum('CV,CVU->CU', recall.near_CV, recall.curve_CVU) / weight_C[:, None]


def posterior(
    kernel: Kernel, runs: Runs, row_O: jax.Array, y_O: jax.Array, log_budget_O: jax.Array, level: jax.Array
) -> jax.Array:
    """Returns what the observations say about each run, float32 [C, SIZE].

    Args:
      kernel: the prior.
      runs: all, [C].
      row_O: int32, the observed ones, each once; -1: padding.
      y_O: transformed values of their last observations.
      log_budget_O: log2 fractions of a full run at which these were made.
      level: what the mean curve is to be relative to; the arguments are not.
    """
    is_O, config_OE = row_O >= 0, runs.config_CE[row_O]
    num = jnp.sum(is_O.astype(jnp.float32))
    mean_CU, direction_CFU = prior_mean(runs.recall), _directions(kernel, runs.recall)
    share_OU = curves.shares(log_budget_O)
    mean_O = jnp.sum(mean_CU[row_O] * share_OU, axis=1)
    direction_OF = jnp.einsum('OFU,OU->OF', direction_CFU[row_O], share_OU)

    shift, own, noise = (jnp.exp(2.0 * x) for x in (kernel.shift, kernel.own, kernel.noise))
    own_OO = own * _similar(kernel, config_OE, config_OE) * _lasting(kernel, log_budget_O, log_budget_O)
    covariance_OO = jnp.where(is_O[:, None] & is_O[None, :], direction_OF @ direction_OF.T + shift + own_OO, 0.0)
    jitter = _JITTER * (1.0 + jnp.trace(covariance_OO) / jnp.maximum(num, 1.0))
    error_O = jnp.where(is_O, y_O - mean_O, 0.0)
    alpha_O = _inverse_times(covariance_OO + jnp.diag(jnp.where(is_O, noise + jitter, 1.0)), error_O)

    similar_CO = jnp.where(is_O[None, :], _similar(kernel, runs.config_CE, config_OE), 0.0)
    lasting_OU = _lasting(kernel, log_budget_O, jnp.asarray(curves.LOG_BUDGETS, jnp.float32))
    mean_CU += jnp.einsum('CFU,F->CU', direction_CFU, alpha_O @ direction_OF) + shift * jnp.sum(alpha_O)
    mean_CU += own * similar_CO @ (lasting_OU * alpha_O[:, None])

    # The variances' common factor s^2, as much off as the errors are against what was expected of them.
    surprise = (_FREEDOM + jnp.maximum(error_O @ alpha_O, 0.0)) / (_FREEDOM + num)
    known_CF = prior(runs.recall)
    known_CF = known_CF.at[:, : curves.NUM_RESAMPLED].set(mean_CU - level)
    known_CF = known_CF.at[:, curves.NUM_RESAMPLED].set(0.5 * jnp.log(surprise))
    return known_CF.at[:, -1].set(jnp.log1p(jnp.sum(similar_CO, axis=1)))


def _directions(kernel: Kernel, recall: Recall) -> jax.Array:
    """Returns what g and the a_w weigh, scaled by their standard deviations, [C, 1 + V, U]."""
    mean_C1U = prior_mean(recall)[:, None, :]
    num_tables = jnp.maximum(jnp.sum((jnp.max(recall.near_CV, axis=0) > 0).astype(jnp.float32)), 1.0)
    away_CVU = recall.near_CV[:, :, None] * (recall.curve_CVU - mean_C1U)
    return jnp.concatenate(
        [jnp.exp(kernel.gain) * mean_C1U, jnp.exp(kernel.tasks) * jax.lax.rsqrt(num_tables) * away_CVU], axis=1
    )


def _spread(recall: Recall) -> jax.Array:
    """Returns the standard deviation of the tasks' final values, [C]."""
    away_CV = recall.curve_CVU[:, :, -1] - prior_mean(recall)[:, -1:]
    weight_C = jnp.sum(recall.near_CV, axis=1) + _FLOOR
    return jnp.sqrt(jnp.sum(recall.near_CV * away_CV**2, axis=1) / weight_C)


def _similar(kernel: Kernel, config_AE: jax.Array, config_BE: jax.Array) -> jax.Array:
    inverse_1E = jnp.exp(-kernel.length_E)[None, :]
    place_AE, place_BE = config_AE * inverse_1E, config_BE * inverse_1E
    square_AB = (
        jnp.sum(place_AE**2, axis=1)[:, None] + jnp.sum(place_BE**2, axis=1)[None, :] - 2.0 * place_AE @ place_BE.T
    )
    return jnp.exp(-0.5 * jnp.maximum(square_AB, 0.0))


def _lasting(kernel: Kernel, log_budget_A: jax.Array, log_budget_B: jax.Array) -> jax.Array:
    return jnp.exp(-jnp.abs(log_budget_A[:, None] - log_budget_B[None, :]) * jnp.exp(-kernel.octaves))


def _inverse_times(matrix_OO: jax.Array, y_O: jax.Array) -> jax.Array:
    """Returns matrix^-1 y by conjugate gradients: batched, LAPACK's calls deadlock in XLA's programs on two cores."""
    scale_O = jax.lax.rsqrt(jnp.diag(matrix_OO))  # Jacobi's preconditioner
    matrix_OO = matrix_OO * scale_O[:, None] * scale_O[None, :]
    return scale_O * cg(lambda x_O: matrix_OO @ x_O, scale_O * y_O, tol=_TOLERANCE, maxiter=_STEPS)[0]
