"""Meta-training: the network learns, over episodes of many tasks, to answer from any context.

The loss of an episode is the negative log likelihood of values at a few budgets a run, a pairwise loss on the order of the final
values (a search needs the order more than the values), and the negative log likelihood of the cost.
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

from metaft.surrogate import deep_set, episodes, likelihood

Params = Any  # the network's parameters, a pytree

_VALIDATION_EPISODES = 64


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The recipe."""

    steps: int = 4000
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


class State(NamedTuple):
    params: Params
    average: Params  # exponential moving average, what is used
    optimizer: optax.OptState


def build(architecture: deep_set.Architecture) -> nnx.GraphDef:
    """Returns the structure of the network, without making any parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: deep_set.DeepSet(architecture, nnx.Rngs(0))))


def initialise(architecture: deep_set.Architecture, seed: int, num_members: int) -> Params:
    """Draws parameters of `num_members` networks, stacked along a first axis."""
    make = lambda key: nnx.state(deep_set.DeepSet(architecture, nnx.Rngs(key)), nnx.Param)
    return jax.jit(jax.vmap(make))(jax.random.split(_key(seed), num_members))


def fit(
    architecture: deep_set.Architecture,
    tables: episodes.Tables,
    fractions_T: np.ndarray,
    settings: TrainingSettings,
    episode_settings: episodes.EpisodeSettings,
    weight_MW: np.ndarray,
    seed: int,
    progress: Callable[[int, float, Params], None] | None = None,
    steps_per_call: int = 100,
    stop_after: int | None = None,
) -> Params:
    """Trains an ensemble.

    Args:
      architecture: of each member.
      tables: the training tables, see `episodes.collate`.
      fractions_T: their grid.
      settings: the recipe.
      episode_settings: how episodes are drawn.
      weight_MW: how often each member sees each task; 0: never.
      seed: of parameters and episodes.
      progress: called after every `steps_per_call` steps with the step, the mean loss and the averaged parameters.
      steps_per_call: compiled into one program.
      stop_after: ends early, on the schedule of `settings.steps`.

    Returns:
      The averaged parameters, members stacked.
    """
    graph = build(architecture)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings.max_gradient_norm), optax.adamw(schedule, weight_decay=settings.weight_decay)
    )
    log_weight_MW = jnp.log(jnp.asarray(weight_MW, jnp.float32))

    def step(state: State, key: jax.Array, log_weight_W: jax.Array, tables: episodes.Tables) -> tuple[State, jax.Array]:
        def batch_loss(params):
            keys = jax.random.split(key, settings.batch_size)
            return jnp.mean(
                jax.vmap(
                    lambda k: episode_loss(
                        nnx.merge(graph, params), k, tables, log_weight_W, fractions_T, settings, episode_settings
                    )
                )(keys)
            )

        loss, gradient = jax.value_and_grad(batch_loss)(state.params)
        with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer step count
            update, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, update)
        return State(params, optax.incremental_update(params, state.average, 1.0 - settings.ema_decay), opt_state), loss

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: State, keys: jax.Array, tables: episodes.Tables) -> tuple[State, jax.Array]:
        def body(state, key):
            return jax.vmap(step, in_axes=(0, 0, 0, None))(
                state, jax.random.split(key, len(weight_MW)), log_weight_MW, tables
            )

        state, losses = jax.lax.scan(body, state, keys)
        return state, jnp.mean(losses)

    params = initialise(architecture, seed, len(weight_MW))
    state = State(params, jax.tree.map(jnp.copy, params), jax.vmap(optimizer.init)(params))
    key = _key(seed + 1)
    last = settings.steps if stop_after is None else min(stop_after, settings.steps)
    for done in range(0, last, steps_per_call):
        num = min(steps_per_call, last - done)
        key, part = jax.random.split(key)
        state, loss = advance(state, jax.random.split(part, num), tables)
        if progress is not None:
            progress(done + num, float(loss), state.average)
    return state.average


def validator(
    architecture: deep_set.Architecture,
    tables: episodes.Tables,
    fractions_T: np.ndarray,
    settings: TrainingSettings,
    weight_MW: np.ndarray,
    seed: int,
) -> Callable[[Params], float]:
    """Returns a function from stacked parameters to their mean loss on fixed episodes of the tasks with weight."""
    graph = build(architecture)
    plain = episodes.EpisodeSettings(mixup=0.0, warp=0.0, cost_shift=0.0, task_dropout=0.0, task_noise=0.0)
    keys = jax.random.split(_key(seed + 2), _VALIDATION_EPISODES)

    @jax.jit
    def validate(params, tables):
        def member(params, log_weight_W):
            network = nnx.merge(graph, params)
            loss = lambda key: episode_loss(network, key, tables, log_weight_W, fractions_T, settings, plain)
            return jnp.mean(jax.lax.map(loss, keys, batch_size=settings.batch_size))

        return jnp.mean(jax.vmap(member)(params, jnp.log(jnp.asarray(weight_MW, jnp.float32))))

    return lambda params: float(validate(params, tables))


def episode_loss(
    network: deep_set.DeepSet,
    key: jax.Array,
    tables: episodes.Tables,
    log_weight_W: jax.Array,
    fractions_T: np.ndarray,
    settings: TrainingSettings,
    episode_settings: episodes.EpisodeSettings,
) -> jax.Array:
    """Draws an episode and returns its loss."""
    episode_key, own_key, budget_key = jax.random.split(key, 3)
    episode = episodes.draw(episode_key, tables, log_weight_W, episode_settings)
    num_Q = min(settings.num_queries, len(episode.y_CT))
    rows = jnp.arange(len(episode.y_CT))
    is_own_shown_C = jax.random.bernoulli(own_key, 1.0 - settings.own_curve_dropout, (num_Q,))
    context, query = deep_set.observe(episode.config_CE, episode.shown, fractions_T, rows, rows[:num_Q], is_own_shown_C)

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

    output = network(context, query, episode.task_Z, log_T[index_CT])
    value_nll = -likelihood.log_density(output.value, y_CT)
    cost_nll = 0.5 * ((rate_CT - output.rate_mean_CT) / output.rate_sd_CT) ** 2 + jnp.log(output.rate_sd_CT)
    final_C = likelihood.mean(output.value)[:, -1]
    return (
        _mean(value_nll, jnp.broadcast_to(is_open_C[:, None], value_nll.shape))
        + settings.rank_weight * rank_loss(final_C, y_CT[:, -1], is_open_C)
        + settings.cost_weight * _mean(cost_nll, has_rate_CT)
    )


def rank_loss(predicted_C: jax.Array, y_C: jax.Array, weight_C: jax.Array) -> jax.Array:
    """Returns the logistic loss over pairs, of the predicted difference in units of the spread; the best quarter counts double.

    log(1 + exp(-(predicted_j - predicted_i) / (spread / 4))) where y_i < y_j.
    """
    mean = _mean(y_C, weight_C)
    spread = jnp.sqrt(_mean((y_C - mean) ** 2, weight_C)) + 0.02
    better_CC = jnp.where(y_C[:, None] < y_C[None, :] - 0.02 * spread, weight_C[:, None] * weight_C[None, :], 0.0)
    is_top_C = jnp.sum(better_CC, axis=0) < 0.25 * jnp.sum(weight_C)
    weight_CC = better_CC * jnp.where(is_top_C, 2.0, 1.0)[:, None]
    margin_CC = (predicted_C[None, :] - predicted_C[:, None]) / (0.25 * spread)
    return _mean(jax.nn.softplus(-margin_CC), weight_CC)


def _key(seed: int) -> jax.Array:
    """Returns a key of a generator that compiles several times faster on a CPU than the default; streams need not agree."""
    return jax.random.key(seed, impl='unsafe_rbg')


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
