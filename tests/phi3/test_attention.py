"""Attention against a loop that follows the definition, and what must never come out of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.phi3.attention import _library, attention
from metaft.phi3.sharding import make_mesh
from metaft.phi3.splash import splash_attention

B, L, H = 2, 7, 6


def inputs(heads, kv_heads, keys=L):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return draw(B, L, heads, H), draw(B, keys, kv_heads, H), draw(B, keys, kv_heads, H)


def by_definition(q, k, v, window, mask, offset=0):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    groups = q.shape[2] // k.shape[2]
    for b, i, n in np.ndindex(q.shape[:3]):
        at = i + offset
        seen = [j for j in range(at + 1) if at - j < (window or 99) and (mask is None or mask[b, j] or j == at)]
        scores = np.array([q[b, i, n] @ k[b, j, n // groups] for j in seen]) / np.sqrt(H)
        weights = np.exp(scores - scores.max())
        out[b, i, n] = weights / weights.sum() @ v[b, seen, n // groups]
    return out


@pytest.mark.parametrize('window', [None, 1, 3, L])
@pytest.mark.parametrize('heads', [(4, 4), (4, 2), (3, 1)])
def test_follows_the_definition(heads, window):
    q, k, v = inputs(*heads)
    mask = np.arange(L)[None] >= np.array([[0], [4]])
    for key_mask in (None, mask):
        got = attention(q, k, v, window=window, key_mask_BS=None if key_mask is None else jnp.asarray(key_mask))
        np.testing.assert_allclose(got, by_definition(q, k, v, window, key_mask), atol=2e-6)


@pytest.mark.parametrize('window', [None, 1, 3])
def test_the_library_function_that_cudnn_is_called_through_is_asked_for_the_same(window):
    q, k, v = inputs(4, 2)
    for mask in (None, jnp.arange(L)[None] >= jnp.array([[0], [4]])):
        got = _library(q, k, v, window, mask, None, 'xla')  # cuDNN itself needs a GPU
        np.testing.assert_allclose(got, attention(q, k, v, window=window, key_mask_BS=mask), atol=2e-6)


def test_queries_may_begin_within_the_keys():
    q, k, v = inputs(4, 2, keys=L + 3)
    got = jax.jit(lambda offset: attention(q, k, v, window=4, query_offset=offset))(jnp.int32(3))
    np.testing.assert_allclose(got, by_definition(q, k, v, 4, None, offset=3), atol=2e-6)


def test_a_row_whose_keys_are_all_masked_is_finite_with_finite_gradients():
    q, k, v = inputs(4, 4)
    loss = lambda q, k, v: jnp.sum(attention(q, k, v, window=2, key_mask_BS=jnp.zeros((B, L), bool)) ** 2)
    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_huge_scores_do_not_overflow():
    q, k, v = inputs(4, 4)
    assert np.isfinite(attention(1e18 * q, 1e18 * k, v)).all()


def test_bfloat16_stays_close_to_float32():
    q, k, v = inputs(4, 2)
    got = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), attention(q, k, v), atol=0.03)


def test_heads_that_do_not_divide_and_unknown_implementations_are_refused():
    q, k, v = inputs(4, 3)
    with pytest.raises(ValueError, match='4 query heads are no multiple of 3'):
        attention(q, k, v)
    with pytest.raises(ValueError, match="'flash'"):
        attention(*inputs(4, 4), implementation='flash')


SEGMENTS = jnp.asarray([[1, 1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2]], jnp.int32)


@pytest.mark.parametrize('window', [None, 2])
def test_segments_see_themselves_only(window):
    q, k, v = inputs(4, 2)
    got = attention(q, k, v, window=window, segment_ids_BL=SEGMENTS)
    for row, ids in enumerate(np.asarray(SEGMENTS)):
        for segment in np.unique(ids):
            own = ids == segment
            alone = attention(*(x[row : row + 1, own] for x in (q, k, v)), window=window)
            np.testing.assert_allclose(got[row, own], alone[0], atol=2e-6)
    library = _library(q, k, v, window, None, SEGMENTS, 'xla')
    np.testing.assert_allclose(library, got, atol=2e-6)
    with pytest.raises(ValueError, match='as many keys as queries'):
        attention(q, *inputs(4, 2, keys=L + 3)[1:], segment_ids_BL=SEGMENTS)


@pytest.mark.parametrize('case', ['plain', 'window', 'padding', 'segments'])
def test_splash_gives_the_same_values_and_gradients(case):
    """The TPU kernel, interpreted: 130 tokens are two blocks, the second of them nearly empty."""
    length, rng = 130, np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(rng.standard_normal((1, length, heads, 16)), jnp.float32)
    q, k, v = draw(2), draw(1), draw(1)
    index = np.arange(length)[None]
    window = 20 if case in ('window', 'segments') else None
    mask = jnp.asarray(index >= 9) if case == 'padding' else None
    segments = jnp.asarray(1 + (index >= 50) + (index >= 128), jnp.int32) if case == 'segments' else None
    real = np.ones(length, bool) if mask is None else np.asarray(mask)[0]

    def loss(attend, q, k, v):
        out = attend(q, k, v)[:, real]
        return jnp.sum(jnp.sin(out)), out

    plain = lambda q, k, v: attention(
        q, k, v, window=window, key_mask_BS=mask, segment_ids_BL=segments, implementation='xla'
    )
    kernel = lambda q, k, v: splash_attention(q, k, v, window, mask, segments, interpret=True)
    wanted, got = (
        jax.jit(jax.value_and_grad(functools.partial(loss, attend), (0, 1, 2), has_aux=True))(q, k, v)
        for attend in (plain, kernel)
    )
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_splash_is_divided_over_a_mesh():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 40, heads, 16)), jnp.float32) for heads in (4, 2, 2))
    segments = jnp.asarray(np.repeat([[1, 2]], 20, axis=1) * np.ones((2, 1)), jnp.int32)
    attend = jax.jit(lambda q, k, v: splash_attention(q, k, v, 7, None, segments, interpret=True))
    with jax.set_mesh(make_mesh({'data': 2, 'tensor': 2})):
        got = attend(q, k, v)
    assert got.sharding.num_devices == 4 and not got.sharding.is_fully_replicated
    np.testing.assert_allclose(got, attention(q, k, v, window=7, segment_ids_BL=segments), atol=2e-5)
