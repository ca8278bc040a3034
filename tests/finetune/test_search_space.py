"""The search space: valid samples, conditions, restrictions, and errors that help."""

import dataclasses

import pytest

from metaft.errors import BudgetError, ConfigurationError
from metaft.finetune import search_space as ss
from metaft.finetune.budget import fractions, grid


def test_samples_are_valid_different_and_seeded():
    space = ss.search_space()
    drawn = ss.sample(space, 300, seed=1)
    assert len(set(drawn)) == 300
    assert drawn == ss.sample(ss.search_space(), 300, seed=1)
    assert {c.method for c in drawn} == set(ss.METHODS)
    for c in drawn:
        low, high = ss.LEARNING_RATES[c.method]
        assert low <= c.learning_rate <= high
        assert (c.rank is None) == (c.method != 'lora') and (c.prompt_length is None) == (c.method != 'prompt')
        assert ss.Configuration.from_dict(c.to_dict()) == c


def test_every_field_is_an_axis_or_the_method():
    fields = {f.name for f in dataclasses.fields(ss.Configuration)}
    assert fields == {'method', 'learning_rate', *ss._AXES, *ss._WIDE_AXES}
    assert set(ss.LATER) <= set(ss._WIDE_AXES)


def test_the_wide_space_has_every_axis_and_the_present_one_none_of_the_later():
    drawn = ss.sample(ss.search_space(wide=True), 400, seed=0)
    for name in ss.LATER:
        found = {getattr(c, name) for c in drawn} - {None}
        assert found == set(ss._WIDE_AXES[name][1]) - {'sgd'}, name
    assert {64} < {c.rank for c in drawn} and {64} < {c.prompt_length for c in drawn}
    for c in drawn:
        assert (c.beta2 is None) == (c.optimizer == 'adafactor')
        assert (c.dora is None) == (c.method != 'lora') and (c.prompt_init is None) == (c.method != 'prompt')
        assert ss.Configuration.from_dict(c.to_dict()) == c
    for c in ss.sample(ss.search_space(), 50, seed=0):
        assert not set(c.identity()) & set(ss.LATER)


def test_a_restriction_opens_a_later_axis():
    space = ss.search_space(['lora'], {'optimizer': ['sgd', 'lion'], 'dora': True})
    drawn = ss.sample(space, 40, seed=0)
    assert {(c.optimizer, c.beta2 is None) for c in drawn} == {('sgd', True), ('lion', False)}
    assert all(c.dora and c.layers == 'all' and c.rank <= 32 for c in drawn)
    assert all(ss.contains(space, c) for c in drawn) and not ss.contains(space, ss.default_configuration())
    assert all(c.beta2 is None for c in ss.sample(ss.search_space(['full'], {'optimizer': 'sgd'}), 5, seed=0))


def test_contains_is_about_every_field():
    narrow, wide = ss.search_space(), ss.search_space(wide=True)
    for method in ss.METHODS:
        assert ss.contains(narrow, ss.default_configuration(method))
        assert ss.contains(wide, ss.default_configuration(method))
    dora = ss.Configuration(dora=True)
    assert ss.contains(wide, dora) and not ss.contains(narrow, dora)


def test_records_that_are_older_than_a_field_mean_its_first_value():
    for method in ss.METHODS:
        now = ss.default_configuration(method)
        old = {name: value for name, value in now.to_dict().items() if name not in ss.LATER}
        assert ss.Configuration.from_dict(old) == now == ss.Configuration.from_dict(now.identity())
        assert ss.Configuration.from_dict(old | dict.fromkeys(ss.LATER)) == now
    assert ss.Configuration(dora=True).identity()['dora'] is True


def test_restrictions_hold():
    space = ss.search_space(['lora'], {'rank': [4, 8], 'learning_rate': {'min': 1e-4, 'max': 1e-3}, 'targets': 'mlp'})
    for c in ss.sample(space, 50, seed=0):
        assert c.rank in (4, 8) and 1e-4 <= c.learning_rate <= 1e-3 and c.targets == 'mlp'


@pytest.mark.parametrize(
    ('restrict', 'words'),
    [
        ({'learning_rat': 1e-3}, "did you mean 'learning_rate'"),
        ({'rank': 5}, 'out of'),
        ({'learning_rate': {'min': 1.0, 'max': 1e-3}}, 'min below max'),
        ({'targets': {'min': 'a'}}, 'no order'),
        ({'learning_rate': []}, 'numbers from'),
    ],
)
def test_bad_restrictions_say_what_is_allowed(restrict, words):
    with pytest.raises(ConfigurationError, match=words):
        ss.search_space(['lora'], restrict)


def test_bad_configurations_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'rank'"):
        ss.Configuration.from_dict({'rnk': 4})
    with pytest.raises(ConfigurationError, match='must be left out'):
        ss.Configuration.from_dict({'method': 'full', 'rank': 4})
    for values, words in (
        ({'optimizer': 'sgd', 'beta2': 0.9}, "beta2 must be left out .None. with optimizer 'sgd'"),
        ({'optimizer': 'adam'}, 'allowed: adamw, lion, adafactor, sgd'),
        ({'method': 'full', 'dora': True}, "dora must be left out .None. with method 'full'"),
        ({'rank': 65}, 'from 1 to 64'),
        ({'clip_norm': 0.0}, 'clip_norm is 0.0'),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ss.Configuration.from_dict(values)
    with pytest.raises(ConfigurationError, match=r'out of \[false, true\]'):
        ss.search_space(['lora'], {'dora': 'yes'})
    with pytest.raises(ConfigurationError, match='allowed: lora, full, prompt'):
        ss.search_space(['lorra'])
    for method in ss.METHODS:
        assert ss.default_configuration(method).method == method


def test_grid_is_increasing_and_ends_at_a_full_run():
    for batch in ss.BATCH_SIZES:
        g = grid(4096, batch)
        assert list(g.steps_T) == sorted(g.steps_T) and g.examples_T[-1] == 4096 and len(g.steps_T) == len(fractions())
    with pytest.raises(BudgetError, match='at least 64'):
        grid(32, 64)
