"""Several examples in one row: packed first-fit by length, kept apart by segment ids and positions of their own.

A packed row scores its examples exactly as rows of their own do; only padding is saved. Short answers under long-tailed
lengths gain most. Prompt tuning cannot take packed rows: its vectors stand in front of an example.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaft.finetune.data import BUCKET, Rows


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
    bins = first_fit(np.asarray(rows.length_N), length)
    n, segments = len(bins), max(map(len, bins), default=0)
    answer_N = np.asarray(rows.length_N - rows.answer_start_N)
    answers = max((int(answer_N[b].sum()) for b in bins), default=0)
    answers = max(1, -(-answers // BUCKET) * BUCKET)
    tokens_NL, segment_ids_NL, positions_NL = (np.zeros((n, length), np.int32) for _ in range(3))
    answer_index_NA = np.zeros((n, answers), np.int32)
    for row, examples in enumerate(bins):
        at, place = 0, 0
        for segment, example in enumerate(examples, start=1):
            size, start = int(rows.length_N[example]), int(rows.answer_start_N[example])
            tokens_NL[row, at : at + size] = rows.tokens_NL[example, :size]
            segment_ids_NL[row, at : at + size] = segment
            positions_NL[row, at : at + size] = np.arange(size)
            answer_index_NA[row, place : place + size - start] = np.arange(at + start, at + size)
            at, place = at + size, place + size - start
    return PackedRows(tokens_NL, segment_ids_NL, positions_NL, answer_index_NA, segments)


def first_fit(length_N: np.ndarray, capacity: int) -> list[list[int]]:
    """Return the examples of each row: the longest example first, into the first row that has room for it.

    At most 11/9 of the fewest rows possible, plus one (Dósa 2007).

    Raises:
      ValueError: an example is longer than `capacity`.
    """
    if len(length_N) and length_N.max() > capacity:
        raise ValueError(f'an example of {length_N.max()} tokens does not fit into a row of {capacity}')
    bins: list[list[int]] = []
    room = np.zeros(len(length_N), int)
    for example in np.argsort(-length_N, kind='stable'):
        fits = np.flatnonzero(room[: len(bins)] >= length_N[example])
        row = int(fits[0]) if len(fits) else len(bins)
        if row == len(bins):
            bins.append([])
            room[row] = capacity
        bins[row].append(int(example))
        room[row] -= length_N[example]
    return bins
