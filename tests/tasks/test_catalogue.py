"""The catalogue: which tasks there are, and that each is made, with its splits apart."""

import pytest

from metaft.errors import DataError
from metaft.tasks import catalogue


@pytest.mark.parametrize('name', catalogue.names())
def test_a_dataset_is_as_large_as_its_name_says(name):
    data = catalogue.make(name)
    assert data.name == name and len(data.validation) >= 32 and len(data.test) >= 32
    if name.rpartition('_')[2].isdigit():
        assert len(data.train) == int(name.rpartition('_')[2]) == catalogue.knobs(name)['num_train_examples']


@pytest.mark.parametrize('name', ('translation_128', 'summary_96', 'known_twice_16'))
def test_a_name_always_gives_the_same_dataset(name):
    assert catalogue.make(name) == catalogue.make(name)


def test_there_is_what_a_meta_dataset_needs():
    entries = [*catalogue.COLLECTED.values(), *catalogue.HELD_OUT.values()]
    assert len({seed for _, seed in entries}) == len({settings for settings, _ in entries}) == len(entries) == 52
    sizes = [settings.num_train_examples for settings, _ in catalogue.COLLECTED.values()]
    assert min(sizes) == 16 and max(sizes) == 4096 and len(sizes) >= 40 and len(catalogue.HELD_OUT) == 8
    assert len(set(catalogue.ACROSS_BASES)) >= 16 and set(catalogue.ACROSS_BASES) < set(catalogue.COLLECTED)
    assert {'translation', 'summary'} < {name.partition('_')[0] for name in catalogue.COLLECTED}
    assert not set(catalogue.HELD_OUT) & set(catalogue.COLLECTED)


def test_an_unknown_name_is_refused():
    with pytest.raises(DataError, match='translation_128'):
        catalogue.make('translation_129')
