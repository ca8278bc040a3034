"""The regression is the textbook's, its slopes are the fit's, and what it is for comes true: levels and curves tell."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from metaft.errors import ModelError
from metaft.metadataset import splits
from metaft.surrogate import curves, ensemble, evaluation, likelihood, process, regression, regression_fit, transforms
from metaft.surrogate.memory import Memory, Recall
from metaft.surrogate.regression import Hyperparameters
from tests.surrogate import family, networks
from tests.surrogate.networks import FRACTIONS_T, PLAIN_E, C, T

H = Hyperparameters.initial(PLAIN_E)._replace(run=np.float32(-2.0), part=np.float32(-1.5), noise=np.float32(-2.5))


@pytest.fixture(scope='module')
def runs():
    drawn, rng = networks.draw_runs()[0], np.random.default_rng(1)
    level_V = rng.normal(size=networks.V).astype(np.float32)
    fine_CVF = rng.normal(size=(C, networks.V, len(curves.FINE_LOG_BUDGETS))).astype(np.float32)
    return drawn._replace(recall=drawn.recall._replace(level_V=level_V, fine_CVF=fine_CVF))


@pytest.fixture
def y_CT():
    _, shown = networks.draw_runs()
    return np.where(shown.is_seen_CT, shown.y_CT, np.nan)


def _dense(h, runs, y_CT, fractions_T):
    """Mean and standard deviation of all [C, T] cells from their full covariance with the observations, in double."""
    k = jax.tree.map(lambda x: np.exp(np.asarray(x, np.float64)), h)
    _, near_CV, level_V, fine_CVF = (np.asarray(x, np.float64) for x in runs.recall)
    mean_CF = np.einsum('CV,CVF->CF', near_CV, fine_CVF) / (near_CV.sum(axis=1, keepdims=True) + 0.5)
    level, log_T = level_V.mean(), np.log2(fractions_T)

    def at(c, t):  # each part of the model at one place
        read = lambda values_F: np.interp(log_T[t], curves.FINE_LOG_BUDGETS, values_F)
        away_V = [near_CV[c, v] * (read(fine_CVF[c, v]) - read(mean_CF[c])) for v in range(near_CV.shape[1])]
        away_V = np.array(away_V) + k.level * (level_V - level)
        return c, log_T[t], read(mean_CF[c]), away_V, np.asarray(runs.config_CE[c], np.float64)

    def covariance(a, b):
        similar = np.exp(-0.5 * np.sum(((a[4] - b[4]) / k.length_E) ** 2)) * np.exp(-abs(a[1] - b[1]) / k.own_octaves)
        own = k.run**2 + k.part**2 * np.exp(-abs(a[1] - b[1]) / k.part_octaves) if a[0] == b[0] else 0.0
        tasks = k.tasks**2 / len(a[3]) * a[3] @ b[3]
        return k.shift**2 + k.gain**2 * a[2] * b[2] + tasks + k.own**2 * similar + own

    seen = [at(c, t) for c, t in np.argwhere(np.isfinite(y_CT))]
    error_N = y_CT[np.isfinite(y_CT)] - level - np.array([a[2] for a in seen])
    matrix_NN = np.array([[covariance(a, b) for b in seen] for a in seen]).reshape(len(seen), len(seen))
    inverse_NN = np.linalg.inv(matrix_NN + (k.noise**2 + regression._JITTERS[0]) * np.eye(len(seen)))
    scale = k.scale**2 * (k.freedom + error_N @ inverse_NN @ error_N) / (k.freedom + len(seen))
    scale *= np.exp(2.0 * float(h.growth) * np.log1p(len(seen)) / 4.0)
    mean_CT, sd_CT = np.empty((2, *y_CT.shape))
    for c, t in np.ndindex(y_CT.shape):
        here = at(c, t)
        cross_N = np.array([covariance(here, b) for b in seen]).reshape(len(seen))
        mean_CT[c, t] = level + here[2] + cross_N @ inverse_NN @ error_N
        sd_CT[c, t] = np.sqrt(scale * (covariance(here, here) + k.noise**2 - cross_N @ inverse_NN @ cross_N))
    return mean_CT, sd_CT


@pytest.mark.parametrize('is_empty', [False, True])
def test_it_is_what_a_dense_solve_in_double_precision_gives(runs, y_CT, is_empty):
    y_CT = np.full_like(y_CT, np.nan) if is_empty else y_CT
    found = regression.posterior(H, runs, y_CT, FRACTIONS_T)
    wanted_mean_CT, wanted_sd_CT = _dense(H, runs, y_CT, FRACTIONS_T)
    np.testing.assert_allclose(found.mean_CT, wanted_mean_CT, atol=2e-3)
    np.testing.assert_allclose(found.sd_CT, wanted_sd_CT, rtol=5e-3)


def _rows(runs, chosen):
    near_CV, fine_CVF = runs.recall.near_CV[chosen], runs.recall.fine_CVF[chosen]
    recall = runs.recall._replace(curve_CVU=runs.recall.curve_CVU[chosen], near_CV=near_CV, fine_CVF=fine_CVF)
    return process.Runs(runs.config_CE[chosen], recall)


def test_order_does_not_matter_and_blocks_are_one(runs, y_CT, monkeypatch):
    found = regression.posterior(H, runs, y_CT, FRACTIONS_T)
    order = np.random.default_rng(0).permutation(C)
    shuffled = regression.posterior(H, _rows(runs, order), y_CT[order], FRACTIONS_T)
    monkeypatch.setattr(regression, '_QUERY_SIZES', (5,))
    in_blocks = regression.posterior(H, runs, y_CT, FRACTIONS_T)
    for part, other, blocks in zip(found, shuffled, in_blocks, strict=True):
        np.testing.assert_allclose(other, part[order], atol=1e-3)
        np.testing.assert_allclose(blocks, part, atol=1e-3)


def test_a_covariance_that_rounding_made_negative_is_factored_and_a_broken_one_named():
    matrix_NN = np.ones((40, 40)) - 5e-5 * np.eye(40)
    factor_NN = regression.factor(matrix_NN)
    np.testing.assert_allclose(factor_NN @ factor_NN.T, matrix_NN, atol=2e-4)
    with pytest.raises(ModelError, match='covariance of 3 points'):
        regression.factor(-np.eye(3))


def test_a_grid_finer_than_memory_is_asked_at_the_budgets_of_memory(runs):
    coarse_T, fine_T = (2.0 ** np.linspace(-6.0, 0.0, num) for num in (25, 97))
    y_CT = np.full((C, 25), np.nan)
    y_CT[2, 4], y_CT[5, [0, 8]] = 0.5, [-1.0, 0.3]
    finer_CT = np.full((C, 97), np.nan)
    finer_CT[:, ::4] = y_CT
    found, finer = regression.posterior(H, runs, y_CT, coarse_T), regression.posterior(H, runs, finer_CT, fine_T)
    for part, other in zip(found, finer, strict=True):
        np.testing.assert_allclose(other[:, ::4], part, atol=1e-3)
        assert (np.abs(np.diff(other, axis=1)).max(axis=1) <= np.abs(np.diff(part, axis=1)).max(axis=1) + 1e-3).all()


def test_a_table_that_is_left_out_says_nothing(runs, y_CT):
    recall, some = runs.recall, [0, 2]
    near_CV, fine_CVF, level_V = recall.near_CV.copy(), recall.fine_CVF.copy(), recall.level_V.copy()
    near_CV[:, 1], fine_CVF[:, 1], level_V[1] = 0.0, 9.0, 9.0
    wild = recall._replace(near_CV=near_CV, fine_CVF=fine_CVF, level_V=level_V)
    fewer = Recall(recall.curve_CVU[:, some], recall.near_CV[:, some], recall.level_V[some], recall.fine_CVF[:, some])
    for a, b in zip(
        regression.posterior(H, runs._replace(recall=wild), y_CT, FRACTIONS_T),
        regression.posterior(H, runs._replace(recall=fewer), y_CT, FRACTIONS_T),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_mixture_is_the_student_t():
    posterior = regression.Posterior(np.array([[0.3]]), np.array([[0.7]]))
    y = np.linspace(-12.0, 12.0, 4001)
    wanted = scipy.stats.t.logpdf((y - 0.3) / 0.7, regression.FREEDOM) - np.log(0.7)
    mixture = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, len(y), x.shape[-1])), posterior.mixture())
    found = np.asarray(likelihood.log_density(mixture, jnp.asarray(y, jnp.float32)[None]))[0]
    lost = np.sum(np.exp(wanted) * (wanted - found)) * (y[1] - y[0])
    assert 0.0 <= lost < 3e-4


def test_a_curve_is_thinned_to_half_octaves_and_keeps_its_end():
    log_T = np.log2(np.arange(1, 53) / 52)
    y_CT = np.full((3, 52), np.nan)
    y_CT[0, :31], y_CT[2, [3, 7]] = 1.0, 2.0
    c_N, t_N = regression.thinned(y_CT, log_T)
    assert set(t_N[c_N == 2]) == {3, 7} and not (c_N == 1).any()
    first = np.sort(t_N[c_N == 0])
    assert first[-1] == 30 and first[0] == 0 and len(first) <= 12
    octave = np.round(log_T * 2)
    assert len(set(octave[first[:-1]])) == len(first) - 1


def test_of_too_many_points_the_ends_of_all_curves_are_kept():
    c_N, t_N = regression.thinned(np.ones((30, T)), np.log2(FRACTIONS_T), 40)
    assert len(c_N) == 40
    assert set(c_N[t_N == T - 1]) == set(range(30))


def _cases(tables, num=6, seed=0):
    encoding = ensemble.fit_encoding(tables)
    memory = Memory.fit(tables, encoding)
    rng = np.random.default_rng(seed)
    return [regression_fit.draw(rng, tables[w % len(tables)], encoding, memory) for w in range(num)], encoding


def test_the_slopes_are_those_of_differences():
    cases, encoding = _cases([family.task(index) for index in range(4)])
    batch = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *cases)
    start = Hyperparameters.initial(encoding.num_hyperparameters)._replace(noise=np.float32(-2.0), own=np.float32(-1.0))
    flat, unravel = ravel_pytree(start)
    loss = lambda x: regression_fit._loss_and_slope(unravel(jnp.asarray(x, jnp.float32)), batch, cases)
    _, slope = loss(flat)
    step = 0.02
    for i in range(len(slope)):
        there, back = (loss(np.asarray(flat) + sign * step * np.eye(len(flat))[i])[0] for sign in (1, -1))
        np.testing.assert_allclose(slope[i], (there - back) / (2 * step), rtol=0.03, atol=3e-3, err_msg=str(i))


def test_a_high_value_says_the_task_is_like_the_high_ones():
    """Two tables of low values like configuration 1 and two of high values like 2; both know 0 alike."""
    like_CV = np.array([[0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]], np.float32)
    fine_CVF = np.repeat(like_CV[:, :, None], len(curves.FINE_LOG_BUDGETS), axis=2)
    level_V = np.array([-1.0, -1.0, 1.0, 1.0], np.float32)
    near_CV, config_CE = np.full((3, 4), 0.99, np.float32), np.eye(3, PLAIN_E, dtype=np.float32) * 9.0
    runs = process.Runs(config_CE, Recall(fine_CVF[:, :, :: curves.FINER], near_CV, level_V, fine_CVF))
    y_CT = np.full((3, T), np.nan)
    y_CT[0, -1] = 1.0
    told = regression.posterior(H, runs, y_CT, FRACTIONS_T).mean_CT[:, -1]
    mute = regression.posterior(H._replace(level=np.float32(-9.0)), runs, y_CT, FRACTIONS_T).mean_CT[:, -1]
    assert told[1] > told[2] + 1.0
    assert mute[1] == pytest.approx(mute[2], abs=1e-2)


def test_what_is_fitted_predicts_new_tasks_better_than_the_start():
    tables = [family.task(index) for index in range(12)]
    encoding = ensemble.fit_encoding(tables)
    memory = Memory.fit(tables, encoding)
    fitted = regression_fit.fit(tables, np.ones(len(tables)), encoding, memory, seed=0)['loss']
    scores = {'start': [], 'fitted': []}
    for index in range(50, 58):
        table = family.task(index)
        values_CT, _ = evaluation.hide(table, 8, seed=index)
        y_CT, true_CT = (transforms.transform(v, 'loss', table.reference_value) for v in (values_CT, table.values_CT))
        config_CE = encoding.configurations(table.configurations)
        runs = process.Runs(config_CE, memory.recall(config_CE, 'loss', splits.dataset_of(table)))
        unseen = np.isnan(values_CT)
        for name, h in (('start', Hyperparameters.initial(encoding.num_hyperparameters)), ('fitted', fitted)):
            found = regression.posterior(h, runs, y_CT, table.fractions_T)
            z_CT = (true_CT - found.mean_CT) / found.sd_CT
            scores[name].append(np.mean((scipy.stats.t.logpdf(z_CT, 4.0) - np.log(found.sd_CT))[unseen]))
    assert np.mean(scores['fitted']) > np.mean(scores['start']) + 0.1


def test_each_metric_has_a_prior_and_one_without_values_none():
    tables = [family.task(index) for index in range(3)]
    empty = dataclasses.replace(tables[0], metric='exact_match', values_CT=np.full_like(tables[0].values_CT, np.nan))
    encoding = ensemble.fit_encoding(tables)
    memory = Memory.fit(tables, encoding)
    found = regression_fit.fit([*tables, empty], np.ones(4), encoding, memory, seed=0)
    assert set(found) == {'loss'}
