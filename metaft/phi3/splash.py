"""Splash attention, JAX's flash attention for TPUs, with the meaning of `attention.attention`."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from metaft.phi3.sharding import BATCH

_LANES = 128  # the kernel's blocks are multiples of it
_BLOCK = 512  # the larger block, where the length allows it


def splash_attention(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    window: int | None,
    key_mask_BS: jax.Array | None,
    segment_ids_BL: jax.Array | None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes attention of as many keys as queries by the Pallas kernel, which has segment ids and does not scale q.

    Padding is a segment of its own, so a padded query sees padding before it, where the plain version sees itself only.

    Args:
      window, key_mask_BS, segment_ids_BL: as in `attention`.
      interpret: run the kernel without a TPU, slowly: for tests.
    """
    # Here and not above: importing the kernels takes a second that no other platform needs to pay.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    B, L, _, H = q_BLNH.shape
    room = -L % _LANES
    segments_BL = jnp.ones((B, L), jnp.int32) if segment_ids_BL is None else segment_ids_BL.astype(jnp.int32)
    if key_mask_BS is not None:
        segments_BL = jnp.where(key_mask_BS, segments_BL, -1)
    segments_BL = jnp.pad(segments_BL, ((0, 0), (0, room)), constant_values=-1)
    heads_first = lambda x: jnp.pad(x, ((0, 0), (0, room), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
    q, k, v = heads_first(q_BLNH * H**-0.5), heads_first(k_BSKH), heads_first(v_BSKH)
    length = L + room
    mask = masks.CausalMask((length, length))
    if window is not None:
        mask = masks.LocalMask((length, length), (window - 1, 0), 0)  # 0 to the right: causal as well
    block = _BLOCK if length % _BLOCK == 0 else _LANES
    blocks = kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def attend(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segments_BL: jax.Array) -> jax.Array:
        one = kernel.make_splash_mha_single_device(
            masks.MultiHeadMask([mask] * q_BNLH.shape[1]),
            block_sizes=blocks,
            interpret=interpret,
        )
        return jax.vmap(one)(q_BNLH, k_BKSH, v_BKSH, kernel.SegmentIds(segments_BL, segments_BL))

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:  # XLA cannot divide a kernel of its own accord
        rows = BATCH if B % math.prod(mesh.shape[axis] for axis in BATCH) == 0 else None
        heads = 'tensor' if k_BSKH.shape[2] % mesh.shape['tensor'] == 0 else None
        qkv = P(rows, heads)
        attend = jax.shard_map(attend, in_specs=(qkv, qkv, qkv, P(rows)), out_specs=qkv, check_vma=False)
    return attend(q, k, v, segments_BL).transpose(0, 2, 1, 3)[:, :L].astype(q_BLNH.dtype)
