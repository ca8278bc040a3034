"""A population: runs of one method trained together in one compiled step over one frozen base.

The step takes micro-batches of `micro_batch` examples a member, packed into fewer rows where those would be mostly
padding (`packing`). A member with a larger batch accumulates gradients over
several and then updates, so batch size, like every other hyperparameter, is an array over members and never
recompiles. Members are
independent: one that has finished, diverged or pauses is masked and does not disturb the others.

    loss of an update = sum of nats over answer-and-stop tokens of its batch / their number

`Member` is everything one run needs to go on later, in any slot: freeze is `take`, thaw is `put`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaft.finetune import optimizer
from metaft.finetune.data import Rows, order
from metaft.finetune.loss import token_scores
from metaft.finetune.methods import METHODS, program, variant
from metaft.finetune.packing import PackedRows, batch_shape, fill_batches, pack_if_worth_it, packed_parts
from metaft.finetune.search_space import BATCH_SIZES, Configuration
from metaft.phi3 import Phi3
from metaft.phi3.sharding import on, shard, shard_batch

MICRO_BATCH = min(BATCH_SIZES)
EVALUATION_ROWS = 64  # a member, in one call; fewer where the rows are long
# Fewer rows by this factor pay for the mask that packed rows need and for one more program. Measured with the shipped
# base on a CPU, evaluating 512 long-tailed rows: 1.8 x fewer rows take 0.70 of the time, 3.3 x 0.46, 8.4 x 0.15; on its
# own tasks, whose rows are of nearly one length, 1.1 x fewer take 1.07.
PACKING_GAIN = 2.0
EVALUATION_TOKENS = 2**13  # of all members together; with Phi-3-mini's layers less than its training step takes
CHUNK = 16  # micro-batches a call: long enough to hide dispatch, short enough to stop within a second or so


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


def hyperparameters(configuration: Configuration, total_steps: int) -> dict:
    """Return what members differ in but do not train, as NumPy arrays: {'optimizer', 'adapter', 'micro_batches',
    'label_smoothing'}.
    """
    return jax.tree.map(
        np.asarray,
        {
            'optimizer': optimizer.hyperparameters(configuration, total_steps),
            'adapter': METHODS[variant(configuration)].settings(configuration),
            'micro_batches': np.int32(configuration.batch_size // MICRO_BATCH),
            'label_smoothing': np.float32(configuration.label_smoothing),
        },
    )


class Population:
    """`width` slots over one base, one method, one optimizer and one table of encoded training rows.

    Args:
      model: the frozen base.
      method: a key of METHODS.
      rows: training examples, padded to their bucket; only the paddings, not their number, shape the compiled program.
      width: number of slots M.
      optimizer: a key of `optimizer.OPTIMIZERS`.
      mesh: devices that the base is divided over (`load_pretrained`); batches and what is trained are as well then.
    """

    def __init__(
        self,
        model: Phi3,
        method: str,
        rows: Rows,
        *,
        width: int = 1,
        optimizer: str = 'adamw',
        mesh: Mesh | None = None,
    ):
        self.method, self.optimizer, self.width, self.rows, self._mesh = method, optimizer, width, rows, mesh
        graphdef, self._params = nnx.split(model)
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())  # every process reads it
        self._members: Member | None = None
        self._hyper: dict | None = None
        self._runs: list[tuple[Configuration, int] | None] = [None] * width
        packable = is_packable(method)  # its vectors stand in front of an example
        self._packing = batch_shape(rows, MICRO_BATCH, gain=PACKING_GAIN) if packable else None
        self._packed: dict[int, tuple[Rows, Rows | PackedRows]] = {}
        advance = partial(_advance, graphdef, method, optimizer)
        if mesh is not None:  # members come out as they went in: their buffers are donated
            advance = lambda *args, step=advance: shard(step(*args), mesh)
        self._advance = jax.jit(advance, donate_argnums=(1,))
        self._evaluate = jax.jit(partial(_evaluate, graphdef, method), out_shardings=whole)
        self._init = jax.jit(partial(_init, graphdef, method, optimizer), out_shardings=whole)
        self._take = jax.jit(lambda members, slot: jax.tree.map(lambda x: x[slot], members), out_shardings=whole)
        self._place = jax.jit(lambda members, slot, one: jax.tree.map(lambda x, y: x.at[slot].set(y), members, one))

    def new_member(self, configuration: Configuration, seed: int) -> Member:
        """Return a run that has not begun, as host arrays."""
        self._require(configuration)
        settings = METHODS[self.method].settings(configuration)
        return jax.tree.map(np.asarray, self._init(self._params, settings, seed))

    def put(self, slot: int, member: Member, configuration: Configuration, *, seed: int, total_steps: int) -> None:
        """Place a run in a slot (thaw); what was there is overwritten."""
        self._require(configuration)
        hyper = hyperparameters(configuration, total_steps)
        if self.width == 1 or self._members is None:  # empty slots hold a copy that idles
            stack = lambda x: np.stack([x] * self.width)
            self._members, self._hyper = jax.tree.map(stack, (member, hyper))
        else:
            self._members, self._hyper = self._place((self._members, self._hyper), slot, (member, hyper))
        self._runs[slot] = (configuration, seed)

    def _require(self, configuration: Configuration) -> None:
        found, wanted = program(configuration), (self.method, self.optimizer)
        if found != wanted:
            raise ValueError(
                f'a configuration of {"/".join(found)} does not train in a population of {"/".join(wanted)}'
            )

    def take(self, slot: int) -> Member:
        """Return a slot's run as host arrays (freeze). The slot keeps its copy."""
        direct = self.width == 1 and self._mesh is None
        members = self._members if direct else self._take(self._members, slot)
        pick = (lambda x: np.array(x)[0]) if direct else np.asarray
        return jax.tree.map(pick, members)

    def training_loss(self, slot: int) -> float:
        """Return the slot's mean training loss since the last call (nats a token; NaN if nothing was seen)."""
        sums, tokens = np.array(self._members.loss_sum), np.array(self._members.loss_tokens)
        mean = float(sums[slot] / tokens[slot]) if tokens[slot] else float('nan')
        sums[slot] = tokens[slot] = 0.0
        self._members = dataclasses.replace(self._members, loss_sum=sums, loss_tokens=tokens)
        return mean

    def steps(self) -> np.ndarray:
        """Return the updates done by each slot, int32 [M]."""
        return np.asarray(self._members.step)

    def alive(self) -> np.ndarray:
        """Return which slots have not diverged, bool [M]."""
        return np.asarray(self._members.alive)

    def compile(self, rows: Rows) -> None:
        """Compile the training step and the evaluation on `rows` by running them over nothing."""
        nothing, none_M = np.zeros((CHUNK, self.width, MICRO_BATCH), np.int32), np.zeros(self.width, np.int32)
        self._steps(self.rows.take(nothing), none_M)
        if self._packing is not None:
            self._steps(fill_batches(self.rows, [[]] * self.width, self._packing, CHUNK), none_M)
        self.evaluate(rows.take(np.arange(0)))

    def _train(self, index_SMB: np.ndarray, left_M: np.ndarray) -> None:
        if self._packing is None:
            self._steps(self.rows.take(index_SMB), left_M)
            return
        for count_M, batches in packed_parts(self.rows, index_SMB, left_M, self._packing):
            self._steps(batches, count_M)

    def _steps(self, batches: Rows | PackedRows, left_M: np.ndarray) -> None:
        members = self._members
        if self._mesh is not None:
            batches, members = shard_batch(batches, self._mesh, axis=2), shard(members, self._mesh)
        with on(self._mesh):
            self._members = self._advance(self._params, members, self._hyper, batches, left_M, left_M.max())

    def advance(self, to_step_M: Sequence[int | None], should_stop: Callable[[], bool] | None = None) -> bool:
        """Train every slot to its own number of updates; slots already there, or diverged, idle.

        Args:
          to_step_M: wanted updates by slot; None or a smaller number leaves the slot alone.
          should_stop: asked after every chunk of micro-batches; True leaves the members where they are.

        Returns:
          False when it was stopped.
        """
        micro_M = np.zeros(self.width, int)
        position_M = np.zeros(self.width, int)
        for slot, target in enumerate(to_step_M):
            if target is None or self._runs[slot] is None or not self.alive()[slot]:
                continue
            per_update = self._runs[slot][0].batch_size // MICRO_BATCH
            position_M[slot] = int(self._members.step[slot]) * per_update + int(self._members.micro[slot])
            micro_M[slot] = max(0, target * per_update - position_M[slot])
        total = int(micro_M.max(initial=0))
        for start in range(0, total, CHUNK):
            left_M = np.clip(micro_M - start, 0, CHUNK).astype(np.int32)
            index_SMB = np.zeros((CHUNK, self.width, MICRO_BATCH), np.int32)
            for slot in np.flatnonzero(left_M):
                first, count = (position_M[slot] + start) * MICRO_BATCH, left_M[slot] * MICRO_BATCH
                seen = order(self._runs[slot][1], first, count, len(self.rows.length_N))
                index_SMB[: left_M[slot], slot] = seen.reshape(-1, MICRO_BATCH)
            self._train(index_SMB, left_M)
            if should_stop is not None:
                jax.block_until_ready(self._members)
                if should_stop():
                    return False
        jax.block_until_ready(self._members)
        return True

    def evaluate(self, rows: Rows | PackedRows) -> list['Evaluation']:
        """Return each slot's loss and exact match on `rows` (dropout off); many rows of padding are packed first."""
        if isinstance(rows, Rows) and is_packable(self.method):
            if id(rows) not in self._packed:
                packed = pack_if_worth_it(rows, num_rows=2 * EVALUATION_ROWS, gain=PACKING_GAIN)
                self._packed[id(rows)] = (rows, packed)  # with the rows themselves, so that no other gets their id
            rows = self._packed[id(rows)][1]
        found = []
        n, length = rows.tokens_NL.shape
        batch = evaluation_batch(self.width, length)
        for start in range(0, max(n, 1), batch):
            part = rows.take_padded(np.arange(start, min(start + batch, n)), batch)
            if self._mesh is not None:
                part = shard_batch(part, self._mesh, axis=0)
            with on(self._mesh):
                found.append(self._evaluate(self._params, self._members.trainable, self._hyper['adapter'], part))
        sums = np.sum([np.asarray(x, np.float64) for x in found], axis=0)  # read when all is dispatched
        return [Evaluation(float(s / max(t, 1.0)), float(e / max(rows.num_examples, 1)), int(t)) for s, t, e in sums.T]


