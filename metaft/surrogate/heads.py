"""From what a network made of a query to its distributions: a curve, G Gaussians around it, one for the log cost rate.

    mean(t) = curve(t) + (1 + g) (m(t) - m(n)) + residual_g(t)

n is the last observation, y_n its value, m what is expected of such a run by other tasks' runs and by this one's so far
(process.py). Without an own curve y_n is predicted and stands at the grid's beginning, and m(n) is 0. Values are half
the logarithm of a loss, see transforms.py.
A curve has a few coefficients, given by the network; the heads differ in the curve, and in what of the budget the
residual reads:

    anchored    y_n + a (1 - (t_n / t)^b)
    law         y_n + l(t) - l(n),   l(t) = log(E + A t^-gamma D^-beta X^-alpha) / 2
    law_alone   the same, and nothing remembered: m(t) is 0
    free        y_n

The law is a joint power law of the loss in steps, training examples D and model parameters X. D and X reach it as they
are, logarithms less their median in training, and the rest of the network not at all; its residual reads functions of
the budget that level off: what is beyond the budgets, data and models of training is the law's business. `free` leaves
all to the residual. (m is flat beyond the budgets of training, as its curves are.)

Reference: Zhang et al., arXiv 2402.17193, equation 1, with steps as a third factor.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from metaft.errors import ModelError
from metaft.surrogate import curves, process
from metaft.surrogate.context import Query, Task
from metaft.surrogate.likelihood import Mixture
from metaft.surrogate.network import Architecture, Output, linear

_MIN_SD = 2e-3  # of a value; far below the noise of a seed
_MIN_COST_SD = 2e-2
_SIZE_EXPONENT = 0.2  # scale of alpha and beta: published ones are at most 0.3


class CurveHead(nnx.Module):
    """(trunk, query, task, log budgets) -> distributions relative to the levels of the context."""

    def __init__(self, a: Architecture, rngs: nnx.Rngs):
        check(a.head)
        self.name = a.head
        self.num_components = a.num_components
        self.law = linear(a.trunk_width, HEADS[a.head].num_coefficients + 1 + HEADS[a.head].remembers, rngs=rngs)
        self.from_trunk = linear(a.trunk_width, a.width, rngs=rngs)
        self.from_budget = linear(4, a.width, use_bias=False, rngs=rngs)
        self.out = linear(a.width, 3 * a.num_components + 2, rngs=rngs)

    def __call__(self, trunk_CD: jax.Array, query: Query, task: Task, log_budget_CT: jax.Array) -> Output:
        head, coefficients = HEADS[self.name], list(self.law(trunk_CD).T)
        gain_C = coefficients.pop() if head.remembers else None
        rate_C = coefficients.pop()
        has_C = query.has_curve_C
        law_CT, budget_CTF = head.curve(coefficients, query, task, log_budget_CT)
        if head.remembers:  # what is expected of such runs, from the last observation on
            known_CU = query.config_CE[:, -process.SIZE : -process.SIZE + curves.NUM_RESAMPLED]
            known_CT = curves.read(known_CU, log_budget_CT)
            known_CT -= has_C[:, None] * curves.read(known_CU, query.last_log_budget_C[:, None])
            law_CT += (1.0 + gain_C)[:, None] * known_CT

        hidden_CTD = jax.nn.silu(self.from_trunk(trunk_CD)[:, None, :] + self.from_budget(budget_CTF))
        out_CTF = self.out(hidden_CTD)
        logit_CTG, shift_CTG, log_sd_CTG = jnp.split(out_CTF[..., :-2], 3, axis=2)
        spread_CTG = 0.5 * jnp.exp(jnp.clip(log_sd_CTG, -7.0, 2.0))
        value = Mixture(
            log_weight=jax.nn.log_softmax(logit_CTG, axis=2),
            mean=law_CT[..., None] + shift_CTG + 0.5 * jnp.linspace(-1.0, 1.0, self.num_components)[None, None, :],
            sd=spread_CTG + _MIN_SD,
        )
        rate_mean_CT = (has_C * query.last_rate_C + (1.0 - has_C) * rate_C)[:, None] + out_CTF[..., -2]
        return Output(value, rate_mean_CT, 0.5 * jnp.exp(jnp.clip(out_CTF[..., -1], -5.0, 2.0)) + _MIN_COST_SD)


def _anchored(
    coefficients: Sequence[jax.Array], query: Query, task: Task, log_budget_CT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A power law of the transformed value that comes to y_n + a in the limit."""
    start_C, limit_C, exponent_C = coefficients
    has_C = query.has_curve_C
    octaves_CT = jnp.maximum(log_budget_CT - query.last_log_budget_C[:, None], 0.0)
    anchor_C = has_C * query.last_y_C + (1.0 - has_C) * start_C
    progress_CT = 1.0 - jnp.exp2(-jax.nn.softplus(exponent_C)[:, None] * octaves_CT)
    budget_CTF = jnp.stack(
        [
            1.0 + log_budget_CT / curves.OCTAVES,
            octaves_CT / curves.OCTAVES,
            progress_CT,
            has_C[:, None] * jnp.exp2(-octaves_CT),
        ],
        axis=2,
    )
    return anchor_C[:, None] + limit_C[:, None] * progress_CT, budget_CTF


