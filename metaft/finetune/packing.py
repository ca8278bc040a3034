"""Several examples in one row: packed first-fit by length, kept apart by segment ids and positions of their own.

A packed row scores its examples exactly as rows of their own do; only padding is saved. Short answers under long-tailed
lengths gain most. Prompt tuning cannot take packed rows: its vectors stand in front of an example.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaft.finetune.data import BUCKET, Rows

Kind = TypeVar('Kind')


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows of several examples each (a pytree of arrays; leading axes may be [N], [M, B], ...).

    Attributes:
      tokens_NL: int32, the examples of a row one after another, padded on the right.
      segment_ids_NL: int32, 1, 2, ... for a row's examples, 0 for padding.
      positions_NL: int32, beginning at 0 with every example.
      answer_index_NA: int32, where the answers' tokens are, example after example; 0 for a place not in use.
      max_segments: static, the most examples in a row.
    """

    tokens_NL: Array | np.ndarray
    segment_ids_NL: Array | np.ndarray
    positions_NL: Array | np.ndarray
    answer_index_NA: Array | np.ndarray
    max_segments: int

    @property
    def num_examples(self) -> int:
        """How many examples the rows hold."""
        return int(np.sum(np.max(self.segment_ids_NL, axis=-1)))

    def layout(self) -> dict[str, Array]:
        """Return what `Phi3.hidden` has to know beside the tokens."""
        return {'positions_BL': jnp.asarray(self.positions_NL), 'segment_ids_BL': jnp.asarray(self.segment_ids_NL)}

    def answers(self) -> tuple[Array, Array]:
        """Return where the answers' tokens are, int32 [N, A], and which of these places are in use, bool [N, A]."""
        index_NA = jnp.asarray(self.answer_index_NA)
        return index_NA, index_NA > 0

    def num_exact(self, right_NA: Array, mask_NA: Array) -> Array:
        """Return the number of examples in each row whose answer is right throughout, float32 [N]."""
        segment_NA = jnp.where(mask_NA, jnp.take_along_axis(self.segment_ids_NL, self.answer_index_NA, axis=-1), 0)
        numbers = jnp.arange(1, self.max_segments + 1, dtype=jnp.int32).reshape([1] * segment_NA.ndim + [-1])
        own = segment_NA[..., None] == numbers
        exact = jnp.all(right_NA[..., None] | ~own, axis=-2) & jnp.any(own, axis=-2)
        return jnp.sum(exact, axis=-1, dtype=jnp.float32)

    def take(self, index) -> 'PackedRows':
        """Return the rows at an integer array of any shape."""
        return jax.tree.map(lambda x: x[index], self)

    def take_padded(self, index: np.ndarray, size: int) -> 'PackedRows':
        """Return the rows at `index` followed by rows of padding up to `size`."""
        return jax.tree.map(lambda x: np.pad(x, [(0, size - len(index)), (0, 0)]), self.take(index))

    def parts(self, batch: int) -> Iterator['PackedRows']:
        """Yield all rows in their order, `batch` at a time, with rows of padding behind the last ones."""
        num = len(self.tokens_NL)
        for start in range(0, max(num, 1), batch):
            yield self.take_padded(np.arange(start, min(start + batch, num)), batch)


jax.tree_util.register_dataclass(
    PackedRows,
    data_fields=['tokens_NL', 'segment_ids_NL', 'positions_NL', 'answer_index_NA'],
    meta_fields=['max_segments'],
)


def pack_if_worth_it(rows: Rows, *, num_rows: int, gain: float) -> Rows | PackedRows:
    """Return the rows packed where there are more than `num_rows` and packing divides them by `gain` or more.

    Packed rows of another split are another program, so a few rows, or rows of nearly one length, stay as they are.
    """
    if rows.num_examples <= num_rows or rows.tokens_NL.size < gain * int(np.sum(rows.length_N)):
        return rows
    packed = pack(rows)
    return packed if gain * len(packed.tokens_NL) <= rows.num_examples else rows


