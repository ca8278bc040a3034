"""Runs on this process's devices: a population a program (`methods.program`), runs frozen in host memory and, if
wanted, on disk.

The executor trains, measures and remembers; which run goes how far is the caller's decision. It is the live
counterpart of `metaft.search.replay`.
"""

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from metaft.finetune import checkpoints
from metaft.finetune.budget import Grid, grid
from metaft.finetune.costs import mean_training_cost
from metaft.finetune.memory import affordable_width, estimate, exhaustion_told
from metaft.finetune.methods import program
from metaft.finetune.population import MICRO_BATCH, Evaluation, Member, Population
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.finetune.task import Task
from metaft.metadataset.records import Measurement


@dataclasses.dataclass(frozen=True)
class Job:
    """Take a run to a grid point.

    Attributes:
      run_id: names the run; the same id goes on where it stopped.
      configuration, seed: what the run is; must be the same every time.
      grid_index: the point of the budget grid to reach.
      measure_at: grid indices at which to measure on the way; the last one always is.
    """

    run_id: str
    configuration: Configuration
    seed: int
    grid_index: int
    measure_at: tuple[int, ...] = ()


@dataclasses.dataclass
class _Run:
    """A run's frozen state and its cumulative cost."""

    member: Member
    seconds: float = 0.0


OnMeasurement = Callable[[Measurement, Callable[[], dict]], None]


