"""Length buckets: micro-batches cut to the shortest of a few lengths that holds them, each length a program of its own.

A row is scored alike in every bucket; only padding is saved. Packing saves more where it can be used (`packing`), so
buckets are for soft prompts, which stand in front of every example, and for what packing does not shorten enough.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from metaft.finetune.data import BUCKET, Rows
from metaft.finetune.packing import prefixes, to_front

_FRACTIONS = ((0.5,), (0.25,), (0.25, 0.5))  # of the rows' length; more buckets, more programs to compile


def bucket_lengths(
    rows: Rows, batch: int, *, width: int, size: int, gain: float, shortest: int = 0, calls: int = 8
) -> tuple[int, ...]:
    """Return the lengths, shortest first, that micro-batches are cut to; the rows' own length is the last.

    Every length but that one has to save the factor `gain` in tokens on calls of random micro-batches, where members
    that wait while another's bucket runs count as well.

    Args:
      rows: [N].
      batch: rows of a micro-batch.
      width: members M.
      size: micro-batches of a call.
      gain: what a further program has to save.
      shortest: no bucket is shorter.
      calls: how many are drawn to judge by.
    """
    whole = rows.tokens_NL.shape[1]
    drawn_CSMB = np.random.default_rng(0).integers(0, max(1, rows.num_examples), (calls, size, width, batch))
    tokens: dict[tuple[int, ...], float] = {(whole,): whole * size * calls}
    for fractions in _FRACTIONS:
        shorter = {-(-int(whole * fraction) // BUCKET) * BUCKET for fraction in fractions}
        lengths = tuple(sorted(shorter | {whole}))
        if len(lengths) > len(fractions) and lengths[0] >= shortest:
            each = (
                _tokens(_kinds(rows, drawn_SMB, np.full(width, size), lengths), lengths) for drawn_SMB in drawn_CSMB
            )
            tokens[lengths] = sum(each) * gain ** (len(lengths) - 1)
    return min(tokens, key=tokens.__getitem__)


def _tokens(kinds_MS: list[list[int]], lengths: Sequence[int]) -> int:
    """Return the tokens of a row that are computed until all members are through."""
    return sum(length * int(count_M.max()) for length, _, count_M in prefixes(kinds_MS, lengths))


def bucketed_parts(
    rows: Rows, index_SMB: np.ndarray, left_M: np.ndarray, lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, Rows]]:
    """Yield every member's micro-batches in their order, each cut to the shortest of `lengths` that holds it.

    The bucket of a micro-batch depends on its own examples alone, so a run that is stopped and goes on, or has other
    companions in its population, sees the same numbers.

    Args:
      rows: [N].
      index_SMB: the examples of S micro-batches of M members.
      left_M: how many of them count for each member.
      lengths: increasing; the last one is the rows' own.

    Yields:
      (how many micro-batches of each member, int32 [M]; rows [S, M, B, ...] that begin with these).
    """
    for length, first_M, count_M in prefixes(_kinds(rows, index_SMB, left_M, lengths), lengths):
        yield count_M, cut(rows, length).take(to_front(index_SMB, first_M, count_M))


def sorted_parts(rows: Rows, batch: int, lengths: Sequence[int]) -> Iterator[Rows]:
    """Yield all rows, the shortest first, `batch` at a time and each part cut to the shortest of `lengths`; rows of
    padding behind the last ones. For sums over all of them.
    """
    index_N = np.argsort(rows.length_N, kind='stable') if len(lengths) > 1 else np.arange(rows.num_examples)
    for start in range(0, max(len(index_N), 1), batch):
        index = index_N[start : start + batch]
        longest = int(np.max(np.asarray(rows.length_N)[index], initial=0))
        yield cut(rows, next(n for n in lengths if n >= longest)).take_padded(index, batch)


def cut(rows: Rows, length: int) -> Rows:
    """Return the rows with the first `length` tokens of each."""
    return dataclasses.replace(rows, tokens_NL=rows.tokens_NL[:, :length])


def _kinds(rows: Rows, index_SMB: np.ndarray, left_M: np.ndarray, lengths: Sequence[int]) -> list[list[int]]:
    """Return the bucket of every member's micro-batches, [M][left]."""
    longest_SM = np.asarray(rows.length_N)[index_SMB].max(axis=-1)
    bucket_SM = np.asarray(lengths)[np.searchsorted(lengths, longest_SM)]
    return [bucket_SM[:left, m].tolist() for m, left in enumerate(left_M)]
