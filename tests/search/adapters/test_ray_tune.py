"""The Ray Tune adapter: a tuning run over a recorded task on a real (small) cluster, and its parts by themselves."""

from types import SimpleNamespace

import numpy as np
import pytest

from metaft.errors import InputError
from tests.search.adapters import tables

tune = pytest.importorskip('ray.tune', reason='the extra `ray_tune` is not installed')
import ray  # noqa: E402

from metaft.search.adapters.ray_tune import PredictedEndScheduler, TransferSearcher  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings('ignore'),  # Ray's own, of files it leaves open
]
STEPS = tables.FULL_RUN_STEPS
SPACE = {
    **tables.FIXED,
    **{name: tune.uniform(*bounds) for name, bounds in tables.RANGES.items()},
    **{name: tune.choice(values) for name, values in tables.CHOICES.items()},
}


@pytest.fixture(scope='module')
def task():
    return tables.task('composed_512')


def searcher(task, space=SPACE, **more):
    table, advisor = task
    more = {'candidates': tables.candidates(table), 'seed': 0} | more
    found = TransferSearcher(advisor, full_run_steps=STEPS, time_attr='step', **more)
    assert space is None or found.set_search_properties('loss', 'min', space)
    return found


def results(table, configuration):
    curve = tables.curve(table, configuration)
    return [{'step': s, 'loss': v, 'time_total_s': 0.01 * s} for s, v in curve if np.isfinite(v)]


def finals(table):
    return sorted(
        (r[-1]['loss'], i)
        for i, candidate in enumerate(tables.candidates(table))
        if len(r := results(table, candidate)) == len(table.fractions_T)
    )


def test_a_tuning_run_from_end_to_end(task, tmp_path):
    table, advisor = task
    curves = [(candidate, results(table, candidate)) for candidate in tables.candidates(table)]

    def trainable(configuration):
        for result in next(curve for candidate, curve in curves if candidate == configuration):
            tune.report({'step': result['step'], 'loss': result['loss']})

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    try:
        grid = tune.Tuner(
            trainable,
            param_space=SPACE,
            tune_config=tune.TuneConfig(
                metric='loss',
                mode='min',
                num_samples=8,
                max_concurrent_trials=2,
                search_alg=searcher(task, None),  # Ray tells it the space
                scheduler=PredictedEndScheduler(advisor, full_run_steps=STEPS, time_attr='step'),
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    assert len(grid) == 8 and not grid.errors
    losses = [loss for loss, _ in finals(table)]
    assert grid.get_best_result().metrics['loss'] <= np.quantile(losses, 0.1)
    steps = [result.metrics['step'] for result in grid]
    assert max(steps) == STEPS > min(steps)  # some ended, some were stopped


def test_suggestions_are_good_ones_in_the_space_and_go_on_after_a_restart(task, tmp_path):
    table, _ = task
    first = searcher(task)
    before = first.suggest('a')
    assert before in tables.candidates(table)
    assert results(table, before)[-1]['loss'] <= np.quantile([loss for loss, _ in finals(table)], 1 / 3)
    for result in results(table, before):
        first.on_trial_result('a', result)
    first.on_trial_complete('a', result)
    first.save(str(tmp_path / 'state.pkl'))
    again = searcher(task)
    again.restore(str(tmp_path / 'state.pkl'))
    assert again.suggest('b') == first.suggest('b') != before
    drawn = searcher(task, {'method': 'lora', 'learning_rate': tune.loguniform(1e-4, 2e-4)}, candidates=()).suggest('a')
    assert drawn['method'] == 'lora' and 1e-4 <= drawn['learning_rate'] <= 2e-4
    with pytest.raises(InputError, match='param_space'):
        TransferSearcher(task[1], full_run_steps=STEPS).suggest('a')


def test_the_scheduler_stops_what_is_hopeless(task):
    table, advisor = task
    scheduler = PredictedEndScheduler(advisor, full_run_steps=STEPS, time_attr='step')
    scheduler.set_search_properties('loss', 'min')
    ranked = [tables.candidates(table)[i] for _, i in finals(table)]
    stopped_at = {}
    for name, configuration in (('worst', ranked[-1]), ('best', ranked[0]), ('bad', ranked[-2])):
        trial = SimpleNamespace(trial_id=name, config=configuration)
        for result in results(table, configuration):
            if scheduler.on_trial_result(None, trial, result) == 'STOP':
                break
        stopped_at[name] = result['step']
    assert stopped_at['worst'] == stopped_at['best'] == STEPS and stopped_at['bad'] < STEPS / 2
