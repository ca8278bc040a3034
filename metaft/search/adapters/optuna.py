"""A sampler and a pruner for Optuna that know what was good on other tasks (extra `optuna`).

    advisor = Advisor(Surrogate.load('metaft/assets/surrogate'), store.read_task('runs/mine/meta_features.json'))
    study = optuna.create_study(
        sampler=Sampler(advisor, search_space, full_run_steps=1000, fixed={'method': 'lora'}),
        pruner=Pruner(advisor, full_run_steps=1000, fixed={'method': 'lora'}),
    )

Parameters are named as metaft's hyperparameters (docs/architecture.md), those it does not know are free. Steps that
trials report are updates out of `full_run_steps`. Studies that are maximised have values in [0, 1].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from metaft.search.advisor import Advisor, Run


class Sampler(optuna.samplers.BaseSampler):
    """Draws candidates from the search space and takes the one of the largest expected improvement.

    Args:
      advisor: surrogate and task.
      search_space: of the study, so that the first trial is a choice already; without it, the parameters that all
        completed trials share are chosen, and others are drawn at random.
      full_run_steps: of a trial.
      fixed: hyperparameters that are not the study's to choose, by name.
      candidates: configurations to choose among, each once, as long as there are any (rows of a ranking.csv, say);
        without them, candidates are drawn, and those added that were the best ones of other tasks.
      num_candidates: drawn for each trial.
      seed: of the draw.
    """

    def __init__(
        self,
        advisor: Advisor,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        full_run_steps: int,
        fixed: Mapping[str, Any] | None = None,
        candidates: Sequence[Mapping[str, Any]] = (),
        num_candidates: int = 256,
        seed: int | None = None,
    ):
        self._advisor, self._search_space = advisor, search_space
        self._full_run_steps, self._fixed, self._num_candidates = full_run_steps, dict(fixed or {}), num_candidates
        self._candidates = candidates
        self._random = optuna.samplers.RandomSampler(seed)
        self._intersection = optuna.search_space.IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns the search space it was given, or that of all completed trials."""
        return dict(self._intersection.calculate(study) if self._search_space is None else self._search_space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns the chosen parameters."""
        if not search_space:
            return {}
        others = _others(study, trial)
        tried = [other.params for other in others]
        candidates = [c for c in self._within(self._candidates, search_space) if c not in tried]
        if not candidates:
            draw = lambda: {n: self._random.sample_independent(study, trial, n, d) for n, d in search_space.items()}
            candidates = [draw() for _ in range(self._num_candidates)]
            candidates += self._within(self._advisor.surrogate.proven, search_space)
        runs = [_run(self._advisor, study, other, self._full_run_steps, self._fixed) for other in others]
        return candidates[self._advisor.choose(runs, [self._fixed | candidate for candidate in candidates])]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a random value of a parameter that nothing is known of."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _within(
        self, configurations: Sequence[Mapping[str, Any]], search_space: Mapping[str, BaseDistribution]
    ) -> list[dict[str, Any]]:
        """Returns those that lie in the search space, as parameters."""
        fixed = self._fixed.items()
        return [
            {name: configuration[name] for name in search_space}
            for configuration in configurations
            if all(configuration.get(name) == value for name, value in fixed)
            and all(_contains(d, configuration.get(name)) for name, d in search_space.items())
        ]


class Pruner(optuna.pruners.BasePruner):
    """Prunes a trial whose end is predicted to undercut the best other trial with too small a probability.

    Args:
      advisor: surrogate and task.
      full_run_steps: of a trial.
      fixed: hyperparameters that are not the study's to choose, by name.
      probability: below it a trial is pruned.
      min_trials: completed ones before any is pruned.
    """

    def __init__(
        self,
        advisor: Advisor,
        *,
        full_run_steps: int,
        fixed: Mapping[str, Any] | None = None,
        probability: float = 0.1,
        min_trials: int = 1,
    ):
        self._advisor, self._full_run_steps, self._fixed = advisor, full_run_steps, dict(fixed or {})
        self._probability, self._min_trials = probability, min_trials

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Says whether the trial is to end where it stands."""
        others = _others(study, trial)
        if not trial.intermediate_values or sum(o.state == TrialState.COMPLETE for o in others) < self._min_trials:
            return False
        runs = [_run(self._advisor, study, one, self._full_run_steps, self._fixed) for one in (trial, *others)]
        return not self._advisor.is_promising(runs, 0, self._probability)


def _others(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """Returns the other trials that have begun."""
    begun = (other for other in study.get_trials(deepcopy=False) if other.state != TrialState.WAITING)
    return [other for other in begun if other.number != trial.number]


def _run(
    advisor: Advisor, study: optuna.Study, trial: FrozenTrial, full_run_steps: int, fixed: Mapping[str, Any]
) -> Run:
    """Returns a trial as a run; what the objective returned is its value at the end."""
    reports = dict(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE:
        reports[full_run_steps] = trial.value
    return Run.of_reports(
        {**fixed, **trial.params},
        reports,
        full_run_steps,
        advisor.metric,
        maximize=study.direction == optuna.study.StudyDirection.MAXIMIZE,
        is_over=trial.state.is_finished(),
    )


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Says whether a parameter may have the value."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    steps = 0.0 if distribution.step is None else (value - distribution.low) / distribution.step
    return bool(np.isclose(steps, round(steps)))
