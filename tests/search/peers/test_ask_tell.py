"""The driver of packages: what is told, what is not paid twice, and what is done when a table is used up."""

import dataclasses

import numpy as np
import pytest

from metaft.search.observations import Suggestion
from metaft.search.peers import ask_tell
from metaft.search.peers.space import Space
from metaft.search.replay import replay
from tests.surrogate import family


@dataclasses.dataclass
class Listed:
    """Asks what it was given."""

    asks: list
    told: list = dataclasses.field(default_factory=list)

    def ask(self, observations):
        return Suggestion(*self.asks.pop(0)) if self.asks else None

    def tell(self, suggestion, loss):
        self.told.append((*suggestion, loss))


def test_what_is_measured_already_is_told_and_not_paid():
    table = family.task(0, num_runs=12)
    package = Listed([(0, 1), (0, 0), (0, 1), (1, 3)])
    trajectory = replay(ask_tell.Driven(package, lambda value: value), table, 40.0)
    value_CT = table.values_CT
    # Point 0 was seen in passing.
    wanted = [(0, 1, value_CT[0, 1]), (0, 0, value_CT[0, 0]), (0, 1, value_CT[0, 1]), (1, 3, value_CT[1, 3])]
    assert package.told == wanted
    assert [event[1:3] for event in trajectory.events[:6]] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    # Then what is begun is finished, the better one first.
    better = int(np.argmin([value_CT[0, 1], value_CT[1, 3]]))
    assert trajectory.events[6].configuration_index == better and trajectory.observations.started_C.sum() == 2


def test_losses_are_in_the_unit_interval():
    unit = ask_tell.unit(family.task(0))
    assert [unit(v) for v in (0.0, 0.75 * family.START, 2 * family.START, np.inf)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize('fractions_T', [np.arange(1, 53) / 52, 2.0 ** (np.arange(-12, 1) / 2), np.array([0.25, 1.0])])
def test_resources_are_whole_and_distinct(fractions_T):
    resource_T = ask_tell.resources(fractions_T)
    assert np.all(np.diff(resource_T) > 0) and resource_T[0] >= 1
    np.testing.assert_allclose(resource_T / resource_T[-1], fractions_T, atol=0.5 / resource_T[-1])
    assert [ask_tell.grid_index(r, resource_T) for r in resource_T] == list(range(len(resource_T)))
    assert ask_tell.smallest_rung(resource_T) >= resource_T[0]


def test_a_proposal_becomes_the_nearest_free_row():
    rows = [{'lr': 1e-4, 'kind': 'a'}, {'lr': 1e-3, 'kind': 'b'}, {'lr': 1e-2, 'kind': 'a'}, {'lr': None, 'kind': 'b'}]
    space = Space.fit([{**row, 'same': 3} for row in rows])
    assert set(space.numbers) == {'lr'} and space.categories == {'kind': ('a', 'b')} and space.numbers['lr'].log
    assert space.value('lr', 0.5) == pytest.approx(1e-3)
    free_C = np.ones(4, bool)
    assert space.nearest({'lr': 0.9, 'kind': 'a'}, free_C) == 2
    free_C[2] = False
    assert space.nearest({'lr': 0.9, 'kind': 'a'}, free_C) == 0
    assert space.nearest({'lr': 0.0, 'kind': 'b'}, free_C) == 1 or space.nearest({'lr': 0.0, 'kind': 'b'}, free_C) == 3
    assert space.nearest({'lr': 0.9, 'kind': 'a'}, np.zeros(4, bool)) == 2  # none is free: any
