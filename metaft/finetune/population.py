"""A population: runs of one method trained together in one compiled step over one frozen base.

The step (`step`) takes micro-batches of `micro_batch` examples a member, packed into fewer rows where those would be
mostly padding (`packing`), or cut to a length bucket (`buckets`). A member with a larger batch accumulates gradients
over several and then updates, so batch size, like every other hyperparameter, is an array over members and never
recompiles. Members are independent: one that has finished, diverged or pauses is masked and disturbs nobody.

The host runs one call ahead of the device: while a call of several micro-batches is computed, the next is made ready
and dispatched, and only then is it read who diverged in the one before.

`Member` is everything one run needs to go on later, in any slot: freeze is `take`, thaw is `put`.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaft.finetune import optimizer, step
from metaft.finetune.buckets import bucket_lengths, bucketed_parts, cut, sorted_parts
from metaft.finetune.data import Rows, order
from metaft.finetune.methods import METHODS, padding_of, program, variant
from metaft.finetune.packing import PackedRows, batch_shape, fill_batches, pack_if_worth_it, packed_parts
from metaft.finetune.search_space import BATCH_SIZES, Configuration
from metaft.finetune.step import Member
from metaft.phi3 import Phi3, Phi3Config
from metaft.phi3.sharding import on, shard, shard_batch

MICRO_BATCH = min(BATCH_SIZES)
EVALUATION_ROWS = 64  # a member, in one call; fewer where the rows are long
# Fewer rows by this factor pay for the mask that packed rows need and for one more program. Measured with the shipped
# base on a CPU, evaluating 512 long-tailed rows: 1.8 x fewer rows take 0.70 of the time, 3.3 x 0.46, 8.4 x 0.15; on its
# own tasks, whose rows are of nearly one length, 1.1 x fewer take 1.07.
PACKING_GAIN = 2.0
# Every bucket is one more program. Measured with prompt tuning of the shipped base on a CPU over long-tailed rows:
# two buckets train 1.5 x faster where lengths spread by a factor of 1.6, and 2.0 x (evaluate 2.3 x) where by 2.2.
BUCKET_GAIN = 1.5
EVALUATION_TOKENS = 2**13  # of all members together; with Phi-3-mini's layers less than its training step takes
CHUNK = 16  # micro-batches a call at most: enough to hide dispatch
CALL_SECONDS = 2.0  # a call has fewer where it would take longer: two are under way when a run is told to stop


def hyperparameters(configuration: Configuration, total_steps: int, micro_batch: int = MICRO_BATCH) -> dict:
    """Return what members differ in but do not train, as NumPy arrays: {'optimizer', 'adapter', 'micro_batches',
    'label_smoothing'}.
    """
    return jax.tree.map(
        np.asarray,
        {
            'optimizer': optimizer.hyperparameters(configuration, total_steps),
            'adapter': METHODS[variant(configuration)].settings(configuration),
            'micro_batches': np.int32(configuration.batch_size // micro_batch),
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
      micro_batch: examples a member in one micro-batch; divides every batch size.
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
        micro_batch: int = MICRO_BATCH,
    ):
        self.method, self.optimizer, self.width, self.rows, self._mesh = method, optimizer, width, rows, mesh
        self.micro_batch = micro_batch
        graphdef, self._params = nnx.split(model)
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())  # every process reads it
        self._members: Member | None = None
        self._hyper: dict | None = None
        self._runs: list[tuple[Configuration, int] | None] = [None] * width
        shortest = _shortest_row(model.config, method, rows)
        self._packable = is_packable(method) and not shortest
        self._packing = batch_shape(rows, micro_batch, gain=PACKING_GAIN) if self._packable else None
        self._lengths: tuple[int, ...] = rows.tokens_NL.shape[1:]
        if self._packing is None:
            self._lengths = bucket_lengths(
                rows, micro_batch, width=width, size=CHUNK, gain=BUCKET_GAIN, shortest=shortest
            )
        self._packed: dict[int, tuple[Rows, Rows | PackedRows]] = {}
        self._micro_seconds: float | None = None  # of the last call, a micro-batch
        advance = partial(step.advance, graphdef, method, optimizer)
        if mesh is not None:  # members come out as they went in: their buffers are donated
            advance = lambda *args, step=advance: _divided(step(*args), mesh)
        self._advance = jax.jit(advance, donate_argnums=(1,))
        self._evaluate = jax.jit(partial(step.evaluate, graphdef, method), out_shardings=whole)
        self._init = jax.jit(partial(step.init, graphdef, method, optimizer), out_shardings=whole)
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
        hyper = hyperparameters(configuration, total_steps, self.micro_batch)
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
        if configuration.batch_size % self.micro_batch:
            raise ValueError(
                f'a batch of {configuration.batch_size} is no multiple of micro-batches of {self.micro_batch}'
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
        """Compile the training step and the evaluation on `rows`, in every bucket, by running them over nothing."""
        nothing = np.zeros((CHUNK, self.width, self.micro_batch), np.int32)
        none_M = np.zeros(self.width, np.int32)
        for length in self._lengths:
            self._call(cut(self.rows, length).take(nothing), none_M)
        if self._packing is not None:
            self._call(fill_batches(self.rows, [[]] * self.width, self._packing, CHUNK), none_M)
        empty = self._packed_if_worth_it(rows).take(np.arange(0))
        for part in [empty] if isinstance(empty, PackedRows) else [cut(empty, n) for n in self._lengths_of(empty)]:
            self._sums(part)

    def advance(self, to_step_M: Sequence[int | None], should_stop: Callable[[], bool] | None = None) -> bool:
        """Train every slot to its own number of updates; slots already there, or diverged, idle.

        Args:
          to_step_M: wanted updates by slot; None or a smaller number leaves the slot alone.
          should_stop: asked whenever a call of the compiled step has been computed; True leaves the members where they
            are then, after the call that is under way.

        Returns:
          False when it was stopped.
        """
        position_M, left_M = self._remaining(to_step_M)
        under_way: deque[tuple[Array, int]] = deque()
        since, stopped = time.perf_counter(), False
        while under_way or left_M.any():
            if left_M.any():
                count_M = np.minimum(left_M, self._call_size()).astype(np.int32)
                under_way.append((self._train(self._examples(position_M, count_M), count_M), int(count_M.max())))
                position_M, left_M = position_M + count_M, left_M - count_M
            if len(under_way) > 1 or not left_M.any():
                diverged, size = under_way.popleft()
                left_M = np.where(_read(diverged), 0, left_M)  # waits for this call, while the next one is computed
                since, before = time.perf_counter(), since
                self._micro_seconds = (since - before) / size
                stopped = stopped or (should_stop is not None and should_stop())
                left_M = left_M * (not stopped)
        return not stopped

    def _remaining(self, to_step_M: Sequence[int | None]) -> tuple[np.ndarray, np.ndarray]:
        """Return how many micro-batches every slot has done, and has to do, int [M] each."""
        position_M, left_M = np.zeros(self.width, int), np.zeros(self.width, int)
        for slot, target in enumerate(to_step_M):
            if target is None or self._runs[slot] is None or not self.alive()[slot]:
                continue
            per_update = self._runs[slot][0].batch_size // self.micro_batch
            position_M[slot] = int(self._members.step[slot]) * per_update + int(self._members.micro[slot])
            left_M[slot] = max(0, target * per_update - position_M[slot])
        return position_M, left_M

    def _call_size(self) -> int:
        """Return how many micro-batches the next call has. Processes that share a mesh must agree, so it is fixed."""
        if jax.process_count() > 1:
            return CHUNK
        return 1 if self._micro_seconds is None else int(np.clip(CALL_SECONDS / self._micro_seconds, 1, CHUNK))

    def _examples(self, position_M: np.ndarray, count_M: np.ndarray) -> np.ndarray:
        """Return the examples of every slot's next micro-batches, int32 [CHUNK, M, B]; zeros behind them."""
        index_SMB = np.zeros((CHUNK, self.width, self.micro_batch), np.int32)
        for slot in np.flatnonzero(count_M):
            first, count = position_M[slot] * self.micro_batch, count_M[slot] * self.micro_batch
            seen = order(self._runs[slot][1], first, count, len(self.rows.length_N))
            index_SMB[: count_M[slot], slot] = seen.reshape(-1, self.micro_batch)
        return index_SMB

    def _train(self, index_SMB: np.ndarray, count_M: np.ndarray) -> Array:
        """Dispatch micro-batches, packed or in buckets; return who has diverged then, bool [M], not yet computed."""
        if self._packing is not None:
            parts: Iterator = packed_parts(self.rows, index_SMB, count_M, self._packing)
        else:
            parts = bucketed_parts(self.rows, index_SMB, count_M, self._lengths)
        return [self._call(batches, part_M) for part_M, batches in parts][-1]

    def _call(self, batches: Rows | PackedRows, count_M: np.ndarray) -> Array:
        members = self._members
        if self._mesh is not None:
            batches, members = shard_batch(batches, self._mesh, axis=2), shard(members, self._mesh)
        with on(self._mesh):
            self._members, diverged = self._advance(self._params, members, self._hyper, batches, count_M, count_M.max())
        return diverged

    def evaluate(self, rows: Rows | PackedRows) -> list['Evaluation']:
        """Return each slot's loss and exact match on `rows` (dropout off); many rows of padding are packed first."""
        rows = self._packed_if_worth_it(rows)
        sums = np.sum([np.asarray(x, np.float64) for x in self._sums(rows)], axis=0)  # read when all is dispatched
        return [Evaluation(float(s / max(t, 1.0)), float(e / max(rows.num_examples, 1)), int(t)) for s, t, e in sums.T]

    def _packed_if_worth_it(self, rows: Rows | PackedRows) -> Rows | PackedRows:
        if not self._packable or isinstance(rows, PackedRows):
            return rows
        if id(rows) not in self._packed:
            packed = pack_if_worth_it(rows, num_rows=2 * EVALUATION_ROWS, gain=PACKING_GAIN)
            self._packed[id(rows)] = (rows, packed)  # with the rows themselves, so that no other gets their id
        return self._packed[id(rows)][1]

    def _sums(self, rows: Rows | PackedRows) -> list[Array]:
        """Dispatch the evaluation of all rows; return `step.evaluate`'s sums for each part of them."""
        batch = evaluation_batch(self.width, rows.tokens_NL.shape[1])
        found = []
        for part in sorted_parts(rows, batch, self._lengths_of(rows)) if isinstance(rows, Rows) else rows.parts(batch):
            if self._mesh is not None:
                part = shard_batch(part, self._mesh, axis=0)
            with on(self._mesh):
                found.append(self._evaluate(self._params, self._members.trainable, self._hyper['adapter'], part))
        return found

    def _lengths_of(self, rows: Rows) -> tuple[int, ...]:
        """Return the buckets of rows that may have another length than those trained on."""
        whole = rows.tokens_NL.shape[1]
        return (*(length for length in self._lengths[:-1] if length < whole), whole)


def is_packable(method: str) -> bool:
    """Return whether several examples can share a row: not where trained vectors stand in front of an example."""
    return not method.startswith('prompt')


def _shortest_row(config: Phi3Config, method: str, rows: Rows) -> int:
    """Return how short rows may be made: a longrope model takes its long factors for all rows of a batch when one
    reaches its original length, so that rows which do are not cut or packed to fewer positions. 0 for any.
    """
    longest = rows.tokens_NL.shape[1] + padding_of(method) * (not is_packable(method))
    crosses = config.rope_scaling is not None and longest > config.original_max_position_embeddings
    return config.original_max_position_embeddings + 1 if crosses else 0


def _read(array: Array) -> np.ndarray:
    """Return an array that a call computes; waits for it."""
    return np.asarray(array)


def _divided(result: tuple[Member, Array], mesh: Mesh) -> tuple[Member, Array]:
    """Return members divided over a mesh, and who diverged wherever it is read."""
    members, diverged = result
    return shard(members, mesh), jax.lax.with_sharding_constraint(diverged, NamedSharding(mesh, PartitionSpec()))


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
