"""The search for a law's constants: many starts at once down to their optima, and the best of them to full precision.

All starts descend together, in one compiled program of damped Gauss-Newton steps (reweighted for Huber); SciPy's L-BFGS
with JAX gradients, the optimizer of arXiv 2402.17193, then finishes from the best of them. Double precision, in a
context of its own: nothing global is changed. What is minimised and why is `fitting`'s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from metaft.scaling import laws
from metaft.scaling.laws import Law

_STEPS = 120
_PAD = 16  # points are padded to a multiple of this, so that groups of nearly equal size share a program
_CHUNK = 64  # descents go together in chunks of this many, so that starts and resamples share a program


def log_loss(law: Law, theta_UJ: np.ndarray, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns the log loss [U, I] of rows of centred constants at `inputs` (of `Centre.inputs`)."""
    with jax.enable_x64(True):
        return np.array(_log_loss_of_all(law, theta_UJ, *inputs))


@functools.partial(jax.jit, static_argnums=0)
def _log_loss_of_all(law: Law, theta_UJ, d_I, x_IX, member_IX):
    return jax.vmap(lambda theta_J: laws.log_loss(law, theta_J, d_I, x_IX, member_IX))(theta_UJ)


def descend(law, theta_UJ, inputs, measured, repeats_I, delta, limits) -> tuple[np.ndarray, np.ndarray]:
    """Returns (theta_UJ, cost_U) at the end of every start's descent.

    Args:
      law: the form.
      theta_UJ: starts, centred constants.
      inputs: of `Centre.inputs`.
      measured: log losses [I], or [U, I] a row a start.
      repeats_I: weights.
      delta: of Huber; infinite for least squares.
      limits: (low, high), each [J], or [U, J] a row a start; a constant is held where both are equal.
    """
    padding = -len(repeats_I) % _PAD
    pad = lambda array: np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
    fixed = (*map(pad, inputs), pad(repeats_I), delta)
    low_UJ, high_UJ = (np.broadcast_to(limit, theta_UJ.shape) for limit in limits)
    measured_UI = np.pad(np.broadcast_to(measured, (len(theta_UJ), len(repeats_I))), [(0, 0), (0, padding)])
    chunks = []
    with jax.enable_x64(True):
        for first in range(0, len(theta_UJ), _CHUNK):
            rows = np.minimum(np.arange(first, first + _CHUNK), len(theta_UJ) - 1)  # the last row fills the last chunk
            own = (theta_UJ[rows], measured_UI[rows], low_UJ[rows], high_UJ[rows])
            chunks.append([np.array(part) for part in _descent(law, *own, *fixed)])
    theta_UJ, cost_U = (np.concatenate(parts)[: len(theta_UJ)] for parts in zip(*chunks))
    return theta_UJ, cost_U


@functools.partial(jax.jit, static_argnums=0)
def _descent(law: Law, theta_UJ, measured_UI, low_UJ, high_UJ, d_I, x_IX, member_IX, repeats_I, delta):
    """Damped Gauss-Newton within bounds, from every start at once; a step that does not lower the cost is undone."""

    def descend_one(theta_J, measured_I, low_J, high_J):
        residual = lambda theta_J: laws.log_loss(law, theta_J, d_I, x_IX, member_IX) - measured_I
        jacobian = jax.jacfwd(residual)
        cost_at = lambda theta_J: jnp.sum(repeats_I * _huber(residual(theta_J), delta))

        def step(state, _):
            theta_J, cost, damping = state
            residual_I, jacobian_IJ = residual(theta_J), jacobian(theta_J)
            weight_I = repeats_I / jnp.maximum(1.0, jnp.abs(residual_I) / delta)
            gradient_J = jacobian_IJ.T @ (weight_I * residual_I)
            # A constant at its bound that would leave it, or that is fixed, takes no part in the step.
            stuck_J = (
                ((theta_J <= low_J) & (gradient_J > 0)) | ((theta_J >= high_J) & (gradient_J < 0)) | (low_J == high_J)
            )
            jacobian_IJ = jnp.where(stuck_J[None], 0.0, jacobian_IJ)
            hessian_JJ = jacobian_IJ.T @ (weight_I[:, None] * jacobian_IJ)
            diagonal_J = damping * jnp.diag(hessian_JJ) + 1e-14 + stuck_J.astype(theta_J.dtype)
            move_J = jnp.linalg.solve(hessian_JJ + jnp.diag(diagonal_J), jnp.where(stuck_J, 0.0, gradient_J))
            new_J = jnp.clip(theta_J - move_J, low_J, high_J)
            new_cost = cost_at(new_J)
            better = new_cost < cost
            damping = jnp.clip(jnp.where(better, damping / 4, damping * 5), 1e-12, 1e12)
            return (jnp.where(better, new_J, theta_J), jnp.where(better, new_cost, cost), damping), None

        theta_J = jnp.clip(theta_J, low_J, high_J)
        state = (theta_J, cost_at(theta_J), jnp.float64(1e-2))
        (theta_J, cost, _), _ = jax.lax.scan(step, state, length=_STEPS)
        return theta_J, cost

    return jax.vmap(descend_one)(theta_UJ, measured_UI, low_UJ, high_UJ)


def _huber(residual_I, delta):
    """r^2 / 2 up to delta, delta (|r| - delta / 2) beyond; least squares where delta is infinite."""
    size_I = jnp.abs(residual_I)
    inner_I = jnp.minimum(size_I, delta)
    return inner_I * (size_I - inner_I / 2)


def finish(law, theta_J, inputs, measured_I, repeats_I, delta, limits) -> np.ndarray:
    """Returns the optimum that SciPy's bounded L-BFGS reaches from `theta_J`, or `theta_J` where that is as good."""
    with jax.enable_x64(True):
        arguments = (*inputs, measured_I, repeats_I, delta)
        start_cost = max(float(_cost(law, theta_J, *arguments)[0]), 1e-300)

        def scaled(theta_J):  # SciPy's tolerance is relative to at least one
            value, gradient_J = _cost(law, theta_J, *arguments)
            return float(value) / start_cost, np.array(gradient_J) / start_cost

        found = scipy.optimize.minimize(
            scaled,
            theta_J,
            jac=True,
            method='L-BFGS-B',
            bounds=list(zip(*limits)),
            options={'maxiter': 500, 'ftol': 1e-14},
        )
    return found.x if found.fun < 1.0 else theta_J


@functools.partial(jax.jit, static_argnums=0)
def _cost(law: Law, theta_J, d_I, x_IX, member_IX, measured_I, repeats_I, delta):
    def cost(theta_J):
        residual_I = laws.log_loss(law, theta_J, d_I, x_IX, member_IX) - measured_I
        return jnp.sum(repeats_I * _huber(residual_I, delta))

    return jax.value_and_grad(cost)(theta_J)
