"""DEHB: differential evolution with Hyperband, eta 3, its defaults. arXiv 2105.09821."""

import dataclasses
import tempfile
import warnings
from typing import Any

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.peers import ask_tell, configspace_points, packages
from metaft.search.peers.space import Space


def searcher(table: TaskTable, seed: int) -> Searcher:
    """Returns DEHB over the rows of a table."""
    dehb = packages.load('dehb')
    directory = tempfile.TemporaryDirectory(prefix='metaft-dehb-')
    resource_T = ask_tell.resources(table.fractions_T)
    space = Space.fit(table.configurations)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        optimizer = dehb.DEHB(
            cs=configspace_points.box(space, seed),
            min_fidelity=ask_tell.smallest_rung(resource_T),
            max_fidelity=float(resource_T[-1]),
            eta=3,
            n_workers=1,
            seed=seed,
            output_path=directory.name,
            save_freq='end',
            log_level='ERROR',
        )
    return ask_tell.Driven(
        _Dehb(optimizer, configspace_points.Rows(space), resource_T, directory), ask_tell.unit(table)
    )


@dataclasses.dataclass
class _Dehb:
    optimizer: Any
    rows: configspace_points.Rows
    resource_T: np.ndarray
    directory: tempfile.TemporaryDirectory  # goes with the searcher
    job: dict[str, Any] = dataclasses.field(default_factory=dict)

    def ask(self, observations: Observations) -> Suggestion | None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.job = self.optimizer.ask()
        row = self.rows.of(dict(self.job['config']), observations)
        return Suggestion(row, ask_tell.grid_index(self.job['fidelity'], self.resource_T))

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        self.optimizer.tell(self.job, {'fitness': loss, 'cost': float(self.resource_T[suggestion.grid_index])})
