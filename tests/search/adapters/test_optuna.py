"""The Optuna adapter in studies over a recorded task: what is transferred counts from the first trial on."""

import numpy as np
import pytest

from metaft.errors import InputError
from tests.search.adapters import tables

optuna = pytest.importorskip('optuna', reason='the extra `optuna` is not installed')
from metaft.search.adapters.optuna import Pruner, Sampler  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')  # Optuna's own
SPACE = {
    **{name: optuna.distributions.FloatDistribution(*bounds) for name, bounds in tables.RANGES.items()},
    **{name: optuna.distributions.CategoricalDistribution(values) for name, values in tables.CHOICES.items()},
}


@pytest.fixture(scope='module')
def task():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return tables.task('composed_512')


def objective(table, prune=False):
    def run(trial):
        for name, bounds in tables.RANGES.items():
            trial.suggest_float(name, *bounds)
        for name, values in tables.CHOICES.items():
            trial.suggest_categorical(name, values)
        for step, value in tables.curve(table, tables.FIXED | trial.params):
            trial.report(value, step)
            if prune and trial.should_prune():
                raise optuna.TrialPruned
        return value

    return run


def sampler(advisor, space=SPACE, **more):
    return Sampler(advisor, space, full_run_steps=tables.FULL_RUN_STEPS, fixed=tables.FIXED, seed=0, **more)


def finals(table):
    """Returns the final losses of all candidates, those that diverged left out."""
    values = [tables.curve(table, candidate)[-1][1] for candidate in tables.candidates(table)]
    return np.array(values)[np.isfinite(values)]


def test_trials_are_good_from_the_first_on_and_none_is_made_twice():
    """The shipped surrogate has seen these tasks, so this tests the way there, not how well it predicts."""
    better_than_first, better_than_best = [], []
    for dataset in ('composed_512', 'recall_age_512', 'rule_team_96', 'known_pair_64'):  # one of each kind
        table, advisor = tables.task(dataset)
        study = optuna.create_study(sampler=sampler(advisor, candidates=tables.candidates(table)))
        study.optimize(objective(table), n_trials=5, catch=(ValueError,))
        better_than_first.append(np.mean(finals(table) < study.trials[0].value))
        better_than_best.append(np.mean(finals(table) < study.best_value))
        assert len({tuple(trial.params.values()) for trial in study.trials}) == 5
    assert np.mean(better_than_first) <= 1 / 3  # by chance 1/2
    assert np.mean(better_than_best) <= 0.1  # by chance 1/6


def test_suggestions_lie_in_the_search_space_and_their_seed_fixes_them(task):
    _, advisor = task
    narrow = {
        'learning_rate': optuna.distributions.FloatDistribution(1e-4, 2e-4, log=True),
        'rank': optuna.distributions.CategoricalDistribution([3, 5]),
        'of_no_interest': optuna.distributions.IntDistribution(0, 10, step=5),
    }
    drawn = []
    for _ in range(2):
        study = optuna.create_study(sampler=sampler(advisor, narrow))
        params = study.ask(narrow).params
        assert 1e-4 <= params['learning_rate'] <= 2e-4 and params['rank'] in (3, 5)
        assert params['of_no_interest'] in (0, 5, 10)
        drawn.append(params)
    assert drawn[0] == drawn[1]


def test_without_a_search_space_it_starts_at_random_and_chooses_what_trials_have_in_common(task):
    _, advisor = task
    rate = optuna.distributions.FloatDistribution(1e-6, 1.0)  # by chance nearly always far too large
    study = optuna.create_study(sampler=sampler(advisor, None))
    for value in (9.0, 8.0):
        trial = study.ask({'learning_rate': rate})
        assert not trial.relative_params or value == 8.0
        study.tell(trial, value)
    assert study.ask({'learning_rate': rate}).params['learning_rate'] < 0.1


def test_trials_that_are_under_way_are_not_started_twice(task):
    table, advisor = task
    study = optuna.create_study(sampler=sampler(advisor, candidates=tables.candidates(table)))
    asked = [study.ask(SPACE).params for _ in range(3)]
    assert len({tuple(params.values()) for params in asked}) == 3


def test_hopeless_trials_are_pruned_and_the_best_is_not(task):
    table, advisor = task
    pruner = Pruner(advisor, full_run_steps=tables.FULL_RUN_STEPS, fixed=tables.FIXED)
    study = optuna.create_study(pruner=pruner)
    value = lambda candidate: np.nan_to_num(tables.curve(table, candidate)[-1][1], nan=np.inf)
    *_, second_worst, worst = sorted(filter(lambda c: value(c) < np.inf, tables.candidates(table)), key=value)
    best = min(tables.candidates(table), key=value)
    for candidate in (worst, best, second_worst):  # the first has nothing to be compared with
        study.enqueue_trial({name: candidate[name] for name in SPACE})
    study.optimize(objective(table, prune=True), n_trials=3)
    assert [trial.state.name for trial in study.trials] == ['COMPLETE', 'COMPLETE', 'PRUNED']
    assert study.trials[2].last_step < tables.FULL_RUN_STEPS / 2


def test_a_maximised_loss_is_refused(task):
    _, advisor = task
    study = optuna.create_study(direction='maximize', sampler=sampler(advisor))
    rate = {'learning_rate': SPACE['learning_rate']}
    study.add_trial(optuna.trial.create_trial(params={'learning_rate': 1e-3}, distributions=rate, value=0.5))
    with pytest.raises(InputError, match='a loss is minimised'):
        study.ask(rate)
