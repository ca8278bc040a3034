"""LoRA, rsLoRA and DoRA: nothing at the start, merged equals adapted, layers chosen by a mask; and soft prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft.adapters import dora, lora, prompt
from metaft.finetune import search_space
from tests.phi3 import cases

CONFIG = cases.CONFIGS['grouped']
TOKENS = cases.tokens(CONFIG)
MODULES = {'lora': lora, 'dora': dora}
VARIANTS = {
    'lora': {},
    'rslora': {'rslora': True},
    'first_half': {'layers': 'first_half'},
    'last_half_mlp': {'layers': 'last_half', 'targets': 'mlp'},
}


def settings(rank=3, **changes):
    return lora.settings(**({'rank': rank, 'alpha': 4.5, 'dropout': 0.0, 'targets': 'all', 'max_rank': 8} | changes))


def adapter(module, model, trained=True):
    start = module.init(model, jax.random.key(0), lora.rank_mask(3, 8))
    if not trained:
        return start
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.float32(0.1 * generator.standard_normal(x.shape)), start)


def adapted_logits(module, model, adapter, settings):
    graph, state = nnx.split(model)
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], (adapter, settings))

    @jax.jit
    def forward(state, one):
        fresh = nnx.merge(graph, state)
        return fresh.logits(module.hidden(fresh, *one, TOKENS))

    return np.asarray(forward(state, one))


@pytest.mark.parametrize('name', MODULES)
def test_it_begins_as_the_base(name):
    model = cases.model(CONFIG)
    got = adapted_logits(MODULES[name], model, adapter(MODULES[name], model, trained=False), settings())
    np.testing.assert_allclose(got, cases.logits(model, TOKENS), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('name', MODULES)
def test_merged_equals_adapted(name, variant):
    module, model = MODULES[name], cases.model(CONFIG)
    trained, chosen = adapter(module, model), settings(**VARIANTS[variant])
    got = cases.logits(module.merge(model, trained, chosen), TOKENS)
    np.testing.assert_allclose(got, adapted_logits(module, model, trained, chosen), rtol=1e-5, atol=1e-5)
    assert np.abs(got - cases.logits(model, TOKENS)).max() > 0.05


def test_rslora_is_a_lora_of_larger_alpha():
    plain, stabilised = settings(alpha=4.5 * 3**0.5), settings(rslora=True)
    np.testing.assert_allclose(plain['scale'], stabilised['scale'], rtol=1e-6)


@pytest.mark.parametrize('num', [1, 2, 5, 32])
def test_halves_cover_the_layers_and_are_never_empty(num):
    first, last = (lora.layers_in_use(half, num) for half in ('first_half', 'last_half'))
    assert first and last and sorted({*first, *last}) == lora.layers_in_use('all', num) == list(range(num))
    assert len(first) == len(last) == -(-num // 2)
    assert set(lora.LAYERS) == set(search_space.LAYERS)


@pytest.mark.parametrize('name', MODULES)
def test_layers_left_out_are_untouched(name):
    module, model = MODULES[name], cases.model(CONFIG)
    merged = module.merge(model, adapter(module, model), settings(layers='last_half'))
    for _, layer, group, name in lora.module_paths(CONFIG.num_hidden_layers):
        same = jnp.array_equal(*(lora.linear(m, layer, group, name).kernel[...] for m in (model, merged)))
        assert bool(same) == (layer == 0)


def test_norms_are_those_of_the_sum_and_constant_to_the_gradient():
    draw = np.random.default_rng(0).standard_normal
    w, a, b, s = (jnp.float32(draw(shape)) for shape in ((7, 5), (2, 7, 3), (2, 3, 5), (2, 3)))
    want = jnp.linalg.norm(w[None] + jnp.einsum('MDR,MR,MRF->MDF', a, s, b), axis=1)
    np.testing.assert_allclose(dora._norms(w, a, b, s), want, rtol=1e-5)
    assert not jax.grad(lambda a: jnp.sum(dora._norms(w, a, b, s)))(a).any()
    assert (dora._norms(jnp.zeros((7, 5)), a, 0 * b, s) > 0).all()


def test_a_soft_prompt_of_vocabulary_embeddings_equals_those_tokens_in_front():
    model, ids = cases.model(CONFIG), np.array([7, 8, 9])
    own = {'prompt_embeddings': jnp.pad(model.embed(ids[None])[0], ((2, 0), (0, 0)))}  # two places unused
    one = jax.tree.map(lambda x: x[None], (own, prompt.settings(length=3)))
    got = model.logits(prompt.hidden(model, *one, TOKENS))
    front = np.concatenate([np.tile(ids, (len(TOKENS), 1)), TOKENS], axis=1).astype(np.int32)
    np.testing.assert_allclose(got, cases.logits(model, front)[:, 3:], rtol=1e-5, atol=1e-5)


def test_soft_prompts_begin_as_vocabulary_or_as_long_as_it():
    model = cases.model(CONFIG)
    draw = lambda **how: prompt.init(model, jax.random.key(0), max_length=64, **how)['prompt_embeddings']
    table_VD = np.asarray(model.embed_tokens[...])
    assert all((row == table_VD).all(axis=1).any() for row in np.asarray(draw()))
    drawn_PD = np.asarray(draw(from_vocabulary=False))
    # 2,048 normal draws: their deviation is within 8 % but for 1 seed in 4 million.
    assert drawn_PD.std() == pytest.approx(table_VD.std(), rel=0.08) and not (drawn_PD[0] == table_VD).all(axis=1).any()
