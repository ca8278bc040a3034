"""The mixture over known tasks: its weights are Bayes' rule, and its choices complement what came."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from metaft.search import task_mixture
from metaft.search.baselines import random_search
from metaft.search.freeze_thaw import FreezeThaw, FreezeThawSettings
from metaft.search.replay import replay
from metaft.search.task_mixture import TaskMixture
from metaft.surrogate import ensemble, evaluation, training
from metaft.surrogate.memory import Memory
from metaft.surrogate.network import Architecture
from metaft.surrogate.process import SIZE, Kernel
from metaft.surrogate.surrogate import Surrogate
from tests.search.beliefs import FRACTIONS_T, GaussianBelief, curves, empty, seconds
from tests.surrogate import family

NUM_T = len(FRACTIONS_T)
NOISE_T = np.linspace(0.3, 0.1, NUM_T)


def mixture(final_WC, log_prior_W=None, start=0.0):
    curve_WCT = np.stack([curves(final_C, start) for final_C in final_WC]).astype(np.float32)
    prior_W = np.zeros(len(curve_WCT)) if log_prior_W is None else np.array(log_prior_W)
    return TaskMixture(curve_WCT, prior_W, NOISE_T, lambda values: np.minimum(values, 3.0))


def test_weights_and_shifts_are_those_of_the_joint_gaussian():
    rng = np.random.default_rng(0)
    found = mixture(rng.normal(size=(5, 6)), np.log([1.0, 0.5, 0.5, 1.0, 2.0]))
    observations = empty(6).observe(1, 2, 0.4, 1.0).observe(4, 1, -0.1, 1.0).observe(4, 4, -0.7, 2.0)
    weight_W, shift_W = found.posterior(observations)
    error_WO = np.array([0.4, -0.7]) - found.curve_WCT[:, [1, 4], [2, 4]]
    shift = task_mixture._SHIFT_SD**2
    covariance_OO = np.diag(NOISE_T[[2, 4]] ** 2) + shift
    likelihood_W = multivariate_normal(np.zeros(2), covariance_OO).pdf(error_WO)
    wanted_W = np.exp(found.log_prior_W) * likelihood_W
    np.testing.assert_allclose(weight_W, wanted_W / wanted_W.sum(), rtol=1e-5)
    wanted_shift_W = shift * np.linalg.solve(covariance_OO, error_WO.T).sum(axis=0)
    np.testing.assert_allclose(shift_W, wanted_shift_W, rtol=1e-5)


def test_nothing_measured_leaves_the_prior():
    weight_W, shift_W = mixture([[0.0, 1.0], [1.0, 0.0]], np.log([3.0, 1.0])).posterior(empty(2))
    np.testing.assert_allclose(weight_W, [0.75, 0.25])
    np.testing.assert_array_equal(shift_W, 0.0)


def test_the_second_choice_is_good_where_the_first_was_bad():
    """Run 0 is best on two tasks of three, run 1 nearly as good there; only run 2 is good on the third one."""
    found = mixture([[-1.0, -0.9, 0.5], [-1.0, -0.9, 0.5], [0.5, 0.5, -0.8]])
    end_C = np.full(3, NUM_T - 1)
    assert int(np.argmax(found.gain_C(empty(3), end_C))) == 0
    bad = empty(3).observe(0, NUM_T - 1, 0.5, 1.0)
    good = empty(3).observe(0, NUM_T - 1, -1.0, 1.0)
    assert int(np.argmax(found.gain_C(bad, end_C))) == 2
    assert int(np.argmax(found.gain_C(good, end_C))) == 1
    assert found.gain_C(good, end_C)[2] < 0.2 * found.gain_C(bad, end_C)[2]
    assert np.isneginf(found.gain_C(bad, end_C)[0])  # it is at its end


def test_a_run_goes_on_from_where_it_stands_and_no_further_than_it_can():
    found = mixture([[-1.0, -1.0]], start=1.0)
    observations = empty(2).observe(0, 2, 1.5, 1.0)  # worse than the task it is like, by .9
    near_C, far_C = (found.gain_C(observations, np.full(2, t)) for t in (3, 4))
    assert (far_C > near_C).all() and far_C[1] > far_C[0]
    falls = float(found.curve_WCT[0, 0, 2] - found.curve_WCT[0, 0, 4])
    np.testing.assert_allclose(far_C[0], falls, atol=0.01)  # the best so far is its own value
    assert np.isneginf(found.gain_C(observations, np.array([2, 4]))[0])


def test_a_diverged_run_is_an_observation_and_is_never_advanced():
    found = mixture([[-1.0, -0.5], [3.0, -0.5]])
    observations = empty(2).observe(0, 1, np.inf, 1.0)
    gain_C = found.gain_C(observations, np.full(2, NUM_T - 1))
    assert np.isneginf(gain_C[0]) and np.isfinite(gain_C[1])
    assert found.posterior(observations)[0][1] > 0.9


def test_the_search_goes_by_it():
    belief = GaussianBelief(curves([1.0, 1.1, 1.2]), seconds([10.0] * 3), sd=0.3)
    found = mixture([[1.0, 1.0, -1.0]], start=3.0)
    chosen = lambda searcher, seen: [s.configuration_index for s in searcher.suggest(seen, 100.0)]
    assert chosen(FreezeThaw(belief, mixture=found), empty(3)) == [2]
    assert chosen(FreezeThaw(belief), empty(3)) == [0]
    ended = empty(3).observe(2, NUM_T - 1, -9.0, 10.0)
    assert chosen(FreezeThaw(belief, mixture=found), ended) == []  # nothing can be gained on this


def test_the_say_of_the_posterior_grows_with_the_runs():
    """The mixture expects the same of all runs; none, then two of them were begun."""
    found, belief = mixture([[1.0] * 4], start=3.0), GaussianBelief(curves([1.5, 1.5, 0.0, 1.5]), seconds([10.0] * 4))
    searcher = FreezeThaw(belief, FreezeThawSettings(commitment=1.0, posterior_runs=2.0), found)
    end_C = np.full(4, NUM_T - 1)
    one = empty(4).observe(0, 0, 2.8, 0.6)
    two = one.observe(1, 0, 2.8, 0.6)
    for seen, say in ((empty(4), 0.0), (one, 0.5 / 3.0), (two, 0.25)):
        alone_CT = belief(seen).transformed_improvement_CT(seen.best_value)
        alone_C = np.where(np.arange(NUM_T) > seen.last_grid_index_C[:, None], alone_CT, 0.0).max(axis=1)
        wanted_C = (1.0 - say) * found.gain_C(seen, end_C) + say * alone_C
        np.testing.assert_allclose(searcher.evaluate(seen, belief(seen), 100.0).gain_C, wanted_C)
    assert [s.configuration_index for s in searcher.suggest(two, 100.0)] == [2]


def test_a_run_that_was_begun_counts_twice_and_a_dear_one_less():
    belief = GaussianBelief(curves([1.0, 1.1]), seconds([10.0, 10.0]), sd=0.3)
    found = mixture([[1.0, 0.8]], start=3.0)
    observations = empty(2).observe(0, 1, float(found.curve_WCT[0, 0, 1]), 1.25)
    first = lambda belief, **settings: [
        s.configuration_index
        for s in FreezeThaw(belief, FreezeThawSettings(**settings), found).suggest(observations, 99.0)
    ]
    assert first(belief, commitment=1.0, cost_exponent=0.0) == [1]
    assert first(belief, commitment=2.0, cost_exponent=0.0) == [0]
    dear = dataclasses.replace(belief, seconds_CT=seconds([10.0, 40.0]))
    assert first(dear, commitment=1.0, cost_exponent=0.5) == [0]


@pytest.fixture(scope='module')
def tables():
    return [family.task(index) for index in range(6)]


@pytest.fixture(scope='module')
def surrogate(tables):
    """An untrained network: what memory knows is all there is."""
    encoding = ensemble.fit_encoding(tables)
    architecture = Architecture(encoding.num_hyperparameters + SIZE, encoding.num_task_features, width=8, trunk_width=8)
    kernel = Kernel.initial(encoding.num_hyperparameters)
    params = training.initialise(architecture, 0, 1)
    return Surrogate(architecture, encoding, Memory.fit(tables, encoding), kernel, params)


def test_of_a_surrogate_it_holds_the_other_tasks_around_memory_and_prediction(surrogate, tables):
    table = tables[0]
    runs, ask = evaluation.encoded(surrogate, table), evaluation.asking(surrogate, table)
    nothing_CT = np.full(table.values_CT.shape, np.nan)
    zero_shot = ask(nothing_CT, nothing_CT)
    found = TaskMixture.of(surrogate, table.meta_features, runs, zero_shot)
    assert found.curve_WCT.shape == (5, *table.values_CT.shape)  # its own dataset is left out
    apart_W = surrogate.memory.expected_apart(
        surrogate.encoding.task(table.meta_features, 'loss'), 'loss', range(1, len(tables))
    )
    np.testing.assert_allclose(np.exp(-found.log_prior_W), float(found.noise_T[-1]) ** 2 + apart_W, rtol=1e-5)
    # Where every task has a run of each configuration the mean over tasks is the center, nearly.
    assert np.asarray(runs.recall.near_CV)[:, 1:].mean() > 0.9
    median_CT = zero_shot.transform(zero_shot.quantile_CT(0.5))
    centered = lambda y_C: y_C - np.median(y_C)
    remembered_C = np.asarray(jnp.mean(runs.recall.curve_CVU[:, 1:, -1], axis=1))
    middle_C = centered(found.curve_WCT.mean(axis=0)[:, -1])
    wanted_C = centered(0.5 * median_CT[:, -1] + 0.5 * remembered_C)
    assert np.corrcoef(middle_C, wanted_C)[0, 1] > 0.98


def test_the_noise_is_how_far_the_most_alike_tasks_are(surrogate, tables):
    """Two datasets of equal tasks are not apart; moved to another level they are not either, and noise counts."""
    assert set(surrogate.memory.unlikeness) == {'loss'}
    twin = dataclasses.replace(tables[0], task='twin', dataset='twin')
    encoding = surrogate.encoding
    alike = Memory.fit([tables[0], twin], encoding)
    unlike_U = surrogate.memory.unlikeness['loss']
    assert (alike.unlikeness['loss'] < 0.35 * unlike_U).all()  # what a kernel smears
    moved = Memory.fit([tables[0], dataclasses.replace(twin, reference_value=5.0)], encoding)
    np.testing.assert_allclose(moved.unlikeness['loss'], alike.unlikeness['loss'], atol=0.02)
    rng = np.random.default_rng(0)
    rough = dataclasses.replace(twin, values_CT=twin.values_CT * np.exp(rng.normal(size=(len(twin.values_CT), 1))))
    assert (Memory.fit([tables[0], rough], encoding).unlikeness['loss'] > 0.2).all()
    assert Memory.fit([tables[0]], encoding).unlikeness == {}


def test_of_a_metric_that_is_not_known_there_is_none(surrogate, tables):
    table = tables[0]
    runs = surrogate.encode(table.configurations, 'exact_match')
    zero_shot = evaluation.asking(surrogate, table)(*np.full((2, *table.values_CT.shape), np.nan))
    odd = zero_shot.__class__(**{**vars(zero_shot), 'metric': 'exact_match'})
    assert TaskMixture.of(surrogate, table.meta_features, runs, odd) is None


def test_with_an_untrained_network_it_finds_good_runs_by_memory(surrogate, tables):
    """Two full runs chosen by the mixture are better than two random ones."""
    ratio = []
    for seed, table in enumerate(tables):
        runs, ask = evaluation.encoded(surrogate, table), evaluation.asking(surrogate, table)
        nothing_CT = np.full(table.values_CT.shape, np.nan)
        found = TaskMixture.of(surrogate, table.meta_features, runs, ask(nothing_CT, nothing_CT))
        predict = lambda observations, ask=ask: ask(observations.values_CT, observations.costs_CT)
        budget = 2.2 * float(np.median(table.costs_CT[:, -1]))
        search = FreezeThaw(predict, mixture=found)
        chance = [replay(random_search(24, 10 * seed + i), table, budget).best_value_at(budget) for i in range(5)]
        ratio.append(np.log(replay(search, table, budget).best_value_at(budget) / np.mean(chance)))
    assert np.mean(ratio) < np.log(0.8)


def test_meta_features_say_before_anything_is_measured_which_tasks_it_is_like():
    tables = [family.told(index) for index in range(10)]
    encoding = ensemble.fit_encoding(tables)
    architecture = Architecture(encoding.num_hyperparameters + SIZE, encoding.num_task_features, width=8, trunk_width=8)
    kernel, params = Kernel.initial(encoding.num_hyperparameters), training.initialise(architecture, 0, 1)
    surrogate = Surrogate(architecture, encoding, Memory.fit(tables, encoding), kernel, params)
    best_W = np.array([table.meta_features['best'] for table in tables])
    lowered = []
    for index, table in enumerate(tables):
        nothing_CT = np.full(table.values_CT.shape, np.nan)
        runs, zero_shot = evaluation.encoded(surrogate, table), evaluation.asking(surrogate, table)(*2 * [nothing_CT])
        weight_W, _ = TaskMixture.of(surrogate, table.meta_features, runs, zero_shot).posterior(empty(24))
        away_W = np.abs(np.delete(best_W, index) - best_W[index])
        lowered.append(weight_W @ away_W / away_W.mean())
    assert np.mean(lowered) < 0.8 and max(lowered) < 1.05
