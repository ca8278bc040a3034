"""The measurements that one law is fitted to: losses with the sizes they were measured at."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metaft.errors import DataError


@dataclasses.dataclass(frozen=True)
class Points:
    """One group of measurements, a row a combination of sizes.

    Attributes:
      loss_I: positive; repeats at the same sizes are averaged.
      data_size_I: finetuning examples, positive.
      factors_IX: the other sizes, positive, in the order of `factors`.
      repeats_I: how many measurements a row averages; its weight in a fit.
      member_IX: which factor's series a row belongs to, one-hot; see `series`.
      factors: names of the other sizes.
    """

    loss_I: np.ndarray
    data_size_I: np.ndarray
    factors_IX: np.ndarray
    repeats_I: np.ndarray
    member_IX: np.ndarray
    factors: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss_I)

    def where(self, keep_I: np.ndarray) -> 'Points':
        """Returns the rows chosen by a mask or by indices."""
        arrays = {f.name: getattr(self, f.name)[keep_I] for f in dataclasses.fields(self) if f.name != 'factors'}
        return dataclasses.replace(self, **arrays)

    def only(self, factors: Sequence[str]) -> 'Points':
        """Returns the same rows with these factors and no others."""
        chosen = [self.factors.index(name) for name in factors]
        num = len(self), len(chosen)
        member_IX = np.ones(num) if len(chosen) == 1 else np.zeros(num)
        return dataclasses.replace(
            self, factors_IX=self.factors_IX[:, chosen], member_IX=member_IX, factors=tuple(factors)
        )


def make(
    loss: npt.ArrayLike,
    data_size: npt.ArrayLike,
    factors: Sequence[npt.ArrayLike] = (),
    names: Sequence[str] = (),
) -> Points:
    """Returns points from measurements, repeats at equal sizes averaged.

    Args:
      loss: I positive numbers.
      data_size: I positive numbers.
      factors: for each name in `names`, I positive numbers.
      names: of the factors.
    """
    sizes = np.column_stack([np.asarray(column, np.float64) for column in (data_size, *factors)])
    loss_N = np.asarray(loss, np.float64)
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise DataError('a scaling law needs sizes that are positive numbers')
    if not np.all(np.isfinite(loss_N)) or np.any(loss_N <= 0):
        raise DataError('a scaling law needs losses that are positive numbers')
    distinct, index = np.unique(sizes, axis=0, return_inverse=True)
    repeats_I = np.bincount(index.ravel()).astype(np.float64)
    return Points(
        loss_I=np.bincount(index.ravel(), weights=loss_N) / repeats_I,
        data_size_I=distinct[:, 0],
        factors_IX=distinct[:, 1:],
        repeats_I=repeats_I,
        member_IX=np.ones((len(distinct), 1)) if len(names) == 1 else np.zeros((len(distinct), len(names))),
        factors=tuple(names),
    )


def split_largest(points: Points, num_sizes: int) -> tuple[Points, Points]:
    """Returns (the points to fit, the points at the `num_sizes` largest data sizes)."""
    if num_sizes == 0:
        return points, points.where(np.zeros(len(points), bool))
    largest = np.unique(points.data_size_I)[-num_sizes:]
    held_out_I = np.isin(points.data_size_I, largest)
    return points.where(~held_out_I), points.where(held_out_I)
