"""AdamW whose hyperparameters are arrays, so that members of a population differ in them without recompiling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaft.finetune.search_space import SCHEDULES, Configuration

MAX_GRADIENT_NORM = 1.0  # the common practice of the field (Hugging Face Trainer's default)


def hyperparameters(configuration: Configuration, total_steps: int) -> dict[str, np.generic]:
    """Return one member's optimizer hyperparameters as scalars (stacked over M in a population)."""
    return {
        'learning_rate': np.float32(configuration.learning_rate),
        'schedule': np.int32(SCHEDULES.index(configuration.schedule)),
        'warmup_steps': np.float32(configuration.warmup_fraction * total_steps),
        'total_steps': np.float32(total_steps),
        'weight_decay': np.float32(configuration.weight_decay),
        'beta2': np.float32(configuration.beta2),
    }


def learning_rate(hyper: dict[str, Array], step: Array) -> Array:
    """Return the learning rate of update `step` (0 is the first): linear warm-up, then constant, linear or cosine to
    zero.

    Warm-up reaches the peak at update `warmup_steps`; the first update is never at zero.
    """
    t = step.astype(jnp.float32)
    warmup, total = hyper['warmup_steps'], hyper['total_steps']
    rising = jnp.minimum(1.0, (t + 1.0) / jnp.maximum(warmup, 1.0))
    done = jnp.clip((t - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    shapes = jnp.stack([jnp.ones_like(done), 1.0 - done, 0.5 * (1.0 + jnp.cos(jnp.pi * done))])
    return hyper['learning_rate'] * rising * shapes[hyper['schedule']]


def transformation(hyper: dict[str, Array], step: Array) -> optax.GradientTransformation:
    """Return clip -> Adam -> decoupled weight decay -> learning rate, for one member at update `step`."""
    return optax.chain(
        optax.clip_by_global_norm(MAX_GRADIENT_NORM),
        optax.scale_by_adam(b1=0.9, b2=hyper['beta2'], eps=1e-8),
        optax.add_decayed_weights(hyper['weight_decay']),
        optax.scale(-learning_rate(hyper, step)),
    )


def init(trainable: dict) -> optax.OptState:
    """Return one member's optimizer state; it depends on the shapes alone."""
    anything = {k: jnp.float32(0.0) for k in ('learning_rate', 'warmup_steps', 'total_steps', 'weight_decay', 'beta2')}
    return transformation({**anything, 'schedule': jnp.int32(0)}, jnp.int32(0)).init(trainable)


def update(hyper: dict[str, Array], step: Array, grads: dict, state: optax.OptState, trainable: dict):
    """Return (trainable, state) after update `step` of one member."""
    with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer count
        updates, state = transformation(hyper, step).update(grads, state, trainable)
    return optax.apply_updates(trainable, updates), state


assert SCHEDULES == ('constant', 'linear', 'cosine'), 'learning_rate indexes its shapes in this order'