class LocalExecutor:
    """Trains the runs of one task.

    Args:
      task: what is trained on.
      width: slots of a population, fewer where memory does not allow it; one is fastest on a CPU (design.md).
      directory: where frozen runs are kept; None keeps them in memory only.
      measure_test: also measure the test split at the end of a run.
      versions: recorded with every measurement.
      clock: seconds that a run's cost is counted in. `time.process_time` (CPU seconds of all threads) is not disturbed
        by other work on the machine, and equals wall time where the process is pinned to one core.
      mesh: devices that the task's base is divided over; None for the default device.
    """

    def __init__(
        self,
        task: Task,
        *,
        width: int = 1,
        directory: Path | None = None,
        measure_test: bool = False,
        versions: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        mesh: Mesh | None = None,
    ):
        self._mesh = mesh
        self._widths: dict[str, int] = {}
        self.task, self.width, self.directory, self.measure_test = task, width, directory, measure_test
        self._clock = clock
        self.compile_seconds: dict[tuple[str, str], float] = {}
        self.evaluation_seconds = 0.0  # of the last measurement
        self._versions = dict(versions or {'jax': jax.__version__})
        self._populations: dict[tuple[str, str], Population] = {}
        self._runs: dict[str, _Run] = {}

    def grid(self, configuration: Configuration) -> Grid:
        """Return the budgets at which a run with `configuration` is measured."""
        return grid(self.task.max_examples, configuration.batch_size)

    def warm_up(self, configuration: Configuration) -> float:
        """Compile the training step of the configuration's program, once; return the seconds it took now."""
        key = program(configuration)
        if key in self.compile_seconds:
            return 0.0
        start = time.perf_counter()
        with self._exhaustion_told(configuration):
            population = self._population(configuration)
            self._put_fresh(population, configuration)
            population.compile(self.task.validation)
        self.compile_seconds[key] = time.perf_counter() - start
        return self.compile_seconds[key]

    def advance(
        self,
        jobs: Sequence[Job],
        *,
        on_measurement: OnMeasurement | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Measurement]:
        """Train runs of one program together, at most a population's width of them, and measure them.

        Args:
          jobs: what to do; all of the same method, its variant and optimizer.
          on_measurement: called with each measurement, and a function that gives the run's adapter as it is measured,
            before the
            run is frozen: what it stores is never behind the frozen run.
          should_stop: asked after every few micro-batches; True freezes the runs where they are, unmeasured.

        Returns:
          the measurements in the order they were made.
        """
        key = program(jobs[0].configuration)
        self.warm_up(jobs[0].configuration)
        population = self._population(jobs[0].configuration)
        if len(jobs) > population.width or any(program(j.configuration) != key for j in jobs):
            raise ValueError(f'{len(jobs)} jobs do not fit one {"/".join(key)} population of width {population.width}')
        grids = [self.grid(j.configuration) for j in jobs]
        for slot, (job, g) in enumerate(zip(jobs, grids, strict=True)):
            member = self._thaw(job, population).member
            population.put(slot, member, job.configuration, seed=job.seed, total_steps=g.total_steps)
        found: list[Measurement] = []
        try:
            with self._exhaustion_told(jobs[0].configuration):
                for points in _segments(jobs):
                    if not self._segment(population, jobs, grids, points, found, on_measurement, should_stop):
                        break
        finally:
            self._freeze(population, jobs)
        return found

    def zero_shot(self) -> tuple[Evaluation, Evaluation]:
        """Evaluate the base as it is on the validation and the test split (an untrained LoRA changes nothing)."""
        with self._exhaustion_told(default_configuration()):
            population = self._population(default_configuration())
            self._put_fresh(population, default_configuration())
            return population.evaluate(self.task.validation)[0], population.evaluate(self.task.test)[0]

    def untrained(self, configuration: Configuration, seed: int) -> dict:
        """Return what a run trains, before its first update (no M axis)."""
        return self._population(configuration).new_member(configuration, seed).trainable

    def test(self, configuration: Configuration, adapter: dict) -> Evaluation:
        """Evaluate one run's adapter (no M axis) on the test split."""
        with self._exhaustion_told(configuration):
            population = self._population(configuration)
            self._put_fresh(population, configuration, adapter)
            return population.evaluate(self.task.test)[0]

    def width_of(self, variant: str) -> int:
        """Return how many runs of a variant of `methods.METHODS` train together, decided once.

        Raises:
          ModelError: memory does not even allow one.
        """
        if variant not in self._widths:
            num_devices = 1 if self._mesh is None else self._mesh.size
            self._widths[variant] = affordable_width(
                self.task.model, variant, self.task.train, width=self.width, batch=MICRO_BATCH, num_devices=num_devices
            )
        return self._widths[variant]

    def _exhaustion_told(self, configuration: Configuration) -> AbstractContextManager:
        """Return a context in which running out of memory is told with what was estimated."""
        variant = program(configuration)[0]

        def sentence() -> str:
            rows, width = self.task.train, self._widths[variant]
            needed = estimate(
                self.task.model,
                variant,
                width=width,
                batch=MICRO_BATCH,
                length=rows.tokens_NL.shape[1],
                max_answer=rows.max_answer,
            )
            return (
                f'the device ran out of memory with {width} runs of method {variant}, for which about {needed} were '
                f'estimated: give a smaller --width, --remat=layer or --quantize=int8, or shorten the examples'
            )

        return exhaustion_told(sentence)

    def _population(self, configuration: Configuration) -> Population:
        key = program(configuration)
        if key not in self._populations:
            variant, optimizer = key
            self._populations[key] = Population(
                self.task.model,
                variant,
                self.task.train,
                width=self.width_of(variant),
                optimizer=optimizer,
                mesh=self._mesh,
            )
        return self._populations[key]

    def _put_fresh(self, population: Population, configuration: Configuration, adapter: dict | None = None) -> None:
        member = population.new_member(configuration, 0)
        if adapter is not None:
            member = dataclasses.replace(member, trainable=adapter)
        population.put(0, member, configuration, seed=0, total_steps=1)

    def _segment(self, population, jobs, grids, points, found, on_measurement, should_stop) -> bool:
        """Train to the next grid point and measure those with one in `points`; False when asked to stop.

        Runs that go further train along, so that all of them are in the batch as long as they have something to do.
        """
        before = population.steps()
        start = self._clock()
        here = max(p for p in points if p is not None)
        targets = [g.steps_T[min(here, job.grid_index)] for job, g in zip(jobs, grids, strict=True)]
        ended = population.advance(targets + [None] * (population.width - len(targets)), should_stop)
        if ended:
            trained = self._clock()
            scores = population.evaluate(self.task.validation)
            self.evaluation_seconds = self._clock() - trained
        seconds = self._clock() - start
        done = population.steps() - before
        examples = [int(done[slot]) * job.configuration.batch_size for slot, job in enumerate(jobs)]
        shares = _shares(examples, [p is not None for p in points])
        for slot, (job, point) in enumerate(zip(jobs, points, strict=True)):
            run = self._runs[job.run_id]
            run.seconds += seconds * shares[slot]
            if ended and point is not None:
                measurement = self._measure(population, slot, job, grids[slot], point, scores[slot], run)
                found.append(measurement)
                if on_measurement is not None:
                    on_measurement(measurement, lambda s=slot: population.take(s).trainable)
        return ended

    def _measure(self, population, slot, job, g: Grid, point: int, score: Evaluation, run: _Run) -> Measurement:
        alive = bool(population.alive()[slot]) and math.isfinite(score.loss)
        final = point == len(g.steps_T) - 1
        train_loss = population.training_loss(slot)
        steps = g.steps_T[point]
        test: Evaluation | None = None
        if final and alive and self.measure_test:
            test = population.evaluate(self.task.test)[slot]
        flops, tokens = mean_training_cost(self.task.model.config, job.configuration, self.task.train)
        examples = steps * job.configuration.batch_size
        return Measurement(
            run_id=job.run_id,
            task=self.task.name,
            dataset=self.task.dataset,
            base_model=self.task.base_model,
            seed=job.seed,
            status='diverged' if not alive else 'finished' if final else 'running',
            budget_steps=steps,
            budget_examples=examples,
            train_loss=train_loss if math.isfinite(train_loss) else None,
            validation_loss=score.loss if alive else None,
            validation_exact_match=score.exact_match if alive else None,
            test_loss=test.loss if test else None,
            test_exact_match=test.exact_match if test else None,
            cost_seconds=run.seconds,
            cost_flops=flops * examples,
            cost_tokens=round(tokens * examples),
            group=f'{self.task.name}/{_group(job.configuration)}/{population.width}',
            slot=slot,
            host=platform.node(),
            versions=self._versions,
            configuration=job.configuration.to_dict(),
        )

    def _path(self, run_id: str) -> Path | None:
        return None if self.directory is None else self.directory / f'{run_id}.safetensors'

    def _thaw(self, job: Job, population: Population) -> _Run:
        path = self._path(job.run_id)
        if job.run_id not in self._runs:
            run = _Run(population.new_member(job.configuration, job.seed))
            if path is not None and path.exists():
                like: dict = {'member': run.member, 'seconds': np.zeros((), np.float64)}
                found = checkpoints.load(path, like)
                run = _Run(found['member'], float(found['seconds']))
            self._runs[job.run_id] = run
        return self._runs[job.run_id]

    def _freeze(self, population: Population, jobs: Sequence[Job]) -> None:
        for slot, job in enumerate(jobs):
            run = self._runs[job.run_id]
            try:
                run.member = population.take(slot)
            except (
                RuntimeError
            ):  # interrupted inside of a step, its donated buffers are gone: what was frozen before stands
                continue
            path = self._path(job.run_id)
            if path is not None:
                checkpoints.save(path, {'member': run.member, 'seconds': np.asarray(run.seconds)})

    def forget(self, run_id: str) -> None:
        """Drop a run's frozen state from memory and disk; it cannot go on."""
        self._runs.pop(run_id, None)
        path = self._path(run_id)
        if path is not None:
            path.unlink(missing_ok=True)


def _group(configuration: Configuration) -> str:
    """Returns what names a population in a record: its variant, and its optimizer where that is not AdamW."""
    variant, optimizer = program(configuration)
    return variant if optimizer == 'adamw' else f'{variant}-{optimizer}'


def _segments(jobs: Sequence[Job]) -> list[list[int | None]]:
    """Return for each grid point where somebody is measured, which jobs are: [[point or None a job], ...]."""
    wanted = [sorted({p for p in job.measure_at if p <= job.grid_index} | {job.grid_index}) for job in jobs]
    points = sorted(set().union(*wanted))
    return [[p if p in w else None for w in wanted] for p in points]


def _shares(examples: Sequence[int], taking_part: Sequence[bool]) -> list[float]:
    """Return each run's share of a group's wall time: by examples trained, equal parts where nobody trained."""
    total = sum(examples)
    if total == 0:
        return [t / max(1, sum(taking_part)) for t in taking_part]
    return [e / total for e in examples]
