"""TPE with Hyperband pruning by Optuna, as its documentation recommends the two together.

Settings: multivariate TPE with groups; Hyperband with a reduction factor of 3. A proposal is run as the nearest row,
and that row's own hyperparameters are what the study holds.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.peers import ask_tell, packages
from metaft.search.peers.space import Space


def searcher(table: TaskTable, seed: int) -> Searcher:
    """Returns TPE with Hyperband over the rows of a table."""
    optuna = packages.load('optuna')
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    resource_T = ask_tell.resources(table.fractions_T)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # multivariate and group count as experimental
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
        pruner = optuna.pruners.HyperbandPruner(int(resource_T[0]), int(resource_T[-1]), reduction_factor=3)
        study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=f'seed-{seed}')
    space = Space.fit(table.configurations)
    return ask_tell.Driven(_Tpe(optuna, study, space, resource_T), ask_tell.unit(table))


@dataclasses.dataclass
class _Tpe:
    optuna: Any
    study: Any
    space: Space
    resource_T: np.ndarray
    trial: Any = None
    row: int = -1
    reached: int = -1

    def ask(self, observations: Observations) -> Suggestion | None:
        if self.trial is None:
            if observations.started_C.all():
                return None
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                proposal = self.study.ask(self._distributions())
                self.row = self.space.nearest(proposal.params, ~observations.started_C)
                self.study.tell(proposal, state=self.optuna.trial.TrialState.FAIL)  # the row is told instead
                self.study.enqueue_trial(self._params(self.row))
                self.trial = self.study.ask(self._distributions())
            self.reached = -1
        return Suggestion(self.row, self.reached + 1)

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        self.reached = suggestion.grid_index
        self.trial.report(loss, int(self.resource_T[self.reached]))
        if self.reached == len(self.resource_T) - 1:
            self.study.tell(self.trial, loss)
            self.trial = None
        elif self.trial.should_prune():
            self.study.tell(self.trial, state=self.optuna.trial.TrialState.PRUNED)
            self.trial = None

    def _distributions(self) -> dict[str, Any]:
        distributions = self.optuna.distributions
        numbers = {name: distributions.FloatDistribution(0.0, 1.0) for name in self.space.numbers}
        levels = {name: distributions.CategoricalDistribution(v) for name, v in self.space.categories.items()}
        return numbers | levels

    def _params(self, row: int) -> dict[str, Any]:
        """Returns a row's point; a number that is missing lies in the middle."""
        point_E = self.space.points_CE[row]
        split = len(self.space.numbers)
        numbers = {name: 0.5 if np.isnan(x) else float(np.clip(x, 0.0, 1.0))
                   for name, x in zip(self.space.numbers, point_E[:split])}  # fmt: skip
        levels = {name: v[int(x)] for (name, v), x in zip(self.space.categories.items(), point_E[split:])}
        return numbers | levels
