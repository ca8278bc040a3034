"""SMAC3's multi-fidelity facade: random forest with Hyperband, eta 3, its defaults otherwise."""

import dataclasses
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.peers import ask_tell, configspace_points, packages
from metaft.search.peers.space import Space

_MANY = 100_000  # trials: the replay's budget ends it


def searcher(table: TaskTable, seed: int) -> Searcher:
    """Returns SMAC over the rows of a table."""
    smac = packages.load('smac')
    packages.quiet('smac')
    directory = tempfile.TemporaryDirectory(prefix='metaft-smac-')
    resource_T = ask_tell.resources(table.fractions_T)
    space = Space.fit(table.configurations)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        scenario = smac.Scenario(
            configspace_points.box(space, seed),
            deterministic=True,
            n_trials=_MANY,
            min_budget=ask_tell.smallest_rung(resource_T),
            max_budget=float(resource_T[-1]),
            seed=seed,
            output_directory=Path(directory.name),
        )
        facade = smac.MultiFidelityFacade(
            scenario,
            _never,
            # Of its many trials a quarter may be the initial design: ten a hyperparameter, as a short budget has it.
            initial_design=smac.MultiFidelityFacade.get_initial_design(scenario, n_configs=_initial(space)),
            intensifier=smac.MultiFidelityFacade.get_intensifier(scenario, eta=3),
            logging_level=False,
            overwrite=True,
        )
    made = _Smac(smac, facade, configspace_points.Rows(space), resource_T, directory)
    return ask_tell.Driven(made, ask_tell.unit(table))


def _initial(space: Space) -> int:
    return max(5, min(2 * (len(space.numbers) + len(space.categories)), len(space.points_CE) // 4))


def _never(config: Any, seed: int = 0, budget: float = 0.0) -> float:
    raise AssertionError('SMAC is asked and told')


@dataclasses.dataclass
class _Smac:
    smac: Any
    facade: Any
    rows: configspace_points.Rows
    resource_T: np.ndarray
    directory: tempfile.TemporaryDirectory  # goes with the searcher
    info: Any = None

    def ask(self, observations: Observations) -> Suggestion | None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                self.info = self.facade.ask()
            except StopIteration:
                return None
        row = self.rows.of(dict(self.info.config), observations)
        return Suggestion(row, ask_tell.grid_index(self.info.budget, self.resource_T))

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        runhistory = packages.load('smac.runhistory')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.facade.tell(self.info, runhistory.TrialValue(cost=loss, time=0.0), save=False)
