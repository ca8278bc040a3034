"""What SMAC and DEHB share: a box of ConfigSpace, and a row for each of its points."""

import dataclasses
from typing import Any

import ConfigSpace
import numpy as np

from metaft.search.observations import Observations
from metaft.search.peers.space import Space


def box(space: Space, seed: int) -> ConfigSpace.ConfigurationSpace:
    """Returns the space with numbers as shares of their range (logarithmic ones of its logarithm)."""
    found = ConfigSpace.ConfigurationSpace(seed=seed)
    found.add([ConfigSpace.Float(name, (0.0, 1.0)) for name in space.numbers])
    found.add([ConfigSpace.Categorical(name, list(levels)) for name, levels in space.categories.items()])
    return found


@dataclasses.dataclass
class Rows:
    """Gives every point that a package proposes a row of its own, the same at every fidelity."""

    space: Space
    rows: dict[tuple, int] = dataclasses.field(default_factory=dict)

    def of(self, point: dict[str, Any], observations: Observations) -> int:
        """Returns the row of a point: the nearest one that no other point has and that was not begun."""
        key = tuple(sorted(point.items()))
        if key not in self.rows:
            free_C = ~observations.started_C
            free_C[list(self.rows.values())] = False
            self.rows[key] = self.space.nearest({name: _plain(value) for name, value in key}, free_C)
        return self.rows[key]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, np.str_ | str) else float(value)
