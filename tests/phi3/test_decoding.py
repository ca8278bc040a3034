"""Cached, batched, padded decoding equals the plain full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft.errors import DataError
from metaft.phi3 import generate
from tests.phi3 import cases

PROMPTS = [[5, 9, 11], [3, 4, 5, 6, 7, 8, 9, 10, 11], [60], [1, 17, 17, 40, 2]]


def greedily(model, prompt, count, stop_ids=()):
    """The definition: one full forward pass a token."""
    new = []
    while len(new) < count and (not new or new[-1] not in stop_ids):
        row = np.array([*prompt, *new])
        # Padded on the right to one shape; positions stay below the row's length, which longrope's factors go by.
        positions = np.minimum(np.arange(32), len(row) - 1)
        logits_BLV = cases.logits(model, np.pad(row, (0, 32 - len(row)))[None], positions[None])
        new.append(int(np.argmax(logits_BLV[0, len(row) - 1])))
    return new


@pytest.mark.parametrize('name', ['grouped', 'multi_query_window', 'tied', 'partial_rotary'])
def test_greedy_decoding_equals_full_forward_passes(name):
    model = cases.model(cases.CONFIGS[name])
    assert generate(model, PROMPTS, max_new_tokens=7, stop_ids=[]) == [greedily(model, p, 7) for p in PROMPTS]


def test_cached_logits_equal_those_of_the_full_pass():
    config = cases.CONFIGS['multi_query_window']
    model, tokens = cases.model(config), jnp.asarray(cases.tokens(config))

    @nnx.jit
    def in_three_parts(model):
        first, cache = model.prefill(model.embed(tokens[:, :5]), None, None, cases.LENGTH + 2)
        second, cache = model.extend(model.embed(tokens[:, 5:8]), jnp.arange(5, 8)[None], None, cache)
        third, cache = model.extend(model.embed(tokens[:, 8:]), jnp.arange(8, cases.LENGTH)[None], None, cache)
        return model.logits(jnp.concatenate([first, second, third], axis=1)), cache

    parts, cache = in_three_parts(model)
    np.testing.assert_allclose(parts, cases.logits(model, tokens), atol=1e-5)
    assert int(cache.length) == cases.LENGTH


def test_longrope_changes_its_factors_where_the_full_pass_does():
    model = cases.model(cases.CONFIGS['longrope_short'])  # original length 13
    want = [greedily(model, prompt, 16) for prompt in PROMPTS[:2]]
    assert [generate(model, [prompt], max_new_tokens=16, stop_ids=[])[0] for prompt in PROMPTS[:2]] == want


def test_rows_end_with_their_first_stop_token():
    model = cases.model(cases.CONFIGS['grouped'])
    free = generate(model, PROMPTS, max_new_tokens=9, stop_ids=[])
    stop_ids = {free[0][2], free[1][4]}
    got = generate(model, PROMPTS, max_new_tokens=9, stop_ids=stop_ids)
    assert got == [greedily(model, prompt, 9, stop_ids) for prompt in PROMPTS]
    assert len(got[0]) <= 3 and got[0][-1] in stop_ids


def test_sampling_follows_the_distribution_and_the_key():
    model = cases.model(cases.CONFIGS['grouped'])
    draw = lambda key, prompts: generate(
        model, prompts, max_new_tokens=1, stop_ids=[], temperature=2.0, key=jax.random.key(key)
    )
    count = 1024
    drawn = np.array(draw(0, [[5, 9, 11]] * count)).ravel()
    probability = np.asarray(jax.nn.softmax(cases.logits(model, np.array([[5, 9, 11]]))[0, -1] / 2.0))
    # Each of 61 counts within 4.5 standard deviations: false alarm below 61 * 7e-6 = 4e-4 (and the key is fixed).
    deviation = np.sqrt(count * probability * (1 - probability))
    assert (np.abs(np.bincount(drawn, minlength=61) - count * probability) < 4.5 * deviation + 1).all()
    assert draw(0, PROMPTS) == draw(0, PROMPTS) != draw(1, PROMPTS)
    assert draw(0, PROMPTS)[0] == draw(0, PROMPTS[:1])[0]  # a row's draw is its own, whatever the batch


def test_a_soft_prompt_of_vocabulary_embeddings_equals_those_tokens():
    model = cases.model(cases.CONFIGS['multi_query_window'])
    prefix_PD = model.embed(jnp.array([[7, 8, 9]]))[0]
    soft = generate(model, PROMPTS, max_new_tokens=6, stop_ids=[], prefix_PD=prefix_PD)
    assert soft == [greedily(model, [7, 8, 9, *prompt], 6) for prompt in PROMPTS]


class Adapted(nnx.Module):
    """A low-rank branch beside a linear layer, as an adapter puts it there."""

    def __init__(self, base, down_DR, up_RF):
        self.base, self.down, self.up = base, nnx.Param(down_DR), nnx.Param(up_RF)

    def __call__(self, x_BLD):
        return self.base(x_BLD) + jnp.einsum('BLD,DR,RF->BLF', x_BLD, self.down[...], self.up[...])


def test_adapted_linear_layers_decode_like_merged_ones():
    plain, adapted, merged = (cases.model(cases.CONFIGS['grouped']) for _ in range(3))
    rng = np.random.default_rng(0)
    for layer in range(2):
        for part, name in (('self_attn', 'qkv_proj'), ('mlp', 'down_proj')):
            linear = getattr(getattr(adapted.layers[layer], part), name)
            down, up = (0.3 * rng.standard_normal(shape) for shape in zip(linear.kernel.shape, (2, 2), strict=True))
            setattr(getattr(adapted.layers[layer], part), name, Adapted(linear, jnp.float32(down), jnp.float32(up.T)))
            getattr(getattr(merged.layers[layer], part), name).kernel[...] += jnp.float32(down @ up.T)
    want = generate(merged, PROMPTS, max_new_tokens=8, stop_ids=[])
    assert want != generate(plain, PROMPTS, max_new_tokens=8, stop_ids=[])
    assert generate(adapted, PROMPTS, max_new_tokens=8, stop_ids=[]) == want


def test_what_cannot_be_generated_is_refused():
    model = cases.model(cases.CONFIGS['grouped'])
    assert generate(model, [], max_new_tokens=1, stop_ids=[]) == []
    with pytest.raises(DataError, match='60 tokens and 5 new ones do not fit into the 64'):
        generate(model, [[1], [1] * 60], max_new_tokens=5, stop_ids=[])
    for wrong in ({'prompts': [[1], []]}, {'max_new_tokens': 0}, {'temperature': 1.0}, {'temperature': -1.0}):
        with pytest.raises(ValueError, match='must'):
            generate(model, **{'prompts': [[1]], 'max_new_tokens': 1, 'stop_ids': [], **wrong})
