"""Freeze-thaw search: ask the surrogate, advance the run that promises most per cost, look again.

Freeze-thaw: Swersky, Snoek and Adams, arXiv 1406.3896. The surrogate conditions on the observations in one forward
pass, so a decision costs milliseconds and every grid point is an occasion to change one's mind.

What a run promises is what two opinions expect of it. A mixture over the known tasks (task_mixture.py) learns from each
measurement which tasks the new one is like, and so which runs will be good together. The surrogate's posterior sees
each run alone, and knows better the more runs were begun: its say grows to a half.

Where no known task has the metric there is no mixture, and the posterior alone cannot be trusted with everything: where
it is wrong about how runs go on, many runs are begun and none is finished, and where it is sure too early it keeps to
one region. So what is spent is insured then, as Hyperband insures successive halving by brackets: at least
`finish_share` goes to runs that are at their end, the next one by its predicted lower quartile, the rest by expected
improvement.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from metaft.search import acquisition
from metaft.search.acquisition import Acquisition, Prediction, TransformedPrediction
from metaft.search.observations import Observations, Suggestion
from metaft.search.task_mixture import TaskMixture

_LARGEST_SAY = 0.5  # of the posterior, beside a mixture
_OPTIMISM = 0.25  # the quantile by which the next run to finish is chosen where there is no mixture


@dataclasses.dataclass(frozen=True)
class FreezeThawSettings:
    """The policy.

    All by replay of collected tasks and of parts of the published tables, with surrogates that had left them out
    (docs/results.md): cost exponents of 0 to 0.5 and steps of 1 to 8 % are alike. Without the commitment LCBench, whose
    early values tell most, is searched better, and tasks where they mislead worse.
    """

    posterior_runs: float = 10.0  # begun, at which the posterior has half of what say it gets beside a mixture
    commitment: float = 2.0  # times what a run gains that was begun, where there is a mixture
    finish_share: float = 0.4  # of what is spent without a mixture, see above; 0: none
    cost_exponent: float = 0.2  # of the seconds of a step; 0 ignores the cost, 1 divides by it
    minimum_step_share: float = 0.06  # of the whole budget: a cheaper step is not worth a decision
    minimum_step_of_run: float = 0.12  # of a full run: a step need not be longer, whatever the budget
    minimum_step_visits: float = 3.0  # a step takes at least this many times what deciding and measuring cost
    reserve_share: float = 0.02  # of the remaining seconds, kept for the error of the predicted cost
    minimum_gain: float = 1e-5  # transformed, or a share of the value before finetuning: less than this is nothing
    patience: float = 0.0  # of the metric by the second: the search stops where no run is expected to gain that much

    def __post_init__(self):
        for name in ('posterior_runs', 'commitment', 'cost_exponent', 'minimum_step_visits', 'patience'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 0')
        for name in ('finish_share', 'minimum_step_share', 'minimum_step_of_run', 'reserve_share'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be in [0, 1)')


@dataclasses.dataclass(frozen=True)
class FreezeThaw:
    """Searcher over the posterior of a surrogate.

    Attributes:
      predict: from observations to the prediction of all configurations, conditioned on them.
      settings: the policy.
      mixture: what the known tasks say of the runs; None where there is none with the metric.
    """

    predict: Callable[[Observations], TransformedPrediction]
    settings: FreezeThawSettings = FreezeThawSettings()
    mixture: TaskMixture | None = None

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Returns up to `width` runs to advance at once, best first; an empty list when nothing can be gained.

        Further slots are chosen as if the runs of the ones before had reached what is predicted for them (the kriging
        believer of Ginsbourger et al. 2010), so that a second run which promises the same gives way to another; and as
        if that had been paid for, so that eight slots do not begin eight runs where two can be finished. Slots that
        would not be worth it stay empty.
        """
        suggestions: list[Suggestion] = []
        believed = observations
        for _ in range(width):
            prediction = self.predict(believed)
            if believed is observations and self._is_out_of_patience(observations, prediction, remaining_seconds):
                break
            taken = [s.configuration_index for s in suggestions]
            decision = self.evaluate(believed, prediction, remaining_seconds)
            score_C = decision.score_C.copy()
            score_C[taken] = -np.inf
            gain_C = np.where(np.isfinite(score_C), decision.gain_C, 0.0)
            if score_C.max() == -np.inf or (gain_C.max() <= self.settings.minimum_gain and not decision.improves):
                break
            insured = self._insured(believed, prediction, decision, np.isfinite(score_C))
            c = int(np.argmax(score_C)) if insured is None else insured
            suggestions.append(Suggestion(c, int(decision.next_C[c])))
            if len(suggestions) < width:
                spent_before = believed.spent_seconds_C.sum()
                believed = _believe(believed, prediction, c, int(decision.reach_C[c]))
                remaining_seconds -= float(believed.spent_seconds_C.sum() - spent_before)
        return suggestions

    def _insured(
        self, observations: Observations, prediction: Prediction, decision: Acquisition, allowed_C: np.ndarray
    ) -> int | None:
        """Returns the run to finish next whatever its expected improvement per cost, None where enough is finished."""
        last_C, num_T = observations.last_grid_index_C, len(observations.fractions_T)
        is_over_C = observations.diverged_C | (last_C == num_T - 1)
        spent_C, share = observations.spent_seconds_C, self.settings.finish_share
        if self.mixture is not None or not share or spent_C[is_over_C].sum() > share * spent_C.sum():
            return None
        is_ahead_CT = acquisition.is_ahead(observations, decision.reach_C) & allowed_C[:, None]
        lower_CT = np.asarray(prediction.quantile_CT(_OPTIMISM), np.float64)
        return int(np.argmin(np.min(lower_CT, axis=1, where=is_ahead_CT, initial=np.inf)))

    def _is_out_of_patience(self, observations: Observations, prediction: Prediction, remaining_seconds: float) -> bool:
        patience = self.settings.patience
        return patience > 0 and acquisition.gain_per_second(observations, prediction, remaining_seconds) < patience

    def evaluate(
        self, observations: Observations, prediction: TransformedPrediction, remaining_seconds: float
    ) -> Acquisition:
        """Returns the numbers behind a suggestion, one a configuration; with a mixture, gains are transformed."""
        budget_seconds = remaining_seconds + float(observations.spent_seconds_C.sum())
        full_run_C = np.asarray(prediction.cost_seconds_CT, np.float64)[:, -1]
        step_C = np.minimum(
            self.settings.minimum_step_share * budget_seconds, self.settings.minimum_step_of_run * full_run_C
        )
        remaining_seconds *= 1.0 - self.settings.reserve_share
        decision = acquisition.evaluate(
            observations,
            prediction,
            remaining_seconds,
            cost_exponent=self.settings.cost_exponent,
            minimum_step_seconds=np.maximum(
                step_C, self.settings.minimum_step_visits * observations.measurement_seconds
            ),
        )
        if self.mixture is None:
            return decision
        gain_C = self._joint_gain_C(self.mixture, observations, prediction, decision.reach_C)
        score_C = acquisition.per_cost(gain_C, decision.seconds_C, remaining_seconds, self.settings.cost_exponent)
        can_advance_C = decision.reach_C > observations.last_grid_index_C
        return decision._replace(score_C=np.where(can_advance_C, score_C, -np.inf), gain_C=gain_C)

    def _joint_gain_C(
        self, mixture: TaskMixture, observations: Observations, prediction: TransformedPrediction, reach_C: np.ndarray
    ) -> np.ndarray:
        """Returns what mixture and posterior expect a run to gain until `reach_C`, transformed; 0 where it is there."""
        alone_CT = prediction.transformed_improvement_CT(observations.best_value)
        alone_C = np.max(alone_CT, axis=1, where=acquisition.is_ahead(observations, reach_C), initial=0.0)
        num_runs = int(observations.started_C.sum())
        say = _LARGEST_SAY * num_runs / max(num_runs + self.settings.posterior_runs, 1.0)
        mixture_C = np.maximum(mixture.gain_C(observations, reach_C), 0.0)  # -inf where there is nothing ahead
        weight_C = np.where(observations.started_C, self.settings.commitment, 1.0)
        return weight_C * ((1.0 - say) * mixture_C + say * alone_C)


def _believe(observations: Observations, prediction: Prediction, c: int, t: int) -> Observations:
    """Returns the observations as if a run had come to a grid point with its median value, at its predicted cost."""
    value = float(np.asarray(prediction.quantile_CT(0.5))[c, t])
    seconds = max(float(np.asarray(prediction.cost_seconds_CT)[c, t]), float(observations.spent_seconds_C[c]))
    return observations.observe(c, t, value, seconds)
