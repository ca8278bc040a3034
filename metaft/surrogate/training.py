"""Meta-training: the network learns, over episodes of many tasks, to answer from any context.

The loss of an episode is the negative log likelihood of values at a few budgets a run, a pairwise loss on the order of
the final values (a search needs the order more than the values), and the negative log likelihood of the cost.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metaft.surrogate import architectures, episodes, likelihood
from metaft.surrogate.context import observe
from metaft.surrogate.network import Architecture
from metaft.surrogate.process import Kernel

Params = Any  # the network's parameters, a pytree

_STEPS_PER_CALL = 100
_VALIDATION_EPISODES = 64


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The recipe."""

    steps: int = 3000
    batch_size: int = 8  # episodes an update
    num_queries: int = 48  # runs asked about an episode
    num_budgets: int = 5  # budgets asked a run, the last one always
    learning_rate: float = 2e-3  # peak of a cosine to zero
    weight_decay: float = 1e-3
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.995
    own_curve_dropout: float = 0.5  # queries that do not see their own curve
    rank_weight: float = 2.0
    cost_weight: float = 0.2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a compiled training program depends on besides the shapes of its tables."""

    architecture: Architecture
    fractions: tuple[float, ...]  # the grid of the tables
    training: TrainingSettings
    episodes: episodes.EpisodeSettings


class State(NamedTuple):
    params: Params
    average: Params  # exponential moving average, what is used
    optimizer: optax.OptState


def build(architecture: Architecture) -> nnx.GraphDef:
    """Returns the structure of the network, without making any parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: architectures.make(architecture, nnx.Rngs(0))))


def initialise(architecture: Architecture, seed: int, num_members: int) -> Params:
    """Draws parameters of `num_members` networks, stacked along a first axis."""
    make = lambda key: nnx.state(architectures.make(architecture, nnx.Rngs(key)), nnx.Param)
    return jax.jit(jax.vmap(make))(jax.random.split(_key(seed), num_members))


def fit(
    recipe: Recipe,
    kernel: Kernel,
    tables: episodes.Tables,
    weight_MW: np.ndarray,
    seed: int,
    progress: Callable[[int, float, Params], None] = lambda *_: None,
    stop_after: int | None = None,
) -> Params:
    """Trains an ensemble.

    Args:
      recipe: architecture, grid and settings.
      kernel: the prior of tasks, see `process.py`.
      tables: the training tables, see `episodes.collate`.
      weight_MW: how often each member sees each task; 0: never.
      seed: of parameters and episodes.
      progress: called every 100 steps with the step, the mean loss and the averaged parameters.
      stop_after: ends early, on the schedule of all steps.

    Returns:
      The averaged parameters, members stacked.
    """
    num_M = len(weight_MW)
    params = initialise(recipe.architecture, seed, num_M)
    state = State(params, jax.tree.map(jnp.copy, params), jax.vmap(_optimizer(recipe.training).init)(params))
    log_weight_MW = jnp.log(jnp.asarray(weight_MW, jnp.float32))
    key, advance = _key(seed + 1), _advance(recipe)
    last = recipe.training.steps if stop_after is None else stop_after
    for done in range(0, last, _STEPS_PER_CALL):
        num = min(_STEPS_PER_CALL, last - done)
        key, part = jax.random.split(key)
        state, loss = advance(state, jax.random.split(part, (num, num_M)), log_weight_MW, kernel, tables)
        progress(done + num, float(loss), state.average)
    return state.average


@functools.cache
def _advance(recipe: Recipe) -> Callable[..., tuple[State, jax.Array]]:
    """Returns the compiled program of some steps of all members; the same for every split of the tasks."""
    graph, optimizer = build(recipe.architecture), _optimizer(recipe.training)

    def step(
        state: State, key: jax.Array, log_weight_W: jax.Array, kernel: Kernel, tables: episodes.Tables
    ) -> tuple[State, jax.Array]:
        def batch_loss(params: Params) -> jax.Array:
            network = nnx.merge(graph, params)
            loss = lambda key: episode_loss(network, key, kernel, tables, log_weight_W, recipe)
            return jnp.mean(jax.vmap(loss)(jax.random.split(key, recipe.training.batch_size)))

        loss, gradient = jax.value_and_grad(batch_loss)(state.params)
        with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer step count
            update, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, update)
        average = optax.incremental_update(params, state.average, 1.0 - recipe.training.ema_decay)
        return State(params, average, opt_state), loss

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: State, keys_SM: jax.Array, log_weight_MW: jax.Array, kernel: Kernel, tables: episodes.Tables):
        members = jax.vmap(step, in_axes=(0, 0, 0, None, None))
        one = lambda s, keys_M: members(s, keys_M, log_weight_MW, kernel, tables)
        state, losses_SM = jax.lax.scan(one, state, keys_SM)
        return state, jnp.mean(losses_SM)

    return advance


