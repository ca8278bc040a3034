"""Causal grouped-query attention: one function, and for each platform the implementation that is fastest there."""

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: softmax of a float32 row that holds it never gives NaN


def attention(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    window: int | None = None,
    key_mask_BS: jax.Array | None = None,
    query_offset: int | jax.Array = 0,
    implementation: str | None = None,
) -> jax.Array:
    """Computes softmax(q k^T / sqrt(H)) v over the keys that each query may see.

    A query at index i sees the keys at indices j <= i with i - j < window whose `key_mask_BS` is True, and always
    itself, so that no row is ever empty. Causality and the window go by index, as in transformers; with padding on one
    side an index distance is a position distance.

    Args:
      q_BLNH: queries; their indices begin at `query_offset`.
      k_BSKH: keys; query head n reads key head n // (N / K). Indices begin at 0.
      v_BSKH: values.
      window: how many keys, itself included, a query sees; None for all.
      key_mask_BS: False where a key is padding; None where there is none.
      query_offset: index of the first query, nonzero when keys come from a cache.
      implementation: 'xla' or 'cudnn'; None takes what is best for the default backend.

    Returns:
      [B, L, N, H] in the dtype of `q_BLNH`; the softmax runs in float32.

    Raises:
      ValueError: heads that do not divide, or an unknown implementation.
    """
    L, N, H = q_BLNH.shape[1:]
    S, K = k_BSKH.shape[1:3]
    if N % K:
        raise ValueError(f'{N} query heads are no multiple of {K} key heads')
    if window is not None and window >= S:
        window = None
    if implementation is None:
        fits = q_BLNH.dtype in (jnp.bfloat16, jnp.float16) and H % 8 == 0 and H <= 128
        aligned = isinstance(query_offset, int) and query_offset == 0 and L == S
        implementation = 'cudnn' if jax.default_backend() == 'gpu' and fits and aligned else 'xla'
    if implementation == 'cudnn':
        return _cudnn(q_BLNH, k_BSKH, v_BSKH, window, key_mask_BS)
    if implementation == 'xla':
        mask = _visible(L, S, window, key_mask_BS, query_offset)
        return _xla(q_BLNH, k_BSKH, v_BSKH, mask)
    raise ValueError(f"implementation is {implementation!r}; 'xla' and 'cudnn' are known")


def _visible(L: int, S: int, window: int | None, key_mask_BS: jax.Array | None, offset: int | jax.Array) -> jax.Array:
    """Returns a mask [B or 1, L, S], True where the query sees the key."""
    distance_LS = (jnp.arange(L, dtype=jnp.int32) + offset)[:, None] - jnp.arange(S, dtype=jnp.int32)[None, :]
    mask_LS = distance_LS >= 0
    if window is not None:
        mask_LS &= distance_LS < window
    if key_mask_BS is None:
        return mask_LS[None]
    return mask_LS[None] & (key_mask_BS[:, None, :] | (distance_LS == 0)[None])


def _xla(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BLS: jax.Array) -> jax.Array:
    B, L, N, H = q_BLNH.shape
    K = k_BSKH.shape[2]
    # G = N // K query heads share a key head; folding them into the query axis spares repeated keys.
    q_BKGLH = q_BLNH.reshape(B, L, K, N // K, H).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum('BKGLH,BSKH->BKGLS', q_BKGLH * H**-0.5, k_BSKH, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_BLS[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum('BKGLS,BSKH->BLKGH', weights, v_BSKH).reshape(B, L, N, H)


def _cudnn(
    q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, window: int | None, key_mask_BS: jax.Array | None
) -> jax.Array:
    L, S = q_BLNH.shape[1], k_BSKH.shape[1]
    # is_causal stays on beside the window: local_window_size alone lets queries see the future.
    return jax.nn.dot_product_attention(
        q_BLNH,
        k_BSKH,
        v_BSKH,
        mask=None if key_mask_BS is None else _visible(L, S, window, key_mask_BS, 0)[:, None],
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation='cudnn',
    )