def is_packable(method: str) -> bool:
    """Return whether several examples can share a row: not where trained vectors stand in front of an example."""
    return not method.startswith('prompt')


def evaluation_batch(width: int, length: int) -> int:
    """Return how many rows of `length` tokens each of `width` members is evaluated on at once."""
    fitting = EVALUATION_TOKENS // (width * length) // MICRO_BATCH * MICRO_BATCH
    return min(EVALUATION_ROWS, max(MICRO_BATCH, fitting))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Loss in nats per answer-and-stop token, exact match as a share of examples, and the number of tokens."""

    loss: float
    exact_match: float
    num_tokens: int


def _init(graphdef, method: str, optimizer_name: str, params, settings, seed) -> Member:
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


def _evaluate(graphdef, method, params, trainable, settings, rows: Rows | PackedRows):
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


def _advance(graphdef, method, optimizer_name, params, members: Member, hyper, batches: Rows, left_M, num):
    """Run the first `num` micro-batches of `batches` [S, M, B, ...]; a member takes part while its `left_M` lasts."""

    def body(i, members):
        return _micro_step(graphdef, method, optimizer_name, params, members, hyper, batches.take(i), i < left_M)

    return jax.lax.fori_loop(0, num, body, members)


def _micro_step(graphdef, method, optimizer_name, params, members: Member, hyper, rows: Rows, active_M):
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
