"""The configurations of a table as points of a box: for packages that propose points and not rows.

What a package proposes is run as the nearest configuration of the table that was not proposed before, and it is told
that one's outcome. That is the usual way to search a table with a method that is made for a continuous space.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaft.surrogate.encoding import Axis, level_of

_APART = 0.5  # distance of a missing number to any other


@dataclasses.dataclass(frozen=True)
class Space:
    """The box.

    Attributes:
      numbers: by hyperparameter, its range, logarithmic where the values evidently are.
      categories: by hyperparameter, its levels as text; a number that is there or not, whole, is no category.
      points_CE: the rows, numbers as shares of their range, NaN: missing; categories as the index of their level.
    """

    numbers: dict[str, Axis]
    categories: dict[str, tuple[str, ...]]
    points_CE: np.ndarray

    @classmethod
    def fit(cls, configurations: Sequence[Mapping[str, Any]]) -> 'Space':
        """Reads the box off the rows; a hyperparameter with one value is left out."""
        names = list(dict.fromkeys(name for c in configurations for name in c))
        numbers: dict[str, Axis] = {}
        categories: dict[str, tuple[str, ...]] = {}
        for name in names:
            values = [c.get(name) for c in configurations]
            present = [v for v in values if v is not None]
            if len({level_of(v) for v in values}) < 2:
                continue
            if any(isinstance(v, str | bool) for v in present) or len(set(present)) < 2:
                categories[name] = tuple(sorted({level_of(v) for v in values}))
            else:
                numbers[name] = Axis.of(present)
        columns = [
            [np.nan if c.get(n) is None else 0.5 + 0.5 * axis.place(float(c[n])) for c in configurations]
            for n, axis in numbers.items()
        ]
        columns += [[levels.index(level_of(c.get(n))) for c in configurations] for n, levels in categories.items()]
        return cls(numbers, categories, np.array(columns, float).T.reshape(len(configurations), -1))

    def value(self, name: str, share: float) -> float:
        """Returns the number at a share of its range."""
        axis = self.numbers[name]
        if axis.log:
            return float(axis.low * (axis.high / axis.low) ** share)
        return axis.low + share * (axis.high - axis.low)

    def nearest(self, proposed: Mapping[str, Any], free_C: np.ndarray) -> int:
        """Returns the free row nearest to a proposal of numbers (shares of their range) and levels.

        Args:
          proposed: by hyperparameter; what is missing counts as far as any.
          free_C: bool; where none is free, all are.
        """
        number = [_share(proposed.get(name)) for name in self.numbers]
        level = [levels.index(proposed[name]) if name in proposed else -1 for name, levels in self.categories.items()]
        split = len(number)
        apart_CE = np.abs(self.points_CE[:, :split] - np.array(number)[None, :])
        apart_CE = np.where(np.isnan(apart_CE), _APART, apart_CE)
        unequal_CE = self.points_CE[:, split:] != np.array(level)[None, :]
        square_C = np.sum(apart_CE**2, axis=1) + np.sum(unequal_CE, axis=1)
        return int(np.argmin(np.where(free_C | ~free_C.any(), square_C, np.inf)))


def _share(value: float | None) -> float:
    return np.nan if value is None else float(value)
