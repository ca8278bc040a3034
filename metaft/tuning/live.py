"""A live search: a searcher's suggestions carried out by an executor until the budget is spent."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from metaft.executors.local import Job, LocalExecutor
from metaft.finetune.budget import fractions
from metaft.finetune.methods import program
from metaft.finetune.search_space import Configuration
from metaft.metadataset.records import Measurement
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.stopping import stopped_by
from metaft.tuning.ledger import Ledger, score

# The training step holds the forward and the backward pass of every layer and the optimizer; compiling it took four to
# six times as long as compiling the evaluation (two-core CPU, 3 layers). Used until a program was compiled here.
TRAIN_TO_EVALUATION_COMPILE = 5.0
GRACE = 0.02  # of the budget: a step may run over by this much before it is cut off


def run_id(index: int, configuration: Configuration) -> str:
    """Return the name of a candidate's run, the same in every session of a search."""
    return f'{configuration.method}-{index:04d}'


@dataclasses.dataclass
class LiveSearch:
    """Joins a searcher, an executor and a ledger.

    Attributes:
      candidates: C configurations; their order is part of the search's identity.
      seed: of the runs.
      evaluation_compile_seconds: measured; the compile time of a training step is guessed from it.
      reference_value: the metric before finetuning, lower is better.
    """

    candidates: Sequence[Configuration]
    executor: LocalExecutor
    ledger: Ledger
    seed: int
    evaluation_compile_seconds: float
    reference_value: float

    def __post_init__(self):
        self._index = {run_id(i, c): i for i, c in enumerate(self.candidates)}
        self._decision_seconds = [0.05]
        self.observations = Observations.empty(len(self.candidates), fractions(), self.reference_value)
        for measurement in self.ledger.measurements:
            self._observe(measurement)

    def run(
        self,
        searcher: Searcher,
        budget: float,
        unit: str = 'seconds',
        *,
        width: int = 1,
        on_change: Callable[[list[Suggestion]], None] = lambda advancing: None,
    ) -> str:
        """Search until the budget is spent or nothing can be gained; the ledger's clock runs meanwhile.

        Args:
          searcher: chooses the steps.
          budget: of all sessions together.
          unit: 'seconds', 'flops' or 'tokens'; the searcher reckons in it, see `metaft.search.units`.
          width: runs to advance at once.
          on_change: told what is advanced, before each step; with nothing after the last one.

        Returns:
          why it is over, see `metaft.search.stopping`.
        """
        self.ledger.start_clock()
        try:
            while (remaining := budget - self.ledger.spent(unit)) > 0:
                start, seen = time.perf_counter(), self._with_overheads(remaining)
                suggestions = searcher.suggest(seen, remaining, width)
                self._decision_seconds.append(time.perf_counter() - start)
                if not suggestions:
                    break
                on_change(suggestions)
                self._advance(suggestions, budget if unit == 'seconds' else np.inf)
            on_change([])
        finally:
            self.ledger.stop_clock()
        return stopped_by(searcher, seen, remaining) if remaining > 0 else 'budget'

    def _advance(self, suggestions: list[Suggestion], budget_seconds: float) -> None:
        end = budget_seconds * (1.0 + GRACE)
        by_program: dict[tuple[str, str], list[Job]] = {}
        for c, t in suggestions:
            job = Job(run_id(c, self.candidates[c]), self.candidates[c], self.seed, t)
            by_program.setdefault(program(job.configuration), []).append(job)
        for (variant, _), jobs in by_program.items():
            width = self.executor.width_of(variant)
            for i in range(0, len(jobs), width):
                for measurement in self.executor.advance(
                    jobs[i : i + width],
                    on_measurement=self.ledger.record,
                    should_stop=lambda: self.ledger.spent_seconds > end,
                ):
                    self._observe(measurement)

    def _observe(self, measurement: Measurement) -> None:
        c = self._index[measurement.run_id]
        steps_T = np.array(self.executor.grid(self.candidates[c]).steps_T)
        value = score(measurement, self.ledger.metric)[0]
        for t in np.flatnonzero(steps_T == measurement.budget_steps):  # short runs have ties on the grid
            self.observations = self.observations.observe(c, int(t), value, measurement.cost_seconds)

    def _with_overheads(self, remaining_seconds: float) -> Observations:
        """Return the observations with what starting a program still costs, and a visit of a grid point.

        Before anything was compiled this is a guess, and at most half of what remains: it must not keep a search from
        starting.
        """
        known = self.executor.compile_seconds
        if known:
            guess = float(np.mean(list(known.values())))
        else:
            guess = min(TRAIN_TO_EVALUATION_COMPILE * self.evaluation_compile_seconds, 0.5 * remaining_seconds)
        overhead_C = np.array([0.0 if program(c) in known else guess for c in self.candidates])
        # The median: a first decision compiles the surrogate's program for a context, which says nothing of the next.
        visit = float(np.median(self._decision_seconds[-9:])) + self.executor.evaluation_seconds
        return dataclasses.replace(self.observations, overhead_seconds_C=overhead_C, measurement_seconds=visit)
