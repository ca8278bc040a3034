"""Encoded rows in the shape that a compiled step wants, and the order in which a run sees them."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaft.tasks.prompts import EncodedExamples

BUCKET = 8  # tokens: sequences and answers are padded up to a multiple, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Rows:
    """Encoded examples with static paddings; leading axes may be [N], [M, B], ... (a pytree of arrays).

    Attributes:
      tokens_NL: int32, right-padded.
      answer_start_N: index of the first answer token.
      length_N: number of tokens of prompt, answer and stop token; 0 marks a row that is padding.
      max_answer: static A, at least every answer's number of tokens with its stop token.
    """

    tokens_NL: Array | np.ndarray
    answer_start_N: Array | np.ndarray
    length_N: Array | np.ndarray
    max_answer: int

    @property
    def num_examples(self) -> int:
        """How many examples the rows hold."""
        return len(self.length_N)

    def layout(self) -> dict[str, Array]:
        """Return what a model has to know beside tokens: nothing, for one right-padded example a row."""
        return {}

    def answers(self) -> tuple[Array, Array]:
        """Return where the answers' tokens are, int32 [N, A], and which of these places are in use, bool [N, A]."""
        start_N1, length_N1 = (jnp.asarray(x)[..., None] for x in (self.answer_start_N, self.length_N))
        index_NA = start_N1 + jnp.arange(self.max_answer, dtype=jnp.int32).reshape([1] * (start_N1.ndim - 1) + [-1])
        return index_NA, index_NA < length_N1

    def num_exact(self, right_NA: Array, mask_NA: Array) -> Array:
        """Return the number of examples in each row whose answer is right throughout, float32 [N]."""
        return (jnp.all(right_NA | ~mask_NA, axis=-1) & jnp.any(mask_NA, axis=-1)).astype(jnp.float32)

    def take(self, index) -> 'Rows':
        """Return the rows at an integer array of any shape."""
        return jax.tree.map(lambda x: x[index], self)

    def take_padded(self, index: np.ndarray, size: int) -> 'Rows':
        """Return the rows at `index` followed by rows of padding up to `size`."""
        extra = size - len(index)
        part = self.take(index)
        return jax.tree.map(lambda x: np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), part)


jax.tree_util.register_dataclass(
    Rows, data_fields=['tokens_NL', 'answer_start_N', 'length_N'], meta_fields=['max_answer']
)


def bucketed(*splits: EncodedExamples) -> list[Rows]:
    """Pad several splits of a dataset to one common length and answer length, both multiples of BUCKET."""
    up = lambda n: -(-n // BUCKET) * BUCKET
    length = up(max(int(s.length_N.max()) for s in splits))
    answer = up(max(int((s.length_N - s.answer_start_N).max()) for s in splits))
    return [
        Rows(
            np.pad(s.tokens_NL[:, :length], ((0, 0), (0, max(0, length - s.tokens_NL.shape[1])))).astype(np.int32),
            s.answer_start_N.astype(np.int32),
            s.length_N.astype(np.int32),
            answer,
        )
        for s in splits
    ]


def order(seed: int, first: int, count: int, num_rows: int) -> np.ndarray:
    """Return the rows that a run with `seed` sees as its examples `first` ... `first + count - 1`, int32 [count].

    Every epoch is a fresh permutation that depends on (seed, epoch) alone, so a run can go on from any position.
    """
    at = np.arange(first, first + count)
    epochs, within = at // num_rows, at % num_rows
    out = np.empty(count, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = _permutation(seed, int(epoch), num_rows)[within[here]]
    return out


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_rows).astype(np.int32)
