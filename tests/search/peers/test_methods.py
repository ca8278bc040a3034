"""Every method that needs no package replays; names and packages are checked before anything runs."""

import numpy as np
import pytest

from metaft.errors import InputError
from metaft.search import scores
from metaft.search.peers import methods
from metaft.search.replay import replay
from tests.surrogate import family

WITH_A_SURROGATE = ('metaft', 'metaft_transfer')
TRAINS_A_NETWORK = ('quicktune', 'quicktune_refit', 'dyhpo', 'dpl', 'dre')  # on the way: tens of seconds


def problem():
    def no_surrogate():
        raise AssertionError('only metaft asks for it')

    train = [family.task(w, num_runs=16) for w in range(4)]
    return methods.Problem(family.task(9, num_runs=16), methods.Fold(train, no_surrogate))


def plain(kind):
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in TRAINS_A_NETWORK and kind == 'searcher' else name
        for name, method in methods.METHODS.items()
        if not method.packages and name not in WITH_A_SURROGATE and getattr(method, kind) is not None
    ]


@pytest.mark.parametrize('name', plain('searcher'))
def test_a_method_searches_within_its_budget(name):
    made = problem()
    budget_seconds = 6 * family.SECONDS
    first, again = (
        replay(methods.METHODS[name].searcher(made, 1), made.table, budget_seconds).events for _ in range(2)
    )
    assert first == again, 'a seed fixes it'
    assert 0 < first[-1].seconds <= budget_seconds
    if name != 'default':
        assert len({event.configuration_index for event in first}) >= 3


@pytest.mark.parametrize('name', plain('predict'))
def test_a_method_predicts_better_with_more_points(name):
    made = problem()
    found = []
    for num_T in (0, 4):
        seen_CT = np.full(made.table.values_CT.shape, np.nan)
        seen_CT[:, :num_T] = 1.0
        predict = methods.METHODS[name].predict(made, 0)
        prediction = predict(seen_CT * made.table.values_CT, seen_CT * made.table.costs_CT)
        found.append(scores.score(prediction, made.table, seen_CT))
    assert found[1]['mse'] < found[0]['mse'] and found[1]['spearman'] > 0.6


def test_the_oracle_begins_with_the_best():
    made = problem()
    event = replay(methods.METHODS['oracle'].searcher(made, 0), made.table, 1e9).events[len(family.FRACTIONS_T) - 1]
    assert event.value == made.table.values_CT.min()


def test_names_and_packages_are_checked(monkeypatch):
    with pytest.raises(InputError, match="method 'smbc' is unknown; allowed are random"):
        methods.check(['random', 'smbc'])
    with pytest.raises(InputError, match=r'ifbo is not here: .* weights'):
        methods.check(['ifbo'])
    monkeypatch.setitem(methods.METHODS, 'far', methods.Method(packages=('no_such_package',)))
    with pytest.raises(InputError, match="method far needs the package 'no_such_package'"):
        methods.check(['far'])
    assert 'far' not in methods.installed() and 'metaft' in methods.installed()
