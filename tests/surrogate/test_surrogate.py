"""What a search relies on: observed is observed, a checkpoint is the surrogate, strange input is bearable."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from metaft.errors import ModelError
from metaft.finetune.search_space import METHODS, Configuration, default_configuration
from metaft.surrogate import deep_set, ensemble, evaluation, process, regression, training, transforms
from metaft.surrogate.memory import Memory
from metaft.surrogate.surrogate import FORMAT, Calibration, Surrogate
from tests.surrogate import family

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / 'metaft' / 'assets'


@pytest.fixture(scope='module')
def surrogate():
    tables = [family.task(index) for index in range(3)]
    encoding = ensemble.fit_encoding(tables)
    sizes = {'width': 16, 'trunk_width': 16, 'num_kernels': 2, 'kernel_size': 2, 'num_components': 2}
    architecture = deep_set.Architecture(
        encoding.num_hyperparameters + process.SIZE, encoding.num_task_features, **sizes
    )
    params = jax.tree.map(np.asarray, training.initialise(architecture, seed=0, num_members=2))
    memory = Memory.fit(tables, encoding)
    kernel = process.Kernel.initial(encoding.num_hyperparameters)
    calibration = Calibration(value=(0.1, 0.2, 0.3), regression=(0.1, 0.0, 0.2), say=(0.5, 0.1, -0.2))
    regressions = {'loss': regression.Hyperparameters.initial(encoding.num_hyperparameters)}
    return Surrogate(architecture, encoding, memory, kernel, params, calibration, {'seed': 0}, regressions)


@pytest.fixture(scope='module')
def table():
    return family.task(7)


@pytest.fixture
def observations(table):
    values_CT, costs_CT = evaluation.hide(table, 30, seed=0)
    values_CT[1, :4], costs_CT[1, :3] = [2.0, 2.1, np.inf, np.nan], [1.0, 2.0, 3.0]
    return values_CT, costs_CT


def test_predictions_at_observed_points_are_the_observations(surrogate, table, observations):
    prediction = evaluation.asking(surrogate, table)(*observations)
    values_CT, costs_CT = observations
    is_seen_CT = ~np.isnan(values_CT)
    assert 0 < is_seen_CT.sum() < is_seen_CT.size
    for found in (prediction.mean_CT, prediction.quantile_CT(0.1), prediction.quantile_CT(0.9)):
        np.testing.assert_array_equal(found[is_seen_CT], values_CT[is_seen_CT])
        assert np.isposinf(found[1, 2:]).all()  # diverged: from there on
    np.testing.assert_array_equal(prediction.standard_deviation_CT[is_seen_CT], 0.0)
    np.testing.assert_array_equal(prediction.cost_seconds_CT[~np.isnan(costs_CT)], costs_CT[~np.isnan(costs_CT)])
    improvement_CT = prediction.expected_improvement_CT(1.0)
    np.testing.assert_array_equal(improvement_CT[is_seen_CT] > 0, values_CT[is_seen_CT] < 1.0)
    samples_QCT = prediction.sample_QCT(jax.random.key(0), 3)
    assert (samples_QCT[:, is_seen_CT] == prediction.transform(values_CT)[is_seen_CT]).all()


def test_predictions_are_proper(surrogate, table, observations):
    prediction = evaluation.asking(surrogate, table)(*observations)
    is_open_CT = np.isnan(prediction.observed_CT)
    low, middle, high = (prediction.quantile_CT(p)[is_open_CT] for p in (0.1, 0.5, 0.9))
    assert (low <= middle).all() and (middle <= high).all()
    assert (prediction.standard_deviation_CT[is_open_CT] > 0).all()
    assert (prediction.expected_improvement_CT(1.0)[is_open_CT] >= 0).all()
    samples_QCT = prediction.sample_QCT(jax.random.key(0), 4000)
    drawn_CT = np.maximum(prediction.transform(np.array(1.0)) - samples_QCT, 0.0)
    np.testing.assert_allclose(
        prediction.transformed_improvement_CT(1.0)[is_open_CT],
        drawn_CT.mean(axis=0)[is_open_CT],
        atol=4.0 * drawn_CT.std(axis=0)[is_open_CT].max() / np.sqrt(4000),
    )
    assert (prediction.transformed_improvement_CT(1.0)[~is_open_CT] == 0.0).all()
    assert (np.diff(np.delete(prediction.cost_seconds_CT, 1, axis=0)) >= 0).all()  # cumulative
    mean_CT = prediction.mean_CT[is_open_CT]
    assert (mean_CT > prediction.quantile_CT(0.001)[is_open_CT] - 1e-6).all() and np.isfinite(mean_CT).all()


def test_the_order_of_configurations_does_not_matter(surrogate, table, observations):
    order = np.random.default_rng(0).permutation(len(table.configurations))
    values_CT, costs_CT = observations
    wanted = evaluation.asking(surrogate, table)(values_CT, costs_CT)
    found = surrogate.predict(
        table.meta_features,
        [table.configurations[c] for c in order],
        values_CT[order],
        costs_CT[order],
        metric='loss',
        reference_value=table.reference_value,
        reference_seconds=table.reference_seconds,
        fractions_T=table.fractions_T,
        max_examples=table.max_examples,
    )
    np.testing.assert_allclose(found.mean_CT, wanted.mean_CT[order], rtol=1e-4)
    np.testing.assert_allclose(found.cost_seconds_CT, wanted.cost_seconds_CT[order], rtol=1e-4)


def test_the_regression_speaks_once_something_was_observed_and_as_much_as_it_may(surrogate, table, observations):
    values_CT, costs_CT = observations
    nothing_CT, without = np.full_like(values_CT, np.nan), dataclasses.replace(surrogate, regressions={})
    alone, both = (evaluation.asking(s, table)(nothing_CT, nothing_CT) for s in (without, surrogate))
    np.testing.assert_array_equal(both.mean_CT, alone.mean_CT)

    with_say = lambda say: dataclasses.replace(surrogate, calibration=dataclasses.replace(
        surrogate.calibration, say=(say, 0.0, 0.0)))  # fmt: skip
    none, everything, half = (evaluation.asking(with_say(say), table)(values_CT, costs_CT) for say in (-99, 99, 0))
    wanted = evaluation.asking(without, table)(values_CT, costs_CT)
    np.testing.assert_allclose(none.quantile_CT(0.3), wanted.quantile_CT(0.3), rtol=1e-3)
    carried_CT = np.where(np.logical_or.accumulate(np.isposinf(values_CT), axis=1), np.inf, values_CT)
    y_CT = transforms.transform(carried_CT, 'loss', table.reference_value)
    runs = evaluation.encoded(surrogate, table)
    found = regression.posterior(surrogate.regressions['loss'], runs, y_CT, table.fractions_T)
    is_open_CT = np.isnan(carried_CT)
    wanted_CT = transforms.inverse(found.mean_CT, 'loss', table.reference_value)
    np.testing.assert_allclose(everything.quantile_CT(0.5)[is_open_CT], wanted_CT[is_open_CT], rtol=1e-3)
    below = [p.transform(p.mean_CT)[is_open_CT] for p in (none, everything, half)]
    assert np.abs(below[0] - below[1]).max() > 0.1
    assert (np.minimum(*below[:2]) - 0.3 <= below[2]).all() and (below[2] <= np.maximum(*below[:2]) + 0.3).all()


def test_a_cost_that_is_hardly_known_is_not_a_large_one(surrogate, table, observations):
    """The mean of a wide log-normal is many times its median, which once made every run look unaffordable."""
    unsure = dataclasses.replace(surrogate, calibration=Calibration(cost=(2.0, 0.0, 0.0)))
    wanted, found = (evaluation.asking(s, table)(*observations) for s in (surrogate, unsure))
    unseen_CT = np.isnan(observations[1])
    assert (found.cost_log_sd_CT[unseen_CT] > 5.0 * wanted.cost_log_sd_CT[unseen_CT]).all()
    np.testing.assert_allclose(found.cost_seconds_CT, wanted.cost_seconds_CT, rtol=1e-5)


def test_costs_follow_the_machine_and_the_length_of_a_run(surrogate, table):
    nothing_CT = np.full_like(table.values_CT, np.nan)
    ask = lambda seconds, examples: surrogate.predict(
        {}, table.configurations, nothing_CT, nothing_CT, metric='loss', reference_value=3.0, reference_seconds=seconds,
        fractions_T=table.fractions_T, max_examples=examples).cost_seconds_CT  # fmt: skip
    np.testing.assert_allclose(ask(2e-3, 4096), 2 * ask(1e-3, 4096), rtol=1e-6)
    np.testing.assert_allclose(ask(1e-3, 1024), ask(1e-3, 4096) / 4, rtol=1e-6)


def test_unknown_and_missing_entries_are_bearable(surrogate, table):
    configurations = [{}, {'method': 'prompt', 'optimizer': 'sgd'}, {'learning_rate': 1e3, 'method': None}]
    nothing_CT = np.full((3, len(table.fractions_T)), np.nan)
    prediction = surrogate.predict(
        {'unheard_of': 1.0}, configurations, nothing_CT, nothing_CT, metric='exact_match', reference_value=0.9,
        reference_seconds=1e-3, fractions_T=table.fractions_T)  # fmt: skip
    assert np.isfinite(prediction.mean_CT).all() and (prediction.mean_CT <= 1.0).all()
    assert not surrogate.coverage({'size': 1e6}, configurations).is_inside


def test_shapes_that_do_not_fit_are_refused(surrogate, table):
    with pytest.raises(ValueError, match='24 configurations'):
        surrogate.predict(
            {}, table.configurations, table.values_CT[:3], table.costs_CT[:3], metric='loss', reference_value=3.0,
            reference_seconds=1e-3, fractions_T=table.fractions_T)  # fmt: skip


def test_a_checkpoint_gives_the_surrogate_back(surrogate, table, observations, tmp_path):
    surrogate.save(tmp_path / 'surrogate')
    again = Surrogate.load(tmp_path / 'surrogate')
    assert (again.encoding, again.calibration, again.provenance) == (
        surrogate.encoding, surrogate.calibration, surrogate.provenance)  # fmt: skip
    wanted, found = (evaluation.asking(s, table)(*observations) for s in (surrogate, again))
    np.testing.assert_array_equal(found.mean_CT, wanted.mean_CT)
    np.testing.assert_array_equal(found.cost_seconds_CT, wanted.cost_seconds_CT)


@pytest.mark.parametrize('fault', ['missing', 'format', 'sizes', 'name', 'torn'])
def test_what_is_no_checkpoint_is_refused_in_a_sentence(surrogate, tmp_path, fault):
    surrogate.save(tmp_path)
    path = tmp_path / 'surrogate.json'
    record = json.loads(path.read_text())
    if fault == 'missing':
        path.unlink()
    elif fault == 'torn':
        path.write_text(path.read_text()[:100])
    elif fault == 'format':
        path.write_text(json.dumps(record | {'format': 99}))
    else:
        record['architecture'] |= {'width': 17} if fault == 'sizes' else {'name': 'deep_sea'}
        path.write_text(json.dumps(record))
    with pytest.raises(ModelError):
        Surrogate.load(tmp_path)


@pytest.mark.parametrize('name', ['kernel', 'regression'])
@pytest.mark.parametrize('fault', ['shift', 'length_E'])
def test_a_prior_that_does_not_fit_is_refused(surrogate, tmp_path, name, fault):
    surrogate.save(tmp_path)
    arrays = safetensors.numpy.load_file(tmp_path / f'{name}.safetensors')
    key = fault if name == 'kernel' else f'loss.{fault}'
    if fault == 'shift':
        del arrays[key]
    else:
        arrays[key] = arrays[key][:-1]
    safetensors.numpy.save_file(arrays, tmp_path / f'{name}.safetensors')
    with pytest.raises(ModelError, match=f'the tensors {key} do not fit'):
        Surrogate.load(tmp_path)


def test_a_checkpoint_of_an_earlier_format_is_refused_with_what_to_do(surrogate, tmp_path):
    surrogate.save(tmp_path)
    (tmp_path / 'kernel.safetensors').unlink()  # formats 2 and 3 had none
    record = json.loads((tmp_path / 'surrogate.json').read_text())
    (tmp_path / 'surrogate.json').write_text(json.dumps(record | {'format': 3}))
    with pytest.raises(ModelError, match=f'format 3, this metaft reads {FORMAT}; train it again'):
        Surrogate.load(tmp_path)


def test_a_checkpoint_written_anew_predicts_bit_by_bit_the_same(table, observations, tmp_path):
    surrogate = Surrogate.load(ASSETS / 'surrogate')
    surrogate.save(tmp_path)
    assert json.loads((tmp_path / 'surrogate.json').read_text())['architecture']['name'] == 'deep_set'
    wanted, found = (evaluation.asking(s, table)(*observations) for s in (surrogate, Surrogate.load(tmp_path)))
    jax.tree.map(np.testing.assert_array_equal, found.mixture, wanted.mixture)
    np.testing.assert_array_equal(found.cost_seconds_CT, wanted.cost_seconds_CT)


def test_the_shipped_surrogate_names_later_fields_only_where_they_say_something_new():
    shipped = Surrogate.load(ASSETS / 'surrogate')
    plain = [default_configuration(method) for method in METHODS]
    assert shipped.coverage({}, [c.identity() for c in plain]).hyperparameters == {}
    known = Configuration(dora=True, optimizer='lion', rank=64)  # the wide draws of the meta-dataset have such
    assert shipped.coverage({}, [*(c.identity() for c in plain), known.identity()]).hyperparameters == {}
    new = known.identity() | {'optimizer': 'adagrad', 'rank': 4096}
    assert set(shipped.coverage({}, [new]).hyperparameters) == {'optimizer', 'rank'}
    later = shipped.encode([plain[0].to_dict()], 'loss')
    jax.tree.map(np.testing.assert_array_equal, shipped.encode([plain[0].identity()], 'loss'), later)
