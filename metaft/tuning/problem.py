"""What one tuning job works on: a task, the candidates, and the surrogate that knows other tasks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from metaft.errors import BudgetError, ModelError
from metaft.executors.local import LocalExecutor
from metaft.finetune.budget import fractions
from metaft.finetune.costs import mean_training_cost
from metaft.finetune.population import Evaluation
from metaft.finetune.search_space import (
    METHODS,
    Configuration,
    contains,
    default_configuration,
    sample,
    search_space,
)
from metaft.metadataset.records import TaskRecord
from metaft.search.observations import Observations
from metaft.search.task_mixture import TaskMixture
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.process import Runs
from metaft.surrogate.surrogate import Surrogate
from metaft.tasks.dataset import Dataset
from metaft.tasks.tokenizer import Tokenizer
from metaft.tuning.ledger import Ledger
from metaft.tuning.live import LiveSearch


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything that the stages of a job share.

    Attributes:
      dataset, tokenizer: the task's data.
      executor: of its runs, over the base model.
      record: meta-features and reference values.
      zero_shot: the base model as it is on the validation and on the test split.
      candidates: configurations to choose among; their order is part of the job's identity.
      surrogate: trained on other tasks.
      metric: what is improved, 'loss' or 'exact_match'.
      workdir: where the job keeps what it did.
      seed: of the runs.
      evaluation_compile_seconds: measured; compile times that are not known yet are guessed from it.
      warnings: sentences for the terminal and the report.
    """

    dataset: Dataset
    tokenizer: Tokenizer
    executor: LocalExecutor
    record: TaskRecord
    zero_shot: tuple[Evaluation, Evaluation]
    candidates: Sequence[Configuration]
    surrogate: Surrogate
    metric: str
    workdir: Path
    seed: int
    evaluation_compile_seconds: float
    warnings: Sequence[str] = ()

    @property
    def reference_value(self) -> float:
        """The metric before finetuning, lower is better."""
        validation = self.zero_shot[0]
        return validation.loss if self.metric == 'loss' else 1.0 - validation.exact_match

    @property
    def nothing_observed(self) -> Observations:
        """The state of a search before its first measurement."""
        return Observations.empty(len(self.candidates), fractions(), self.reference_value)

    @functools.cached_property
    def encoded(self) -> Runs:
        """All candidates with what is remembered of them, for the surrogate."""
        return self.surrogate.encode([c.identity() for c in self.candidates], self.metric)

    def predictor(self) -> Callable[[Observations], Prediction]:
        """Return the function from observations to the surrogate's prediction of all candidates."""

        def predict(observations: Observations) -> Prediction:
            return self.surrogate.predict(
                self.record.meta_features,
                self.encoded,
                observations.values_CT,
                observations.costs_CT,
                metric=self.metric,
                reference_value=self.reference_value,
                reference_seconds=self.record.reference_seconds,
                fractions_T=fractions(),
                max_examples=self.record.max_examples,
            )

        return predict

    def mixture(self, zero_shot: Prediction) -> TaskMixture | None:
        """Return what the known tasks say of all candidates together; None where none has the metric."""
        return TaskMixture.of(self.surrogate, self.record.meta_features, self.encoded, zero_shot)

    def costs(self, unit: str) -> np.ndarray:
        """Return the exact cumulative 'flops' or 'tokens' of each candidate at each grid point, float64 [C, T]."""
        task, which = self.executor.task, {'flops': 0, 'tokens': 1}[unit]
        per_example_C = [mean_training_cost(task.model.config, c, task.train)[which] for c in self.candidates]
        examples_CT = [self.executor.grid(c).examples_T for c in self.candidates]
        return np.array(per_example_C)[:, None] * np.array(examples_CT, np.float64)

    def live_search(self) -> LiveSearch:
        """Return the search as its ledger left it."""
        return LiveSearch(
            candidates=self.candidates,
            executor=self.executor,
            ledger=Ledger(self.workdir, self.metric),
            seed=self.seed,
            evaluation_compile_seconds=self.evaluation_compile_seconds,
            reference_value=self.reference_value,
        )


def draw_candidates(
    methods: Sequence[str],
    restrict: Mapping,
    *,
    num: int,
    max_examples: int,
    seed: int,
    proven: Sequence[Mapping] = (),
) -> list[Configuration]:
    """Return `num` configurations of the (restricted) space: default ones, those proven elsewhere, then random ones.

    Args:
      methods: of METHODS; empty for all of them.
      restrict: see `search_space`.
      num: fewer are returned where the space holds fewer.
      max_examples: of a full run; a configuration whose batch does not fit into it is left out.
      seed: of the draw.
      proven: configurations that were good on other tasks.

    Raises:
      ConfigurationError: unknown names or values.
      BudgetError: no batch fits into a full run.
    """
    methods = tuple(methods) or METHODS
    space = search_space(methods, restrict)
    known = [*map(default_configuration, methods), *map(Configuration.from_dict, proven)]
    drawn = list(dict.fromkeys([*(c for c in known if contains(space, c)), *sample(space, num, seed)]))
    fitting = [c for c in drawn if c.batch_size <= max_examples][:num]
    if not fitting:
        smallest = min(c.batch_size for c in drawn)
        raise BudgetError(
            f'a full run of {max_examples} examples is less than one update of the smallest batch in the search space, '
            f'{smallest}: raise --max_examples to at least {smallest}'
        )
    return fitting


def without_unaffordable(
    candidates: Sequence[Configuration], executor: LocalExecutor, *, asked: bool
) -> tuple[list[Configuration], list[str]]:
    """Leave full tuning out where it would not fit into memory, or has nothing to train.

    Args:
      asked: full tuning was asked for by name, so leaving it out silently would be wrong.

    Returns:
      the candidates, and sentences that say what was left out.

    Raises:
      ModelError: nothing remains, or it was asked for.
    """
    kept = [c for c in candidates if c.method != 'full']
    if len(kept) == len(candidates):
        return kept, []
    try:
        executor.width_of('full')
    except ModelError as error:
        if asked or not kept:
            raise
        return kept, [f'Full tuning was left out: {error}.']
    return list(candidates), []


def default_width() -> int:
    """Return a population's width: folding members costs more than it saves on a CPU, and fills an accelerator."""
    return 1 if jax.default_backend() == 'cpu' else 8
