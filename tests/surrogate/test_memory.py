"""What is remembered of configurations: exact where they were run, nothing far away, never of the task itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.surrogate import curves, ensemble, memory, process, transforms
from tests.surrogate import family


@pytest.fixture(scope='module')
def tables():
    return [dataclasses.replace(family.task(index), dataset=f'data{index}') for index in range(4)]


@pytest.fixture(scope='module')
def remembered(tables):
    encoding = ensemble.fit_encoding(tables)
    return encoding, memory.Memory.fit(tables, encoding)


def test_one_run_far_from_all_others_is_recalled_as_it_was(tables, remembered):
    encoding, found = remembered
    config_CE = encoding.configurations(tables[0].configurations)
    alone = dataclasses.replace(
        found, config_NE=100.0 * np.arange(len(found.config_NE), dtype=np.float32)[:, None] + 0 * found.config_NE
    )
    recall = alone.recall(alone.config_NE[:3], 'loss')
    own = alone.table_N[:3]
    assert (own == own[0]).all()
    np.testing.assert_allclose(recall.curve_CVU[:, own[0]], alone.curve_NU[:3], rtol=1e-4, atol=1e-6)
    # One run like it: a vote of nearly 1; of no other task any.
    mass = memory._SAME + 1.0
    wanted_CV = np.zeros_like(recall.near_CV)
    wanted_CV[:, own[0]] = mass / (mass + memory._NEAR)
    np.testing.assert_allclose(recall.near_CV, wanted_CV, rtol=1e-4)
    far = alone.recall(config_CE + 1e4, 'loss')
    np.testing.assert_array_equal(far.near_CV, 0.0)
    np.testing.assert_array_equal(process.prior_mean(far), 0.0)


def test_the_very_same_configuration_outweighs_its_neighbours(tables, remembered):
    encoding, found = remembered
    config_CE = encoding.configurations(tables[1].configurations)
    mine_N = found.table_N == 1
    recall = found.recall(config_CE, 'loss')
    error_CU = np.abs(recall.curve_CVU[:, 1] - found.curve_NU[mine_N])
    between_CU = np.abs(found.recall(config_CE + 0.02, 'loss').curve_CVU[:, 1] - found.curve_NU[mine_N])
    assert np.median(error_CU) < 0.3 * np.median(between_CU)  # beside it, neighbours are asked, and smear


def test_a_dataset_is_left_out_and_other_metrics_say_nothing(tables, remembered):
    encoding, found = remembered
    config_CE = encoding.configurations(tables[0].configurations)
    fewer = memory.Memory.fit(tables[1:], encoding).recall(config_CE, 'loss')
    without = found.recall(config_CE, 'loss', without='data0')
    np.testing.assert_array_equal(without.near_CV[:, 0], 0.0)
    np.testing.assert_allclose(without.near_CV[:, 1:], fewer.near_CV, rtol=1e-5)
    np.testing.assert_allclose(without.curve_CVU[:, 1:], fewer.curve_CVU, rtol=1e-5, atol=1e-6)
    assert (found.recall(config_CE, 'loss').near_CV[:, 0] > 0.8).all()
    np.testing.assert_array_equal(found.recall(config_CE, 'exact_match').near_CV, 0.0)


def test_it_ranks_configurations_of_a_new_task(tables, remembered):
    encoding, found = remembered
    y_C = transforms.transform(tables[0].values_CT, 'loss', tables[0].reference_value)[:, -1]
    recall = found.recall(encoding.configurations(tables[0].configurations), 'loss', without='data0')
    known_C = np.asarray(process.prior_mean(recall))[:, -1]
    has_y_C = np.isfinite(y_C)
    correlation = np.corrcoef(known_C[has_y_C], y_C[has_y_C])[0, 1]
    assert correlation > 0.3  # the family's tasks share most of their surface


def test_a_resampled_curve_reads_as_it_was():
    fractions_T = 2.0 ** np.arange(-6.0, 0.5, 0.5)
    values_CT = np.random.default_rng(0).normal(size=(3, 13)).astype(np.float32)
    resampled_CU = curves.resample(values_CT, fractions_T).astype(np.float32)
    log_CT = jnp.broadcast_to(jnp.log2(jnp.asarray(fractions_T, jnp.float32)), (3, 13))
    np.testing.assert_allclose(jax.jit(curves.read)(resampled_CU, log_CT), values_CT, atol=1e-5)
    half_CT = jnp.full((3, 1), -0.25)  # between the last two points
    middle_CT = jax.jit(curves.read)(resampled_CU, half_CT)
    np.testing.assert_allclose(middle_CT[:, 0], values_CT[:, -2:].mean(axis=1), atol=1e-5)
    beyond_CT = jax.jit(curves.read)(resampled_CU, jnp.full((3, 1), 3.0))
    np.testing.assert_allclose(beyond_CT[:, 0], values_CT[:, -1], atol=1e-6)


def test_meta_features_tell_which_tasks_are_alike_and_noise_does_not():
    rng = np.random.default_rng(0)
    tables = [family.told(index, noise=rng.normal(), constant=1.0) for index in range(12)]
    encoding = ensemble.fit_encoding(tables)
    found = memory.Memory.fit(tables[1:], encoding)
    best_V = np.array([t.meta_features['best'] for t in tables])
    z = lambda **features: encoding.task({**tables[0].meta_features, **features}, 'loss')
    everything = range(len(tables) - 1)

    apart_V = found.expected_apart(z(), 'loss', everything)
    nearest = np.argsort(np.abs(best_V[1:] - best_V[0]))
    assert apart_V.min() >= 0
    np.testing.assert_array_equal(np.argsort(apart_V)[:3], nearest[:3])
    moved_V = found.expected_apart(z(noise=tables[0].meta_features['noise'] + 1.0), 'loss', everything)
    farther_V = found.expected_apart(z(best=best_V[0] + 1.0), 'loss', everything)
    assert np.abs(moved_V - apart_V).max() < 0.2 * np.abs(farther_V - apart_V).max()
    # In the unit of values: what a shift of the best rate does to runs, less that of their level.
    y_VC = [transforms.transform(t.values_CT, 'loss', t.reference_value)[:, -1] for t in tables]
    common = len(tables[0].configurations) // 2  # the same configurations on every task
    truth_V = np.array(
        [np.mean((d - np.median(d)) ** 2) for d in (y_C[:common] - y_VC[0][:common] for y_C in y_VC[1:])]
    )
    assert np.corrcoef(apart_V, truth_V)[0, 1] > 0.8 and 0.3 < apart_V.mean() / truth_V.mean() < 3.0


def test_without_meta_features_or_pairs_of_datasets_nothing_is_told(tables, remembered):
    encoding, found = remembered
    bare = [dataclasses.replace(table, meta_features={}) for table in tables]
    silent = ensemble.fit_encoding(bare)
    task_Z = silent.task({}, 'loss')
    np.testing.assert_array_equal(memory.Memory.fit(bare, silent).expected_apart(task_Z, 'loss', range(4)), 0.0)
    task_Z = encoding.task(tables[0].meta_features, 'loss')
    one = memory.Memory.fit([tables[1]], encoding)
    np.testing.assert_array_equal(one.expected_apart(task_Z, 'loss', [0]), 0.0)
    np.testing.assert_array_equal(found.expected_apart(task_Z, 'loss', [2]), 0.0)  # one table has no pair
    same = [dataclasses.replace(table, dataset='data') for table in tables]
    np.testing.assert_array_equal(memory.Memory.fit(same, encoding).expected_apart(task_Z, 'loss', range(4)), 0.0)


def test_tables_that_are_not_among_those_asked_about_are_not_learned_from():
    tables = [family.told(index) for index in range(8)]
    encoding = ensemble.fit_encoding(tables)
    task_Z = encoding.task(tables[0].meta_features, 'loss')
    fewer = memory.Memory.fit(tables[2:], encoding)
    everything = memory.Memory.fit(tables, encoding)
    np.testing.assert_allclose(
        everything.expected_apart(task_Z, 'loss', range(2, 8)), fewer.expected_apart(task_Z, 'loss', range(6)), rtol=0.3
    )