def _law(
    coefficients: Sequence[jax.Array], query: Query, task: Task, log_budget_CT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A joint power law of the loss in steps, training examples and model parameters, with a floor."""
    floor_C, height_C, exponent_C, by_examples_C, by_parameters_C = coefficients
    sizes_C = _SIZE_EXPONENT * (by_examples_C * task.log_examples + by_parameters_C * task.log_parameters)
    has_C1, last_C1 = query.has_curve_C[:, None], query.last_log_budget_C[:, None]

    def log_reducible(log_budget_CT: jax.Array) -> jax.Array:
        octaves_CT = log_budget_CT + curves.OCTAVES
        return (height_C - sizes_C)[:, None] - jax.nn.softplus(exponent_C)[:, None] * octaves_CT

    law = lambda log_budget_CT: 0.5 * jnp.logaddexp(floor_C[:, None], log_reducible(log_budget_CT))
    law_CT = law(log_budget_CT) + has_C1 * (query.last_y_C[:, None] - law(last_C1))
    octaves_CT = jnp.maximum(log_budget_CT - last_C1, 0.0)
    budget_CTF = jnp.stack(
        [
            jnp.exp2(-0.5 * (log_budget_CT + curves.OCTAVES)),
            jnp.exp2(-0.5 * octaves_CT),
            jax.nn.sigmoid(log_reducible(log_budget_CT) - floor_C[:, None]),  # how much is still to be gained
            has_C1 * jnp.exp2(-octaves_CT),
        ],
        axis=2,
    )
    return law_CT, budget_CTF


def _free(
    coefficients: Sequence[jax.Array], query: Query, task: Task, log_budget_CT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The last value, carried on."""
    (start_C,) = coefficients
    has_C = query.has_curve_C
    octaves_CT = jnp.maximum(log_budget_CT - query.last_log_budget_C[:, None], 0.0)
    anchor_C = has_C * query.last_y_C + (1.0 - has_C) * start_C
    budget_CTF = jnp.stack(
        [
            1.0 + log_budget_CT / curves.OCTAVES,
            octaves_CT / curves.OCTAVES,
            jnp.exp2(-octaves_CT),
            has_C[:, None] * jnp.exp2(-octaves_CT),
        ],
        axis=2,
    )
    return jnp.broadcast_to(anchor_C[:, None], log_budget_CT.shape), budget_CTF


_Curve = Callable[[Sequence[jax.Array], Query, Task, jax.Array], tuple[jax.Array, jax.Array]]


class Head(NamedTuple):
    """The shape of a head."""

    num_coefficients: int  # of its curve, a query
    curve: _Curve
    remembers: bool = True  # what such runs did on other tasks is added to the curve


HEADS = {
    'anchored': Head(3, _anchored),
    'law': Head(5, _law),
    'law_alone': Head(5, _law, remembers=False),
    'free': Head(1, _free),
}


def check(name: str) -> None:
    """Raises ModelError for a name that no head has."""
    if name not in HEADS:
        raise ModelError(f'unknown head {name!r}; one of {", ".join(HEADS)}')
