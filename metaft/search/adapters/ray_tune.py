"""A searcher and a scheduler for Ray Tune that know what was good on other tasks (extra `ray_tune`).

    advisor = Advisor(Surrogate.load('metaft/assets/surrogate'), store.read_task('runs/mine/meta_features.json'))
    tuner = tune.Tuner(
        trainable,
        param_space={'method': 'lora', 'learning_rate': tune.loguniform(1e-5, 1.0), 'rank': tune.choice([4, 16])},
        tune_config=tune.TuneConfig(
            metric='loss', mode='min', num_samples=20,
            search_alg=TransferSearcher(advisor, full_run_steps=64),
            scheduler=PredictedEndScheduler(advisor, full_run_steps=64),
        ),
    )

Parameters are named as metaft's hyperparameters (docs/architecture.md), those it does not know are free; what the space
holds as plain values is fixed. A result's step is its `time_attr`, out of `full_run_steps`, where a trial ends. With
mode 'max' values have to be in [0, 1].
"""

import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain

from metaft.errors import InputError
from metaft.search.advisor import Advisor, Run


@dataclasses.dataclass
class _Trial:
    """What a trial has reported, by step."""

    configuration: dict[str, Any]
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    seconds: dict[int, float] = dataclasses.field(default_factory=dict)
    is_over: bool = False

    def report(self, result: Mapping[str, Any], metric: str, time_attr: str) -> None:
        if metric in result:
            self.values[int(result[time_attr])] = float(result[metric])
            self.seconds[int(result[time_attr])] = float(result['time_total_s'])

    def run(self, advisor: Advisor, mode: str, full_run_steps: int) -> Run:
        return Run.of_reports(
            self.configuration,
            self.values,
            full_run_steps,
            advisor.metric,
            maximize=mode == 'max',
            seconds=self.seconds,
            is_over=self.is_over,
        )


class TransferSearcher(Searcher):
    """Draws candidates from the search space and takes the one of the largest expected improvement.

    Args:
      advisor: surrogate and task.
      full_run_steps: of a trial.
      time_attr: of a result, its step.
      candidates: configurations to choose among, each once, as long as there are any (rows of a ranking.csv, say);
        without them, candidates are drawn, and those added that were the best ones of other tasks.
      num_candidates: drawn for each trial.
      seed: of the draw.
    """

    def __init__(
        self,
        advisor: Advisor,
        *,
        full_run_steps: int,
        time_attr: str = 'training_iteration',
        candidates: Sequence[Mapping[str, Any]] = (),
        num_candidates: int = 256,
        seed: int | None = None,
    ):
        super().__init__()
        self._advisor, self._full_run_steps, self._time_attr = advisor, full_run_steps, time_attr
        self._candidates, self._num_candidates = candidates, num_candidates
        self._rng = np.random.default_rng(seed)
        self._space: dict[str, Any] = {}
        self._trials: dict[str, _Trial] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Takes in what the `Tuner` was given; called by Ray."""
        if self._space or not (metric and mode and config):
            return False
        self._metric, self._mode, self._space = metric, mode, dict(config)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the configuration of a new trial."""
        if not self._space:
            raise InputError('TransferSearcher needs metric, mode and param_space of the Tuner')
        tried = [trial.configuration for trial in self._trials.values()]
        candidates = [c for c in self._within(self._candidates) if c not in tried]
        if not candidates:
            candidates = [self._draw() for _ in range(self._num_candidates)]
            candidates += self._within(self._advisor.surrogate.proven)
        runs = [trial.run(self._advisor, self._mode, self._full_run_steps) for trial in self._trials.values()]
        chosen = candidates[self._advisor.choose(runs, candidates)]
        self._trials[trial_id] = _Trial(chosen)
        return dict(chosen)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Takes in a report."""
        self._trials[trial_id].report(result, self._metric, self._time_attr)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Takes in the last report."""
        trial = self._trials[trial_id]
        trial.report(result or {}, self._metric, self._time_attr)
        trial.is_over = True

    def save(self, checkpoint_path: str) -> None:
        """Writes the trials and the state of the draw; surrogate and task are given again."""
        Path(checkpoint_path).write_bytes(pickle.dumps((self._trials, self._rng)))

    def restore(self, checkpoint_path: str) -> None:
        """Reads what `save` wrote."""
        self._trials, self._rng = pickle.loads(Path(checkpoint_path).read_bytes())

    def _draw(self) -> dict[str, Any]:
        return {
            name: value.sample(random_state=self._rng) if isinstance(value, Domain) else value
            for name, value in self._space.items()
        }

    def _within(self, configurations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns those that lie in the search space."""
        may_be = lambda part, value: part.is_valid(value) if isinstance(part, Domain) else part == value
        return [
            {name: configuration[name] for name in self._space}
            for configuration in configurations
            if all(name in configuration and configuration[name] is not None for name in self._space)
            and all(may_be(part, configuration[name]) for name, part in self._space.items())
        ]


class PredictedEndScheduler(FIFOScheduler):
    """Stops a trial whose end is predicted to undercut the best other trial with too small a probability.

    Args:
      advisor: surrogate and task.
      full_run_steps: of a trial; there it is stopped in any case.
      time_attr: of a result, its step.
      probability: below it a trial is stopped.
    """

    def __init__(
        self,
        advisor: Advisor,
        *,
        full_run_steps: int,
        time_attr: str = 'training_iteration',
        probability: float = 0.1,
    ):
        super().__init__()
        self._advisor, self._full_run_steps, self._time_attr = advisor, full_run_steps, time_attr
        self._probability = probability
        self._mode = 'min'
        self._trials: dict[str, _Trial] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Takes in what the `Tuner` was given; called by Ray."""
        self._mode = mode or self._mode
        return super().set_search_properties(metric, mode, **spec)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """Says whether the trial goes on."""
        self._trials.setdefault(trial.trial_id, _Trial(dict(trial.config))).report(
            result, self._metric, self._time_attr
        )
        if result[self._time_attr] >= self._full_run_steps:
            return TrialScheduler.STOP
        names = list(self._trials)
        runs = [self._trials[name].run(self._advisor, self._mode, self._full_run_steps) for name in names]
        goes_on = self._advisor.is_promising(runs, names.index(trial.trial_id), self._probability)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
