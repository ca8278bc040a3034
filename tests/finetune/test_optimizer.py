"""The four optimizers: equal to optax's own, with hyperparameters that are arrays; LoRA+, clipping, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaft.finetune import optimizer
from metaft.finetune.search_space import OPTIMIZERS, Configuration

RATE, STEPS = 3e-3, 3
# What optax offers ready-made, without our clipping and weight decay.
READY = {
    'adamw': optax.adam(RATE, b2=0.99),
    'lion': optax.lion(RATE, b1=0.9, b2=0.99, weight_decay=0.0),
    'sgd': optax.sgd(RATE, momentum=0.9),
    'adafactor': optax.adafactor(RATE, multiply_by_parameter_scale=False),
}


def tree(seed, rank=2):
    draw = np.random.default_rng(seed).standard_normal
    return {'a.b': {'lora_A': jnp.float32(draw((5, rank))), 'lora_B': jnp.float32(draw((rank, 3)))}}


def hyper(name, **changes):
    values = {'optimizer': name, 'learning_rate': RATE, 'schedule': 'constant', 'warmup_fraction': 0.0}
    values |= {'beta2': 0.99} if name in ('adamw', 'lion') else {}
    found = optimizer.hyperparameters(Configuration.from_dict(values | {'clip_norm': 1e6} | changes), STEPS)
    return {key: jnp.asarray(value) for key, value in found.items()}


def train(name, hyper, start, grads):
    trained, state = start, optimizer.init(name, start)
    for step, gradient in enumerate(grads):
        trained, state = optimizer.update(name, hyper, jnp.int32(step), gradient, state, trained)
    return trained


def change(name, hyper, start, grads):
    return jax.tree.map(lambda x, y: np.asarray(x - y), train(name, hyper, start, grads), start)


GRADS = [tree(seed) for seed in range(1, STEPS + 1)]


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_without_extras_it_is_the_one_of_optax(name):
    got, want = train(name, hyper(name), tree(0), GRADS), tree(0)
    state = READY[name].init(want)
    with jax.numpy_dtype_promotion('standard'):
        for gradient in GRADS:
            updates, state = READY[name].update(gradient, state, want)
            want = optax.apply_updates(want, updates)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_lora_plus_multiplies_the_rate_of_b_alone(name):
    plain = change(name, hyper(name, weight_decay=0.1), tree(0), GRADS[:1])['a.b']
    plus = change(name, hyper(name, weight_decay=0.1, lora_plus_ratio=8.0), tree(0), GRADS[:1])['a.b']
    np.testing.assert_allclose(plus['lora_A'], plain['lora_A'], rtol=1e-6)
    # Changes are differences of weights near 1, which float32 rounds to 1e-7.
    np.testing.assert_allclose(plus['lora_B'], 8.0 * plain['lora_B'], rtol=1e-5, atol=2e-6)


def test_clipping_is_by_the_configurations_norm():
    norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(GRADS[0]))))
    whole = change('sgd', hyper('sgd'), tree(0), GRADS[:1])
    clipped = change('sgd', hyper('sgd', clip_norm=norm / 10), tree(0), GRADS[:1])
    for x, y in zip(jax.tree.leaves(clipped), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(10.0 * x, y, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_masked_ranks_change_nothing(name):
    """What a rank is padded to decides the program; it must not decide the run."""

    def pad(tree):
        wide = lambda x, axis: jnp.pad(x, [(0, 6 * (axis == 0)), (0, 6 * (axis == 1))])
        return {'a.b': {'lora_A': wide(tree['a.b']['lora_A'], 1), 'lora_B': wide(tree['a.b']['lora_B'], 0)}}

    narrow = train(name, hyper(name), tree(0), GRADS)
    wide = train(name, hyper(name), pad(tree(0)), [pad(g) for g in GRADS])
    for x, y in zip(jax.tree.leaves(wide), jax.tree.leaves(pad(narrow)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
