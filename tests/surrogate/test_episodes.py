"""States of a search are drawn as it would leave them; tables are padded and filled faithfully."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.surrogate import curves, ensemble, episodes
from metaft.surrogate.memory import Memory
from tests.surrogate import family

NAN = np.nan


@pytest.fixture(scope='module')
def tables():
    tasks = [family.task(index) for index in range(3)]
    short = {
        name: getattr(tasks[2], name)[:10] for name in ('configurations', 'values_CT', 'costs_CT')
    }  # fewer runs than the others: padded
    return [*tasks[:2], dataclasses.replace(tasks[2], **short)]


def test_filling_carries_values_on_and_back():
    values_CT = np.array([[NAN, 1.0, NAN, 2.0], [NAN, NAN, NAN, NAN], [3.0, NAN, NAN, NAN]])
    np.testing.assert_array_equal(curves.forward_fill(values_CT), [[1, 1, 1, 2], [0, 0, 0, 0], [3, 3, 3, 3]])
    np.testing.assert_array_equal(curves.lengths(values_CT), [4, 0, 1])


@pytest.mark.parametrize('num_points', [0, 1, 7, 60, 1000])
def test_a_state_has_about_the_asked_points_and_never_more_than_was_measured(num_points):
    measured_C = jnp.asarray(np.random.default_rng(0).integers(0, 13, 40), jnp.int32)
    draw = jax.jit(
        lambda key: episodes.observed(
            key, jnp.linspace(-1.0, 1.0, 40), measured_C, 12, episodes.EpisodeSettings(), jnp.float32(num_points)
        )
    )
    for seed in range(20):
        is_seen_CT = np.asarray(draw(jax.random.key(seed)))
        length_C = np.where(is_seen_CT.any(axis=1), 12 - np.argmax(is_seen_CT[:, ::-1], axis=1), 0)
        assert (length_C <= measured_C).all()
        assert length_C.sum() <= num_points + (length_C > 0).sum()  # rounding of each run's share
        assert (length_C.sum() == 0) == (num_points == 0)


def test_a_task_without_weight_is_never_drawn_and_only_measured_cells_are_asked(tables):
    encoding = ensemble.fit_encoding(tables)
    collated = episodes.collate(tables, encoding, Memory.fit(tables, encoding))
    assert collated.y_WCT.shape == (3, 24, 6)
    np.testing.assert_array_equal(collated.length_WC[2], [6] * 10 + [0] * 14)
    still = episodes.unperturbed(episodes.EpisodeSettings())
    weight_W = jnp.log(jnp.array([0.0, 0.0, 1.0]))
    draw = jax.jit(lambda key: episodes.draw(key, collated, weight_W, still))
    for seed in range(10):
        episode = draw(jax.random.key(seed))
        assert (np.asarray(episode.measured_C) > 0).sum() == 10
        rows_C = np.asarray(episode.measured_C) > 0
        # Every drawn curve is one of the third task's.
        distance = np.abs(np.asarray(episode.y_CT)[rows_C][:, None] - np.asarray(collated.y_WCT[2])[None]).max(axis=2)
        np.testing.assert_allclose(distance.min(axis=1), 0.0, atol=1e-6)


def test_features_do_not_read_what_was_not_seen():
    rng = np.random.default_rng(0)
    y_CT, rate_CT = rng.normal(size=(2, 5, 6)).astype(np.float32)
    is_seen_CT = rng.random((5, 6)) < 0.5
    is_seen_CT[0] = False
    features = jax.jit(lambda *parts: curves.features(curves.Curves(*parts), family.FRACTIONS_T))
    found = features(y_CT, rate_CT, is_seen_CT)
    unseen = np.float32(99.0)
    assert found.shape == (5, curves.NUM_FEATURES)
    other = features(np.where(is_seen_CT, y_CT, unseen), np.where(is_seen_CT, rate_CT, -unseen), is_seen_CT)
    np.testing.assert_array_equal(found, other)
    np.testing.assert_array_equal(found[0], 0.0)
