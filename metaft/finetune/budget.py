"""Fidelity: the one grid of budgets on which every run is measured.

A *full run* sees `max_examples` training examples whatever its batch size. The grid is log-spaced, two points an
octave, because learning curves of finetuning are near straight in log budget (arXiv 2402.17193).
"""

import dataclasses

import numpy as np

from metaft.errors import BudgetError

NUM_GRID_POINTS = 13  # 1/64 ... 1 of a full run


def fractions(num: int = NUM_GRID_POINTS) -> np.ndarray:
    """Return the grid f_k = 2^(-(T-1-k)/2), float64 [T], of fractions of a full run; the last one is 1."""
    return 2.0 ** (-(num - 1 - np.arange(num)) / 2)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The budgets at which one run is measured.

    Attributes:
      steps_T: optimizer updates at each grid point, increasing (ties where a fraction is less than one update).
      examples_T: training examples seen by then, `steps_T * batch_size`.
    """

    steps_T: tuple[int, ...]
    examples_T: tuple[int, ...]

    @property
    def total_steps(self) -> int:
        """Updates of a full run; the learning-rate schedule ends there."""
        return self.steps_T[-1]


def grid(max_examples: int, batch_size: int, num: int = NUM_GRID_POINTS) -> Grid:
    """Return the grid of a run with `batch_size` examples an update.

    Raises:
      BudgetError: when a full run is not even one update long.
    """
    if max_examples < batch_size:
        raise BudgetError(
            f'a full run of {max_examples} examples is less than one update of batch size {batch_size}: raise '
            f'--max_examples to at least {batch_size}'
        )
    steps = np.maximum(1, np.round(fractions(num) * max_examples / batch_size)).astype(int)
    return Grid(tuple(int(s) for s in steps), tuple(int(s) * batch_size for s in steps))
