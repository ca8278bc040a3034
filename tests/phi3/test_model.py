"""Properties of the model that hold without a reference; agreement with transformers is in test_parity.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft.errors import ModelError
from metaft.phi3 import PRESETS, Phi3, count_parameters
from tests.phi3 import cases

EVERY = pytest.mark.parametrize('name', cases.CONFIGS)


def reach(model, length=cases.LENGTH):
    """Returns [L, L]: how strongly the logits at each position depend on the embedding at each, by gradients."""
    x_BLD = model.embed(jnp.asarray(cases.tokens(model.config, 1, length)))
    weights_V = jnp.linspace(-1.0, 1.0, model.config.vocab_size)
    jacobian = nnx.jit(lambda m, x: jax.jacrev(lambda x: m.logits(m.hidden(x))[0] @ weights_V)(x))(model, x_BLD)
    return np.abs(np.asarray(jacobian))[:, 0].sum(-1)


@EVERY
def test_no_position_depends_on_a_later_one_and_the_window_bounds_how_far_back(name):
    config = cases.CONFIGS[name]
    reach_LS = reach(cases.model(config))
    distance = np.arange(cases.LENGTH)[:, None] - np.arange(cases.LENGTH)[None]
    farthest = config.num_hidden_layers * ((config.sliding_window or cases.LENGTH) - 1)  # a window a layer
    np.testing.assert_array_equal(reach_LS > 0, (distance >= 0) & (distance <= farthest))


@EVERY
def test_padding_on_either_side_changes_nothing(name):
    config = cases.CONFIGS[name]
    model, tokens, length = cases.model(config), cases.tokens(config, 1), cases.LENGTH
    whole, index = cases.logits(model, tokens), np.arange(length + 5)[None]
    # Positions are given: longrope chooses its factors by the largest one.
    right = np.pad(tokens, ((0, 0), (0, 5)), constant_values=7)
    got = cases.logits(model, right, np.minimum(index, length - 1), index < length)
    np.testing.assert_allclose(got[:, :length], whole, atol=1e-5)
    left = np.pad(tokens, ((0, 0), (5, 0)), constant_values=7)
    got = cases.logits(model, left, np.maximum(index - 5, 0), index >= 5)
    np.testing.assert_allclose(got[:, 5:], whole, atol=1e-5)


def test_positions_count_relative_to_each_other_only():
    config = cases.CONFIGS['grouped']
    model, tokens = cases.model(config), cases.tokens(config)
    shifted = cases.logits(model, tokens, 9 + np.arange(cases.LENGTH)[None])
    np.testing.assert_allclose(shifted, cases.logits(model, tokens), atol=1e-5)


def test_tied_embeddings_are_one_parameter_with_both_gradients():
    config = cases.CONFIGS['tied']
    graph, state = nnx.split(cases.model(config))
    tokens = cases.tokens(config)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(nnx.merge(graph, s)(tokens)[..., 5])))(state)
    assert 'lm_head' not in state
    unused = next(token for token in range(config.vocab_size) if token not in tokens and token != 5)
    rows = np.abs(np.asarray(gradient['embed_tokens'][...])).sum(-1)
    assert rows[5] > 0 and rows[tokens[0, 0]] > 0 and rows[unused] == 0


def test_longrope_takes_its_long_factors_when_a_position_reaches_the_original_length():
    config = cases.CONFIGS['longrope_short']  # original length 13
    model, tokens = cases.model(config), cases.tokens(config, 1, 14)
    short, long = cases.logits(model, tokens[:, :13]), cases.logits(model, tokens)
    assert np.abs(short - long[:, :13]).max() > 1e-3
    shifted = cases.logits(model, tokens[:, :13], 1 + np.arange(13)[None])  # positions count relatively but for this
    np.testing.assert_allclose(shifted, long[:, :13], atol=1e-5)


def test_half_precision_parameters_give_float32_logits_close_by():
    config = cases.CONFIGS['grouped']
    whole = cases.model(config)
    graph, state = nnx.split(whole)
    half = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    tokens = cases.tokens(config)
    hidden, logits = nnx.jit(lambda m: (m.hidden(m.embed(tokens)), m(tokens)))(half)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    exact = cases.logits(whole, tokens)
    assert np.abs(logits - exact).mean() < 0.02 * np.abs(exact).mean()  # a rounding to bfloat16 errs by up to 0.4 %


@pytest.mark.parametrize('remat', ['dots', 'layer'])
def test_rematerialisation_changes_the_memory_and_not_the_gradients(remat):
    config = cases.config(num_hidden_layers=4, intermediate_size=256)
    graph, state = nnx.split(cases.model(config))
    tokens = cases.tokens(config, 4, 32)

    def gradient(policy):
        def loss(state):
            model = nnx.merge(graph, state)
            model.remat = policy
            return jnp.mean(model.logits(model.hidden(model.embed(tokens))) ** 2)

        compiled = jax.jit(jax.value_and_grad(loss)).lower(state).compile()
        return compiled(state), str(jax.make_jaxpr(jax.grad(loss))(state))

    (loss, wanted), plain = gradient('none')
    (same_loss, got), program = gradient(remat)
    assert same_loss == pytest.approx(float(loss), rel=1e-6)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6 * float(np.abs(two).max()) + 1e-7)
    # A policy that did nothing would pass so far: matmuls of the forward pass must occur again, of attention at least.
    assert program.count('dot_general') > plain.count('dot_general')


def test_an_unknown_token_gives_nan_and_not_another_tokens_logits():
    model = cases.model(cases.CONFIGS['multi_head'])
    assert np.isnan(cases.logits(model, np.array([[1, 61]])))[0, 1].all()


def test_random_initialisation_has_the_asked_for_spread_and_depends_on_the_seed():
    config = cases.config(hidden_size=64, vocab_size=500, num_hidden_layers=1)
    one, two = (Phi3(config, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    assert np.std(one.embed_tokens[...]) == pytest.approx(0.02, rel=0.03)
    assert np.std(one.layers[0].mlp.down_proj.kernel[...]) == pytest.approx(0.02, rel=0.06)
    assert not np.allclose(one.embed_tokens[...], two.embed_tokens[...])


@pytest.mark.parametrize(
    'name, parameters',
    {
        'phi-3-mini-4k': 3_821_079_552,
        'phi-3-mini-128k': 3_821_079_552,
        'phi-3.5-mini': 3_821_079_552,
        'phi-3-medium-4k': 13_960_238_080,
        'phi-4': 14_659_507_200,
        'phi-4-mini': 3_836_021_760,
    }.items(),
)
def test_presets_have_the_published_parameter_counts(name, parameters):
    assert count_parameters(PRESETS[name]) == parameters


def test_a_preset_without_longrope_factors_refuses_to_run():
    for name in ('phi-3-mini-128k', 'phi-3.5-mini', 'phi-4-mini'):
        config = dataclasses.replace(PRESETS[name], num_hidden_layers=1)
        model = nnx.eval_shape(lambda config=config: Phi3(config, rngs=nnx.Rngs(0)))
        with pytest.raises(ModelError, match='part of the published checkpoint'):
            nnx.eval_shape(lambda m: m(jnp.zeros((1, 4), jnp.int32)), model)
