"""What the comparison makes of a table: one run a configuration, complete; clocks; the default."""

import dataclasses

import numpy as np
import pytest

from metaft.errors import DataError
from metaft.finetune.search_space import default_configuration
from metaft.metadataset.published import benchmarks
from tests.surrogate import family


def made(num_runs=12):
    table = family.task(0, num_runs)
    return dataclasses.replace(table, values_CT=table.values_CT.copy(), costs_CT=table.costs_CT.copy())


def test_the_first_complete_run_of_a_configuration_is_kept():
    table = made()
    table.configurations[3] = dict(table.configurations[0])
    table.configurations[4] = {**table.configurations[1], 'other': None}  # the same as without it
    table.values_CT[1, 2] = np.nan  # a hole: its repeat is taken
    table.values_CT[5, 3:] = np.inf  # diverged: complete until then
    table.costs_CT[5, 4:] = np.nan
    table.values_CT[6, 3:], table.costs_CT[6, 3:] = np.inf, np.nan  # but what did it cost?
    table.values_CT[7, -1] = np.nan
    kept = benchmarks.distinct(table)
    wanted = [0, 2, 4, 5, 8, 9, 10, 11]
    np.testing.assert_array_equal(kept.values_CT, table.values_CT[sorted(wanted)])
    assert benchmarks.is_searchable(benchmarks.distinct(made())) and not benchmarks.is_searchable(kept)  # eight are few


def test_costs_and_the_default():
    table = made()
    assert benchmarks.default_row(table) is None
    assert benchmarks.full_run_cost(table) == np.median(table.costs_CT[:, -1])
    table.configurations[2] = default_configuration().identity()
    table.costs_CT[2, -1] = 77.0
    assert benchmarks.default_row(table) == 2 and benchmarks.full_run_cost(table) == 77.0
    epochs = benchmarks.in_steps(table, 52)
    np.testing.assert_allclose(epochs.costs_CT, np.tile(52 * table.fractions_T, (12, 1)))
    assert benchmarks.full_run_cost(epochs) == 52.0


def test_every_kind_ends_at_a_full_run_and_an_unknown_one_is_named(tmp_path):
    for benchmark in benchmarks.BENCHMARKS.values():
        assert benchmark.fractions_T[-1] == 1.0 and np.all(np.diff(benchmark.fractions_T) > 0)
    with pytest.raises(DataError, match="'lcbnch' is unknown; allowed are metadataset, lcbench"):
        benchmarks.tables('lcbnch', tmp_path)
    with pytest.raises(DataError, match=r'measurements\.parquet'):
        benchmarks.tables('metadataset', tmp_path)
