"""Peers written from their papers, against what the papers say of them."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from metaft.search import scores
from metaft.search.peers import deep_kernel, dre, quicktune
from metaft.search.peers.dpl import DPL
from metaft.search.peers.improvement import ByImprovement
from metaft.search.replay import replay
from metaft.surrogate.ensemble import fit_encoding
from tests.surrogate import family


@pytest.fixture(scope='module')
def tables():
    return [family.task(w, num_runs=24) for w in range(8)]


def test_the_deep_kernel_is_an_exact_gaussian_process_on_its_features():
    rng = np.random.default_rng(0)
    x_CE, score_CT = rng.normal(size=(6, 3)).astype(np.float32), rng.random((6, 4))
    points = deep_kernel.points_of(x_CE, score_CT)
    assert len(points.score_N) == 24 and np.all(points.curve_NT[0] == 0.0)
    np.testing.assert_allclose(points.curve_NT[3], [*score_CT[0, :3], 0.0], rtol=1e-6)  # the fourth point's past
    sizes = deep_kernel.Sizes(3, 4, convolution=False)
    model = deep_kernel.DeepKernel.initialise(sizes, 0)
    mean_C, sd_C = model.predict(deep_kernel.padded(points), x_CE, score_CT)

    network = deep_kernel.nnx.merge(deep_kernel._graph(sizes), model.params)
    known = np.asarray(network(points.x_NE, points.curve_NT), float)
    asked = np.asarray(network(x_CE, score_CT.astype(np.float32)), float)
    square = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(axis=2)
    noise = float(network.noise)
    gram = np.exp(-0.5 * square(known, known)) + (noise + deep_kernel._JITTER) * np.eye(24)
    gain = np.linalg.solve(gram, np.exp(-0.5 * square(known, asked))).T
    np.testing.assert_allclose(mean_C, gain @ points.score_N, atol=2e-3)
    variance = 1.0 + noise - np.sum(gain * np.exp(-0.5 * square(asked, known)), axis=1)
    np.testing.assert_allclose(sd_C**2, variance, atol=2e-3)

    # Training lowers the loss it is trained by.
    likelihood = lambda m: _log_likelihood(deep_kernel.nnx.merge(deep_kernel._graph(sizes), m.params), points)
    assert likelihood(model.fit(points, steps=60, batch=32, seed=0)) > likelihood(model) + 1.0


def _log_likelihood(network, points):
    feature_ND = network(points.x_NE, points.curve_NT)
    gram = np.asarray(network.kernel(feature_ND, feature_ND), float)
    gram = gram + (float(network.noise) + deep_kernel._JITTER) * np.eye(len(gram))
    return multivariate_normal.logpdf(points.score_N, mean=np.full(len(gram), float(network.mean[...])), cov=gram)


def test_quick_tune_tells_all_levels_of_a_category_apart():
    """What its shipped encoder cannot (peers.md): levels 2 to 10 of a category get identical predictions there."""
    tables = []
    for w in range(4):
        table = family.task(w, num_runs=20)
        for c, configuration in enumerate(table.configurations):
            configuration['kind'] = f'level{c % 10}'
        tables.append(table)
    learned = quicktune.learn(tables, fit_encoding(tables), seed=0, steps=20)
    asked = tables[0]
    one = dict(asked.configurations[0])
    asked = type(asked)(**{
        **vars(asked), 'configurations': [{**one, 'kind': f'level{k}'} for k in range(10)],
        'values_CT': asked.values_CT[:10], 'costs_CT': asked.costs_CT[:10],
    })  # fmt: skip
    searcher = quicktune.QuickTune(learned, asked, tuple(range(10)), refit=False, seed=0)
    mean_C, _ = searcher._predict(np.full((10, len(family.FRACTIONS_T)), np.nan))
    assert len(np.unique(mean_C.round(5))) == 10


@pytest.mark.slow
def test_quick_tune_predicts_the_next_point_of_a_new_task(tables):
    learned = quicktune.learn(tables, fit_encoding(tables), seed=0)
    target = family.task(20, num_runs=24)
    score_CT = quicktune.scores(target, target.values_CT)
    seen_CT = np.where(np.arange(6)[None, :] < 4, score_CT, np.nan)
    searcher = quicktune.QuickTune(learned, target, tuple(range(24)), refit=False, seed=0)
    mean_C, _ = searcher._predict(seen_CT)
    error_C = np.abs(mean_C - score_CT[:, 4])
    assert np.mean(error_C) < 0.6 * np.mean(np.abs(score_CT[:, 3] - score_CT[:, 4])), 'better than the last value'
    cost_C = learned.costs(learned.encoding.configurations(target.configurations))
    is_full_C = np.array([c['method'] == 'full' for c in target.configurations])
    assert cost_C[is_full_C].mean() > 1.5 * cost_C[~is_full_C].mean()  # it costs twice as much


def test_dpl_fits_power_laws_and_is_overconfident():
    """FT-PFN's table 1: small errors, log likelihoods around -11 to -20: its ensemble is far too sure."""
    target = family.task(3, num_runs=24)
    observed_CT = np.where(np.arange(6)[None, :] < 4, target.values_CT, np.nan)
    prediction = DPL(fit_encoding([target]), target, 0).predict(observed_CT, np.full((24, 6), np.nan))
    found = scores.score(prediction, target, observed_CT)
    assert found['mse'] < 0.01 and found['spearman'] > 0.8
    assert found['coverage_80'] < 0.75 and found['log_likelihood'] < 2.0
    falling = np.diff(np.where(np.isnan(observed_CT), prediction.mean_CT, np.nan)[:, 4:], axis=1)
    assert np.all(falling <= 1e-6), 'a power law with a positive factor only falls'


def test_the_list_loss_is_plackett_luce_with_position_weights():
    y_C, score_C = np.array([0.3, 0.1, 0.2], np.float32), np.array([0.5, 1.0, -0.3], np.float32)
    ordered = score_C[[1, 2, 0]]
    log_p = [ordered[i] - np.log(np.sum(np.exp(ordered[i:]))) for i in range(3)]
    weight = 1.0 / np.log(np.arange(3) + 2.0)
    wanted = -np.sum(weight * log_p) / weight.sum()
    found = jax.jit(dre.list_loss)(score_C, y_C, np.ones(3, np.float32))
    np.testing.assert_allclose(float(found), wanted, rtol=1e-5)
    padded = [
        np.append(array, np.float32(more))
        for array, more in ((score_C, 9.0), (y_C, 0.0), (np.ones(3, np.float32), 0.0))
    ]
    np.testing.assert_allclose(float(jax.jit(dre.list_loss)(*padded)), wanted, rtol=1e-5)


@pytest.mark.slow
def test_deep_ranking_ensembles_order_a_new_task_by_a_few_runs(tables):
    target = family.task(30, num_runs=24)
    searcher = dre.DRE(dre.learn(tables, fit_encoding(tables), 0), target, 0)
    best = replay(searcher, target, 6 * family.SECONDS).observations.incumbent().value
    assert best <= np.quantile(target.values_CT[:, -1], 0.15)


def test_the_search_by_improvement_takes_the_most_promising_run():
    target = family.task(0, num_runs=8)
    best = int(np.argmin(target.values_CT[:, -1]))

    class Known:
        def expected_improvement_CT(self, best_value):
            return np.maximum(best_value - target.values_CT, 0.0)

    trajectory = replay(ByImprovement(lambda observations: Known(), (3, *range(8)), 1), target, 1e6)
    steps = [event[1:3] for event in trajectory.events]
    assert steps[0] == (3, 0) and steps[1 : 1 + 6] == [(best, t) for t in range(6)]
