"""ASHA by Syne Tune (stopping, random search): a run goes on unless it is below the best third at a rung.

Settings: Syne Tune's own, reduction factor 3 and the first rung at the first grid point. arXiv 1810.05934.
"""

import dataclasses
import datetime
from typing import Any

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.peers import ask_tell, packages


def searcher(table: TaskTable, seed: int) -> Searcher:
    """Returns ASHA over the rows of a table."""
    asha = packages.load('syne_tune.optimizer.schedulers.asha')
    config_space = packages.load('syne_tune.config_space')
    packages.quiet('syne_tune')
    np.random.seed(seed)  # noqa: NPY002 - the scheduler draws its bracket from the global generator
    resource_T = ask_tell.resources(table.fractions_T)
    scheduler = asha.AsynchronousSuccessiveHalving(
        {'row': config_space.choice([str(c) for c in range(len(table.configurations))])},
        metric='loss',
        time_attr='resource',
        max_t=int(resource_T[-1]),
        grace_period=int(resource_T[0]),
        random_seed=seed,
    )
    return ask_tell.Driven(_Asha(scheduler, resource_T), ask_tell.unit(table))


@dataclasses.dataclass
class _Asha:
    scheduler: Any
    resource_T: np.ndarray
    trial: Any = None  # that runs
    reached: int = -1
    num_trials: int = 0

    def ask(self, observations: Observations) -> Suggestion | None:
        if self.trial is None:
            suggestion = self.scheduler.suggest()
            while suggestion is not None and observations.started_C[int(suggestion.config['row'])]:
                suggestion = self.scheduler.suggest() if not observations.started_C.all() else None
            if suggestion is None:
                return None
            trial = packages.load('syne_tune.backend.trial_status').Trial
            self.trial = trial(self.num_trials, suggestion.config, datetime.datetime(2000, 1, 1))
            self.num_trials, self.reached = self.num_trials + 1, -1
            self.scheduler.on_trial_add(self.trial)
        return Suggestion(int(self.trial.config['row']), self.reached + 1)

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        self.reached = suggestion.grid_index
        result = {'loss': loss, 'resource': int(self.resource_T[self.reached])}
        if self.reached == len(self.resource_T) - 1:
            self.scheduler.on_trial_complete(self.trial, result)
            self.trial = None
        elif self.scheduler.on_trial_result(self.trial, result) != 'CONTINUE':
            self.scheduler.on_trial_remove(self.trial)
            self.trial = None
