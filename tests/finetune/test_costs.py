"""The FLOPs formula against what XLA counts: unrolled layers, wide enough that products are nearly all there is;
and what the variants add: a LoRA by its layers, DoRA for its norms once an update.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft.finetune.costs import forward_flops, linear_shapes, training_flops
from metaft.finetune.data import Rows
from metaft.finetune.methods import METHODS
from metaft.finetune.search_space import Configuration
from metaft.finetune.step import answer_scores
from metaft.phi3 import Phi3
from tests.phi3 import cases

WITHIN = 0.05
B, L, A = 2, 32, 8
CONFIG = cases.config(
    hidden_size=512, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
    vocab_size=1024,
)  # fmt: skip
NO_LORA = {'rank': None, 'alpha_ratio': None, 'dropout': None, 'targets': None}
SMALL = cases.CONFIGS['grouped']  # 2 layers
LENGTH, ANSWER = np.array([12, 20]), np.array([3, 5])
CONFIGURATIONS = {
    'lora': Configuration(rank=32, dropout=0.0),
    'full': Configuration(method='full', learning_rate=1e-4, **NO_LORA),
    'prompt': Configuration(method='prompt', learning_rate=0.1, prompt_length=32, **NO_LORA),
}


def programs(configuration):
    """Returns the forward pass and the gradient of one member over B rows without padding, and their argument."""
    method = METHODS[configuration.method]
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Phi3(CONFIG, rngs=nnx.Rngs(0))))
    rows = Rows(np.ones((1, B, L), np.int32), np.full((1, B), L - A, np.int32), np.full((1, B), L, np.int32), A)
    settings = jax.tree.map(lambda x: jnp.asarray(x)[None], method.settings(configuration))
    one = lambda params: method.init(
        nnx.merge(graphdef, params), jax.tree.map(lambda x: x[0], settings), jax.random.key(0)
    )
    trainable = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), jax.eval_shape(one, params))

    def loss(trainable, params):
        nats, *_ = answer_scores(graphdef, configuration.method, params, trainable, settings, rows, None)
        return jnp.sum(nats)

    return loss, jax.grad(loss), (trainable, params)


def counted(function, arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()['flops']


@pytest.mark.parametrize('method', CONFIGURATIONS)
def test_formula_is_what_xla_counts(method):
    configuration = CONFIGURATIONS[method]
    loss, gradient, arguments = programs(configuration)
    length, answer = np.full(B, L), np.full(B, A)
    if method == 'full':
        assert counted(loss, arguments) == pytest.approx(forward_flops(CONFIG, length, answer).sum(), rel=WITHIN)
    wanted = training_flops(CONFIG, configuration, length, answer).sum()
    assert counted(gradient, arguments) == pytest.approx(wanted, rel=WITHIN)


def flops(**changes):
    return training_flops(SMALL, dataclasses.replace(Configuration(rank=4), **changes), LENGTH, ANSWER)


def test_half_of_the_layers_cost_half_of_the_branches():
    whole, half = flops(), flops(layers='first_half')
    branch = 3 * 2 * 4 * sum(d + f for d, f in linear_shapes(SMALL).values()) * LENGTH
    np.testing.assert_allclose(whole - half, branch)
    np.testing.assert_array_equal(half, flops(layers='last_half'))


def test_dora_pays_for_its_norms_by_update_and_not_by_token():
    extra = flops(dora=True, batch_size=8) - flops(batch_size=8)
    assert extra[0] == pytest.approx(extra[1])
    assert extra[0] == pytest.approx(2 * sum(2 * 5 * d * f for d, f in linear_shapes(SMALL).values()) / 8)
    np.testing.assert_allclose(flops(dora=True, batch_size=16) - flops(batch_size=16), extra / 2)