def pack(rows: Rows, length: int | None = None) -> PackedRows:
    """Pack examples into rows of `length` tokens, the longest first, each into the first row with room for it.

    Args:
      rows: [N]; their order is lost, so this is for sums over all of them.
      length: None for the rows' own padded length.

    Raises:
      ValueError: an example is longer than `length`.
    """
    length = rows.tokens_NL.shape[1] if length is None else length
    length_N, answer_N = np.asarray(rows.length_N), np.asarray(rows.length_N - rows.answer_start_N)
    bins = first_fit(length_N, length, answer_N, int(answer_N.sum()))
    answers = max((int(answer_N[b].sum()) for b in bins), default=1)
    shape = Shape(len(bins), length, -(-answers // BUCKET) * BUCKET, max(map(len, bins), default=0))
    return _filled(rows, bins, shape)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of packed rows: how many, tokens of a row, answer tokens and examples that it has room for."""

    num_rows: int
    length: int
    max_answers: int
    max_segments: int


def batch_shape(rows: Rows, batch: int, *, gain: float, share: float = 0.95, draws: int = 256) -> Shape | None:
    """Return the shape with the fewest rows that `share` of random micro-batches fit into; None where `gain` is missed.

    All rows together have no more room for answer tokens than those of the micro-batch unpacked had.
    """
    length_N, answer_N = np.asarray(rows.length_N), np.asarray(rows.length_N - rows.answer_start_N)
    length = rows.tokens_NL.shape[1]
    drawn_NB = np.random.default_rng(0).integers(0, max(1, len(length_N)), (draws, batch))
    num_rows = 1
    while gain * num_rows <= batch:
        answers = -(-batch * rows.max_answer // num_rows)
        if batch * length_N.mean() <= num_rows * length:
            counts = [len(first_fit(length_N[b], length, answer_N[b], answers)) for b in drawn_NB]
            if np.mean(np.array(counts) <= num_rows) >= share:
                return Shape(num_rows, length, answers, batch)
        num_rows *= 2
    return None


def packed_parts(
    rows: Rows, index_SMB: np.ndarray, left_M: np.ndarray, shape: Shape
) -> Iterator[tuple[np.ndarray, Rows | PackedRows]]:
    """Yield every member's micro-batches in their order: those that fit into `shape` packed, the others as they are.

    What becomes of a micro-batch depends on its own examples alone, so a run that is stopped and goes on, or has other
    companions in its population, sees the same numbers.

    Args:
      rows: [N].
      index_SMB: the examples of S micro-batches of M members.
      left_M: how many of them count for each member.
      shape: what the examples of one micro-batch are packed into.

    Yields:
      (how many micro-batches of each member, int32 [M]; rows [S, M, ...] that begin with these).
    """
    num, width, _ = index_SMB.shape
    bins_MS = [[_bins(rows, index_SMB[s, m], shape) for s in range(left_M[m])] for m in range(width)]
    fits_MS = [[len(bins) <= shape.num_rows for bins in bins_S] for bins_S in bins_MS]
    for packed, first_M, count_M in prefixes(fits_MS, (True, False)):
        if packed:
            here = [slice(first, first + count) for first, count in zip(first_M, count_M)]
            yield count_M, fill_batches(rows, [bins[at] for bins, at in zip(bins_MS, here)], shape, num)
        else:
            yield count_M, rows.take(to_front(index_SMB, first_M, count_M))


def prefixes(
    kinds_MS: Sequence[Sequence[Kind]], kinds: Sequence[Kind]
) -> Iterator[tuple[Kind, np.ndarray, np.ndarray]]:
    """Yield what is run together: one kind of micro-batches after another, every member's next ones of that kind.

    Args:
      kinds_MS: of each member's micro-batches, in their order.
      kinds: all that occur.

    Yields:
      (kind; each member's first micro-batch of it, int [M]; how many in a row, int32 [M]), until all are through.
    """
    done_M = np.zeros(len(kinds_MS), int)
    while any(done < len(kinds_S) for done, kinds_S in zip(done_M, kinds_MS)):
        for kind in kinds:
            runs = (itertools.takewhile(kind.__eq__, kinds_S[done:]) for done, kinds_S in zip(done_M, kinds_MS))
            count_M = np.array([sum(1 for _ in run) for run in runs], np.int32)
            if count_M.any():
                yield kind, done_M, count_M
                done_M = done_M + count_M


def to_front(index_SMB: np.ndarray, first_M: np.ndarray, count_M: np.ndarray) -> np.ndarray:
    """Return each member's next `count_M` micro-batches from `first_M` on as its first ones, example 0 behind them."""
    part_SMB = np.zeros_like(index_SMB)
    for m, (first, count) in enumerate(zip(first_M, count_M)):
        part_SMB[:count, m] = index_SMB[first : first + count, m]
    return part_SMB


def fill_batches(rows: Rows, bins_MS: list[list[list[list[int]]]], shape: Shape, num: int) -> PackedRows:
    """Return packed micro-batches [num, M, R, ...]: those given by their rows' examples, and empty ones behind."""
    by_step = list(itertools.zip_longest(*bins_MS, fillvalue=[])) if any(bins_MS) else []
    by_step += [([],) * len(bins_MS)] * (num - len(by_step))
    filled = [_filled(rows, bins, shape) for bins_M in by_step for bins in bins_M]
    return jax.tree.map(lambda *x: np.stack(x).reshape(num, len(bins_MS), *x[0].shape), *filled)


def _bins(rows: Rows, examples_B: np.ndarray, shape: Shape) -> list[list[int]]:
    length_B = np.asarray(rows.length_N)[examples_B]
    answer_B = length_B - np.asarray(rows.answer_start_N)[examples_B]
    return [[int(examples_B[i]) for i in row] for row in first_fit(length_B, shape.length, answer_B, shape.max_answers)]


def first_fit(length_N: np.ndarray, capacity: int, answer_N: np.ndarray, max_answers: int) -> list[list[int]]:
    """Return the examples of each row: the longest example first, into the first row that has room for it.

    Where answers leave room, at most 11/9 of the fewest rows possible, plus one (Dósa 2007).

    Args:
      length_N, answer_N: tokens of each example, and of its answer.
      capacity, max_answers: of a row.

    Raises:
      ValueError: an example is longer than `capacity`.
    """
    if len(length_N) and length_N.max() > capacity:
        raise ValueError(f'an example of {length_N.max()} tokens does not fit into a row of {capacity}')
    bins: list[list[int]] = []
    room, answer_room = np.zeros(len(length_N), int), np.zeros(len(length_N), int)
    for example in np.argsort(-length_N, kind='stable'):
        used = slice(0, len(bins))
        fits = np.flatnonzero((room[used] >= length_N[example]) & (answer_room[used] >= answer_N[example]))
        row = int(fits[0]) if len(fits) else len(bins)
        if row == len(bins):
            bins.append([])
            room[row], answer_room[row] = capacity, max_answers
        bins[row].append(int(example))
        room[row] -= length_N[example]
        answer_room[row] -= answer_N[example]
    return bins


def _filled(rows: Rows, bins: list[list[int]], shape: Shape) -> PackedRows:
    """Return packed rows of the examples in `bins`, empty ones behind them."""
    n, length = shape.num_rows, shape.length
    tokens_NL, segment_ids_NL, positions_NL = (np.zeros((n, length), np.int32) for _ in range(3))
    answer_index_NA = np.zeros((n, shape.max_answers), np.int32)
    for row, examples in enumerate(bins):
        at, place = 0, 0
        for segment, example in enumerate(examples, start=1):
            stop, start = int(rows.length_N[example]), int(rows.answer_start_N[example])
            tokens_NL[row, at : at + stop] = rows.tokens_NL[example, :stop]
            segment_ids_NL[row, at : at + stop] = segment
            positions_NL[row, at : at + stop] = np.arange(stop)
            answer_index_NA[row, place : place + stop - start] = np.arange(at + start, at + stop)
            at, place = at + stop, place + stop - start
    return PackedRows(tokens_NL, segment_ids_NL, positions_NL, answer_index_NA, shape.max_segments)
