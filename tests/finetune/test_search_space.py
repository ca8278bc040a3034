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
    assert fields == {'method', 'learning_rate', *ss._AXES}


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
