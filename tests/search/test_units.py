"""Budgets in another unit: decided is what would be decided were seconds that unit, and nothing is overspent."""

import numpy as np
import pytest

from metaft.search.baselines import InOrder
from metaft.search.freeze_thaw import FreezeThaw
from metaft.search.stopping import stopped_by
from metaft.search.units import InUnit
from tests.search.beliefs import GaussianBelief, curves, empty, seconds

SECONDS_CT = seconds([16.0, 4.0, 30.0, 9.0])
FLOPS_CT = seconds([2e12, 8e12, 4e12, 1e12])  # nothing to do with the seconds
MEAN_CT = curves([1.2, 1.0, 1.1, 1.4])


@pytest.mark.parametrize('width', [1, 3])
def test_it_decides_as_if_the_unit_were_the_seconds(width):
    """The belief about values does not depend on costs here, so that the two searches can be compared."""
    in_flops = InUnit(FreezeThaw(GaussianBelief(MEAN_CT, SECONDS_CT, sd=0.3)), FLOPS_CT)
    plain = FreezeThaw(GaussianBelief(MEAN_CT, FLOPS_CT, sd=0.3))
    start_up = {'overhead_seconds_C': np.full(4, 3.0), 'measurement_seconds': 1.0}  # of seconds, so not of FLOPs
    observed, priced, remaining = empty(4, **start_up), empty(4), 2e13
    for _ in range(6):
        suggestions = in_flops.suggest(observed, remaining, width)
        assert suggestions == plain.suggest(priced, remaining, width) and suggestions
        for c, t in suggestions:
            value = float(MEAN_CT[c, t])
            remaining -= FLOPS_CT[c, t] - priced.spent_seconds_C[c]
            observed = observed.observe(c, t, value, SECONDS_CT[c, t])
            priced = priced.observe(c, t, value, FLOPS_CT[c, t])
    assert remaining >= 0


def test_the_surrogate_is_asked_with_seconds():
    asked = []
    belief = GaussianBelief(MEAN_CT, SECONDS_CT, sd=0.3)
    searcher = InUnit(FreezeThaw(lambda seen: asked.append(seen) or belief(seen)), FLOPS_CT)
    searcher.suggest(empty(4).observe(2, 1, 2.0, 3.75), 1e13, width=2)
    assert len(asked) == 2 and all(seen.costs_CT[2, 1] == 3.75 for seen in asked)
    believed = np.isfinite(asked[1].values_CT) & np.isnan(asked[0].values_CT)
    assert believed.any() and np.isnan(asked[1].costs_CT[believed]).all()


def test_a_searcher_that_reckons_from_its_own_past_is_held_to_the_budget():
    """Steps are rounded to updates, so a run's next step is not always in proportion to what it has cost."""
    uneven_CT = np.array([[1.0, 2.0, 4.0, 9.0, 16.0]] * 2)
    searcher = InUnit(InOrder((0, 1)), uneven_CT)
    standing = empty(2).observe(0, 2, 2.0, cost_seconds=0.3)
    assert searcher.suggest(standing, 4.5) == [] and searcher.suggest(standing, 5.0) == [(0, 3)]
    assert searcher.suggest(standing, 5.5, width=2) == [(0, 3)] and len(searcher.suggest(standing, 6.0, width=2)) == 2
    assert stopped_by(searcher, standing, 4.5) == 'budget'
    done = empty(2).observe(0, 4, 2.0, 1.0).observe(1, 4, 2.0, 1.0)
    assert stopped_by(searcher, done, 4.5) == 'exhausted'
    sure = InUnit(FreezeThaw(GaussianBelief(MEAN_CT, SECONDS_CT)), FLOPS_CT)
    assert stopped_by(sure, empty(4), 1e3) == 'budget'
