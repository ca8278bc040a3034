"""The state of a search: it is never changed, its incumbent only gets better, a diverged run is never the incumbent."""

import numpy as np
import pytest

from metaft.errors import InputError
from metaft.search.observations import Incumbent, Observations
from tests.search.beliefs import FRACTIONS_T, empty


def test_the_incumbent_only_gets_better_and_is_what_was_measured():
    rng = np.random.default_rng(0)
    observations, seen, best = empty(6), [], np.inf
    for _ in range(60):
        c, t = int(rng.integers(6)), int(rng.integers(5))
        if not np.isnan(observations.values_CT[c, t]):
            continue
        value = float(rng.choice([rng.normal(), np.inf, np.nan], p=[0.8, 0.1, 0.1]))
        observations = observations.observe(c, t, value, cost_seconds=1.0)
        if np.isfinite(value):
            seen.append(value)
        if incumbent := observations.incumbent():
            assert incumbent.value <= best
            assert incumbent.value == observations.values_CT[incumbent.configuration_index, incumbent.grid_index]
            assert incumbent.value in seen
            best = incumbent.value
    assert np.isfinite(best)


def test_observing_returns_a_new_state_and_leaves_the_old_one():
    before = empty(2)
    after = before.observe(1, 3, 0.5, cost_seconds=2.0)
    assert before.incumbent() is None and np.isnan(before.values_CT).all()
    assert after.incumbent() == Incumbent(1, 3, 0.5)
    with pytest.raises(ValueError, match='read-only'):
        after.values_CT[0, 0] = 1.0


def test_how_far_each_run_is_and_what_it_cost():
    observations = empty(3).observe(0, 1, 2.0, 1.5).observe(0, 3, 1.0, 6.0).observe(1, 2, np.nan, 3.0)
    assert observations.last_grid_index_C.tolist() == [3, 4, -1]
    assert observations.spent_seconds_C.tolist() == [6.0, 3.0, 0.0]
    assert observations.diverged_C.tolist() == [False, True, False]
    assert observations.num_measurements == 3
    assert np.isposinf(observations.values_CT[1, 2:]).all() and np.isnan(observations.values_CT[1, :2]).all()


def test_the_model_before_finetuning_counts_until_a_run_is_better():
    observations = empty(2)
    assert observations.best_value == 3.0
    assert observations.observe(0, 0, 3.5, 1.0).best_value == 3.0
    assert observations.observe(0, 0, 2.5, 1.0).best_value == 2.5


@pytest.mark.parametrize(
    'measurement, message',
    [
        ((2, 0, 1.0, 1.0), 'configuration 2'),
        ((0, 5, 1.0, 1.0), 'grid point 5'),
        ((0, 0, 1.0, np.nan), 'cost_seconds'),
        ((0, 0, 1.0, -1.0), 'cost_seconds'),
    ],
)
def test_what_cannot_have_been_measured_is_refused(measurement, message):
    with pytest.raises(InputError, match=message):
        empty(2).observe(*measurement)


def test_a_diverged_run_stays_diverged():
    observations = empty(2).observe(0, 1, 2.0, 2.0).observe(0, 2, np.nan, 4.0)
    assert observations.incumbent() == Incumbent(0, 1, 2.0)  # the checkpoint from before
    with pytest.raises(InputError, match='configuration 0 diverged'):
        observations.observe(0, 3, 1.0, 8.0)


def test_shapes_grid_and_reference_are_checked():
    nothing = np.full((2, 5), np.nan)
    with pytest.raises(InputError, match=r'values_CT has shape \(2, 4\), wanted \(2, 5\)'):
        Observations(FRACTIONS_T, nothing[:, :4], nothing, 1.0, np.zeros(2))
    with pytest.raises(InputError, match='ascend'):
        Observations.empty(2, FRACTIONS_T[::-1], 1.0)
    with pytest.raises(InputError, match='reference_value'):
        Observations.empty(2, FRACTIONS_T, np.nan)
    with pytest.raises(InputError, match='at least 0'):
        Observations.empty(2, FRACTIONS_T, 1.0, measurement_seconds=-1.0)
