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