def validator(
    recipe: Recipe, kernel: Kernel, tables: episodes.Tables, weight_MW: np.ndarray, seed: int
) -> Callable[[Params], float]:
    """Returns a function from stacked parameters to their mean loss on fixed episodes of the tasks with weight."""
    graph = build(recipe.architecture)
    plain = dataclasses.replace(recipe, episodes=episodes.unperturbed(recipe.episodes))

    @jax.jit
    def validate(params: Params, log_weight_MW: jax.Array, kernel: Kernel, tables: episodes.Tables) -> jax.Array:
        keys = jax.random.split(_key(seed + 2), _VALIDATION_EPISODES)

        def member(params: Params, log_weight_W: jax.Array) -> jax.Array:
            network = nnx.merge(graph, params)
            loss = lambda key: episode_loss(network, key, kernel, tables, log_weight_W, plain)
            return jnp.mean(jax.lax.map(loss, keys, batch_size=recipe.training.batch_size))

        return jnp.mean(jax.vmap(member)(params, log_weight_MW))

    log_weight_MW = jnp.log(jnp.asarray(weight_MW, jnp.float32))
    return lambda params: float(validate(params, log_weight_MW, kernel, tables))


def _optimizer(settings: TrainingSettings) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.chain(
        optax.clip_by_global_norm(settings.max_gradient_norm), optax.adamw(schedule, weight_decay=settings.weight_decay)
    )


def episode_loss(
    network: nnx.Module,
    key: jax.Array,
    kernel: Kernel,
    tables: episodes.Tables,
    log_weight_W: jax.Array,
    recipe: Recipe,
) -> jax.Array:
    """Draws an episode and returns its loss."""
    settings, fractions_T = recipe.training, np.array(recipe.fractions)
    episode_key, own_key, budget_key = jax.random.split(key, 3)
    episode = episodes.draw(episode_key, tables, log_weight_W, recipe.episodes)
    num_Q = min(settings.num_queries, len(episode.y_CT))
    rows = jnp.arange(len(episode.y_CT))
    # Asked about without their curve, runs stay in the context: leaving them out, as is cleaner, lost .05 nats.
    is_own_shown_C = jax.random.bernoulli(own_key, 1.0 - settings.own_curve_dropout, (num_Q,))
    context, query = observe(kernel, episode.runs, episode.shown, fractions_T, rows, rows[:num_Q], is_own_shown_C)

    # Budgets between what is shown of a run and what was measured of it, the last one always.
    measured_C = episode.measured_C[:num_Q]
    shown_C = jnp.where(is_own_shown_C, episode.shown.last_C[:num_Q] + 1, 0)
    is_open_C = (shown_C < measured_C).astype(jnp.float32)
    position_CT = jax.random.uniform(budget_key, (num_Q, settings.num_budgets)).at[:, -1].set(1.0)
    remaining_CT = (measured_C - shown_C)[:, None].astype(jnp.float32)
    index_CT = jnp.minimum(shown_C[:, None] + (position_CT * remaining_CT).astype(jnp.int32), measured_C[:, None] - 1)
    index_CT = jnp.maximum(index_CT, 0)
    log_T = jnp.asarray(np.log2(fractions_T), jnp.float32)
    y_CT = jnp.take_along_axis(episode.y_CT[:num_Q], index_CT, axis=1)
    rate_CT = jnp.take_along_axis(episode.rate_CT[:num_Q], index_CT, axis=1)
    has_rate_CT = jnp.where(jnp.take_along_axis(episode.has_rate_CT[:num_Q], index_CT, axis=1), is_open_C[:, None], 0.0)

    output = network(context, query, episode.task, log_T[index_CT])
    value_nll = -likelihood.log_density(output.value, y_CT)
    cost_nll = 0.5 * ((rate_CT - output.rate_mean_CT) / output.rate_sd_CT) ** 2 + jnp.log(output.rate_sd_CT)
    final_C = likelihood.mean(output.value)[:, -1]
    return (
        _mean(value_nll, jnp.broadcast_to(is_open_C[:, None], value_nll.shape))
        + settings.rank_weight * rank_loss(final_C, y_CT[:, -1], is_open_C)
        + settings.cost_weight * _mean(cost_nll, has_rate_CT)
    )


def rank_loss(predicted_C: jax.Array, y_C: jax.Array, weight_C: jax.Array) -> jax.Array:
    """Returns the mean over pairs with y_i < y_j of log(1 + exp(-(predicted_j - predicted_i) / (spread / 4))).

    The spread is that of y; pairs whose better one is among the best quarter count twice.
    """
    mean = _mean(y_C, weight_C)
    spread = jnp.sqrt(_mean((y_C - mean) ** 2, weight_C)) + 0.02
    better_CC = jnp.where(y_C[:, None] < y_C[None, :] - 0.02 * spread, weight_C[:, None] * weight_C[None, :], 0.0)
    is_top_C = jnp.sum(better_CC, axis=0) < 0.25 * jnp.sum(weight_C)
    weight_CC = better_CC * jnp.where(is_top_C, 2.0, 1.0)[:, None]
    margin_CC = (predicted_C[None, :] - predicted_C[:, None]) / (0.25 * spread)
    return _mean(jax.nn.softplus(-margin_CC), weight_CC)


def _key(seed: int) -> jax.Array:
    """Returns a key of a generator that compiles several times faster on a CPU than the default."""
    return jax.random.key(seed, impl='unsafe_rbg')


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
