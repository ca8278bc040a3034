"""Optimizers whose hyperparameters are arrays, so that members of a population differ in them without recompiling.

    clip the gradient's norm -> AdamW, Lion, Adafactor or SGD -> decoupled weight decay -> learning rate

Which of the four is static: each has a state of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaft.finetune.search_space import SCHEDULES, Configuration

Hyper = dict[str, Array]


def hyperparameters(configuration: Configuration, total_steps: int) -> dict[str, np.generic]:
    """Return one member's optimizer hyperparameters as scalars (stacked over M in a population)."""
    return {
        'learning_rate': np.float32(configuration.learning_rate),
        'schedule': np.int32(SCHEDULES.index(configuration.schedule)),
        'warmup_steps': np.float32(configuration.warmup_fraction * total_steps),
        'total_steps': np.float32(total_steps),
        'weight_decay': np.float32(configuration.weight_decay),
        'beta2': np.float32(configuration.beta2 or 0.0),
        'clip_norm': np.float32(configuration.clip_norm),
        'lora_plus_ratio': np.float32(configuration.lora_plus_ratio or 1.0),
    }


def learning_rate(hyper: Hyper, step: Array) -> Array:
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


def transformation(name: str, hyper: Hyper, step: Array) -> optax.GradientTransformation:
    """Return what the optimizer `name` of OPTIMIZERS does with one member's gradient at update `step`.

    Weight decay is decoupled for all four, for SGD too (SGDW, arXiv 1711.05101).
    """
    return optax.chain(
        optax.clip_by_global_norm(hyper['clip_norm']),
        OPTIMIZERS[name](hyper),
        optax.add_decayed_weights(hyper['weight_decay']),
        _descend(learning_rate(hyper, step), hyper['lora_plus_ratio']),
    )


def init(name: str, trainable: dict) -> optax.OptState:
    """Return one member's optimizer state; it depends on the shapes alone."""
    anything = {key: jnp.asarray(value) for key, value in hyperparameters(Configuration(), 1).items()}
    return transformation(name, anything, jnp.int32(0)).init(trainable)


def update(name: str, hyper: Hyper, step: Array, grads: dict, state: optax.OptState, trainable: dict):
    """Return (trainable, state) after update `step` of one member."""
    with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer count
        updates, state = transformation(name, hyper, step).update(grads, state, trainable)
    return optax.apply_updates(trainable, updates), state


def _adamw(hyper: Hyper) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=0.9, b2=hyper['beta2'], eps=1e-8)


def _lion(hyper: Hyper) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=0.9, b2=hyper['beta2'])


def _adafactor(hyper: Hyper) -> optax.GradientTransformation:
    """Adafactor with a learning rate of its own: no momentum, no relative step, no scaling by the parameter's size, as
    the Hugging Face Trainer sets it. Its second moment is factored where both dimensions have 128 entries or more."""
    del hyper
    return optax.chain(optax.scale_by_factored_rms(), _clip_rms(1.0))


def _sgd(hyper: Hyper) -> optax.GradientTransformation:
    del hyper
    return optax.trace(decay=0.9)  # momentum; what it does is nearly that of a larger learning rate


OPTIMIZERS = {'adamw': _adamw, 'lion': _lion, 'adafactor': _adafactor, 'sgd': _sgd}


def _clip_rms(threshold: float) -> optax.GradientTransformation:
    """Adafactor's clipping of each array's update (arXiv 1804.04235, section 6) by the root mean square of the entries
    in use: those of masked ranks are zero, and their number must change nothing."""

    def clip(update):
        rms = jnp.sqrt(jnp.sum(update**2) / jnp.maximum(jnp.sum(update != 0, dtype=jnp.float32), 1.0))
        return update / jnp.maximum(1.0, rms / threshold)

    return optax.stateless(lambda updates, params=None: jax.tree.map(clip, updates))


def _descend(rate: Array, ratio: Array) -> optax.GradientTransformation:
    """Scale by minus the learning rate, which is `ratio` times as large for the B of a LoRA (LoRA+)."""
    is_b = lambda path: path[-1] == jax.tree_util.DictKey('lora_B')

    def scale(updates, params=None):
        return jax.tree.map_with_path(lambda path, u: u * -(rate * ratio if is_b(path) else rate), updates)

    return optax.stateless(scale)


assert SCHEDULES == ('constant', 'linear', 'cosine'), 'learning_rate indexes its shapes in this order'
