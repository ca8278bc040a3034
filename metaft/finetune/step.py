"""The compiled step of a population: pure functions of the base's arrays, the members, their hyperparameters and rows.

    loss of an update = sum of nats over answer-and-stop tokens of its batch / their number

Every leaf of a population's `Member` has a leading axis M. Nothing here knows of slots, runs or the order of rows.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from metaft.finetune import optimizer
from metaft.finetune.data import Rows
from metaft.finetune.loss import token_scores
from metaft.finetune.methods import METHODS
from metaft.finetune.packing import PackedRows


@dataclasses.dataclass(frozen=True)
class Member:
    """One run's state, without a member axis (a pytree of arrays, on host or device).

    Attributes:
      trainable: what is trained, float32.
      opt_state: the optimizer's state.
      gradients: sum of token-loss gradients accumulated towards the next update.
      tokens: number of answer tokens in `gradients`, float32 [].
      step: updates done, int32 [].
      micro: micro-batches accumulated towards the next update, int32 [].
      key: raw PRNG key data, uint32 [2]; constant, every micro-batch folds in its own number.
      alive: False once loss or weights were not finite.
      loss_sum, loss_tokens: nats and answer tokens since the last `take`, for the training loss.
    """

    trainable: dict
    opt_state: Any
    gradients: dict
    tokens: Array
    step: Array
    micro: Array
    key: Array
    alive: Array
    loss_sum: Array | np.ndarray
    loss_tokens: Array | np.ndarray


jax.tree_util.register_dataclass(Member)


def init(graphdef, method: str, optimizer_name: str, params, settings, seed) -> Member:
    """Return a run that has not begun (no M axis)."""
    key = jax.random.key(seed)
    model = nnx.merge(graphdef, params)
    trainable = METHODS[method].init(model, settings, jax.random.fold_in(key, 0))
    zero = jnp.float32(0.0)
    return Member(
        trainable=trainable,
        opt_state=optimizer.init(optimizer_name, trainable),
        gradients=jax.tree.map(jnp.zeros_like, trainable),
        tokens=zero,
        step=jnp.int32(0),
        micro=jnp.int32(0),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
        alive=jnp.bool_(True),
        loss_sum=zero,
        loss_tokens=zero,
    )


def answer_scores(graphdef, method: str, params, trainable, settings, rows: Rows | PackedRows, key_M):
    """Return nats, mask, whether the arg max is right, and how far the target's logit is above the vocabulary's mean,
    each [M, B, A], on the answers of rows [M, B, ...].
    """
    model = nnx.merge(graphdef, params)
    m, b, length = rows.tokens_NL.shape
    tokens_BL = rows.tokens_NL.reshape(m * b, length)
    fold = lambda x_MBL: x_MBL.reshape(m * b, x_MBL.shape[-1])
    layout = jax.tree.map(fold, rows.layout())
    hidden_BLD = METHODS[method].hidden(model, trainable, settings, tokens_BL, key_M, **layout)
    # The token at position p is predicted at p - 1: only the answers' positions meet the output head.
    index_MBA, mask_MBA = rows.answers()
    index_BA = jnp.minimum(fold(index_MBA), length - 1)
    targets_BA = jnp.take_along_axis(tokens_BL, index_BA, axis=1)
    x_BAD = jnp.take_along_axis(hidden_BLD, index_BA[:, :, None] - 1, axis=1)
    head = partial(METHODS[method].logits, model, trainable)
    nats_BA, right_BA, above_BA = token_scores(head, x_BAD, targets_BA, vocab_size=model.config.vocab_size)
    unfold = lambda x_BA: x_BA.reshape(mask_MBA.shape)
    return unfold(nats_BA), mask_MBA, unfold(right_BA), unfold(above_BA)


def evaluate(graphdef, method, params, trainable, settings, rows: Rows | PackedRows):
    """Return [3, M]: nats, tokens, exact matches on the same rows [B, ...] for every member; length 0 is padding."""
    m = jax.tree.leaves(trainable)[0].shape[0]
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (m, *x.shape)), rows)
    nats, mask, right, _ = answer_scores(graphdef, method, params, trainable, settings, rows, None)
    return jnp.stack(
        [
            jnp.sum(nats, axis=(1, 2), where=mask),
            jnp.sum(mask, axis=(1, 2), dtype=jnp.float32),
            jnp.sum(rows.num_exact(right, mask), axis=1),
        ]
    )


def advance(
    graphdef, method, optimizer_name, params, members: Member, hyper, batches: Rows | PackedRows, left_M, num
) -> tuple[Member, Array]:
    """Run the first `num` micro-batches of `batches` [S, M, B, ...]; a member takes part while its `left_M` lasts.

    Returns:
      the members, and which have diverged, bool [M]: an array of its own, readable while the next call has the members.
    """

    def body(i, members):
        return _micro_step(graphdef, method, optimizer_name, params, members, hyper, batches.take(i), i < left_M)

    members = jax.lax.fori_loop(0, num, body, members)
    return members, ~members.alive


def _micro_step(graphdef, method, optimizer_name, params, members: Member, hyper, rows: Rows | PackedRows, active_M):
    """Accumulate one micro-batch a member and update the members whose batch is complete."""
    number_M = members.step * hyper['micro_batches'] + members.micro
    fold = lambda key, n: jax.random.fold_in(jax.random.wrap_key_data(key), n)
    key_M = jax.vmap(fold)(members.key, number_M)

    def loss(trainable):
        nats, mask, _, above = answer_scores(graphdef, method, params, trainable, hyper['adapter'], rows, key_M)
        # Label smoothing e: (1 - e) of the target's nats and e of the vocabulary's mean, which are `above` more.
        smoothed = nats + hyper['label_smoothing'][:, None, None] * above
        nats_M = jnp.sum(nats, axis=(1, 2), where=mask)
        return jnp.sum(smoothed, where=mask), (nats_M, jnp.sum(mask, axis=(1, 2), dtype=jnp.float32))

    grads, (nats_M, tokens_M) = jax.grad(loss, has_aux=True)(members.trainable)
    alive_M = members.alive & jnp.isfinite(nats_M)
    active_M = active_M & alive_M
    grads = jax.tree.map(lambda g, s: jnp.where(_like(active_M, g), g + s, s), grads, members.gradients)
    members = dataclasses.replace(
        members,
        gradients=grads,
        tokens=members.tokens + jnp.where(active_M, tokens_M, 0.0),
        micro=members.micro + active_M.astype(jnp.int32),
        alive=alive_M,
        loss_sum=members.loss_sum + jnp.where(active_M, nats_M, 0.0),
        loss_tokens=members.loss_tokens + jnp.where(active_M, tokens_M, 0.0),
    )
    full_M = active_M & (members.micro >= hyper['micro_batches'])
    update = partial(_update, optimizer_name, hyper['optimizer'], full_M)
    return jax.lax.cond(jnp.any(full_M), update, lambda m: m, members)


def _update(optimizer_name, hyper, full_M, members: Member) -> Member:
    """Apply the accumulated gradients of the members in `full_M`; an update that is not finite kills its member."""
    mean = jax.tree.map(lambda g: g / _like(jnp.maximum(members.tokens, 1.0), g), members.gradients)
    trainable, opt_state = jax.vmap(partial(optimizer.update, optimizer_name))(
        hyper, members.step, mean, members.opt_state, members.trainable
    )
    finite_M = jnp.stack([jnp.all(jnp.isfinite(x.reshape(x.shape[0], -1)), axis=1) for x in jax.tree.leaves(trainable)])
    finite_M = jnp.all(finite_M, axis=0)
    done_M = full_M & finite_M
    select = lambda new, old: jnp.where(_like(done_M, new), new, old)
    return dataclasses.replace(
        members,
        trainable=jax.tree.map(select, trainable, members.trainable),
        opt_state=jax.tree.map(select, opt_state, members.opt_state),
        gradients=jax.tree.map(lambda g: jnp.where(_like(full_M, g), 0.0, g), members.gradients),
        tokens=jnp.where(full_M, 0.0, members.tokens),
        step=members.step + done_M.astype(jnp.int32),
        micro=jnp.where(full_M, 0, members.micro),
        alive=members.alive & (finite_M | ~full_M),
    )


def _like(mask_M: Array, leaf: Array) -> Array:
    return mask_M.reshape(-1, *[1] * (leaf.ndim - 1))
