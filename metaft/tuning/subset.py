"""Finetuning on the first so many examples of a task, to the checkpoint with the best validation loss, tested once.

What scaling studies measure. Unlike the search's runs, none is frozen or gone on with: one population a base and method
serves all data sizes, adapter sizes and seeds, for only the paddings of rows shape its compiled program.
"""

import dataclasses
import math
import time
from collections.abc import Mapping

import numpy as np

from metaft.finetune.budget import grid
from metaft.finetune.data import Rows
from metaft.finetune.population import Evaluation, Population
from metaft.finetune.search_space import Configuration
from metaft.phi3 import Phi3

NUM_CHECKPOINTS = 7  # of a run, 1/8 ... 1 of it
MICRO_BATCH = 4  # by 16, what a layer keeps leaves a core's cache: .22 M parameters train 1.1 x to 1.3 x slower


@dataclasses.dataclass(frozen=True)
class Splits:
    """Rows with one padding; `other`, by name, are tasks of the base's own, to see what finetuning does to them."""

    train: Rows
    validation: Rows
    test: Rows
    other: Mapping[str, Rows]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run gave; losses in nats a token, NaN where no checkpoint was finite.

    Attributes:
      validation_loss, test_loss, exact_match: of the best checkpoint, the latter two on test.
      other_losses: of the best checkpoint, by the names of `Splits.other`.
      best_examples, examples: seen at that checkpoint, and in all.
      cpu_seconds: of all threads.
    """

    validation_loss: float
    test_loss: float
    exact_match: float
    other_losses: dict[str, float]
    best_examples: int
    examples: int
    cpu_seconds: float


class Trainer:
    """Runs of one method over one base.

    Args:
      model: the frozen base.
      method: 'full', 'lora' or 'prompt'.
      splits: of the first run; others may come with every run.
    """

    def __init__(self, model: Phi3, method: str, splits: Splits):
        self._population = Population(model, method, splits.train, micro_batch=MICRO_BATCH)

    def run(
        self, splits: Splits, configuration: Configuration, num_examples: int, seed: int, budget_examples: int
    ) -> Trained:
        """Trains on the first `num_examples` training rows, `budget_examples` in all, and tests the best checkpoint."""
        population, start = self._population, time.process_time()
        population.rows = splits.train.take(np.arange(num_examples))
        points = grid(budget_examples, configuration.batch_size, NUM_CHECKPOINTS)
        member = population.new_member(configuration, seed)
        population.put(0, member, configuration, seed=seed, total_steps=points.total_steps)
        best: tuple[float, int] = (math.inf, 0)
        for steps, examples in zip(points.steps_T, points.examples_T, strict=True):
            population.advance([steps])
            loss = population.evaluate(splits.validation)[0].loss
            if not (population.alive()[0] and math.isfinite(loss)):
                break
            if loss < best[0]:
                best, member = (loss, examples), population.take(0)
        if not math.isfinite(best[0]):
            nothing = dict.fromkeys(splits.other, math.nan)
            return Trained(math.nan, math.nan, math.nan, nothing, 0, points.examples_T[-1], time.process_time() - start)
        population.put(0, member, configuration, seed=seed, total_steps=points.total_steps)
        test, other = population.evaluate(splits.test)[0], self._other_losses(splits)
        seconds = time.process_time() - start
        return Trained(best[0], test.loss, test.exact_match, other, best[1], points.examples_T[-1], seconds)

    def untrained(self, splits: Splits, configuration: Configuration) -> tuple[Evaluation, dict[str, float]]:
        """Evaluates a run before its first update on test and other: the base itself, except for a soft prompt."""
        population = self._population
        population.put(0, population.new_member(configuration, 0), configuration, seed=0, total_steps=1)
        return population.evaluate(splits.test)[0], self._other_losses(splits)

    def _other_losses(self, splits: Splits) -> dict[str, float]:
        return {name: self._population.evaluate(rows)[0].loss for name, rows in splits.other.items()}
