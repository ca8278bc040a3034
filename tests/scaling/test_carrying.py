"""metaft/scaling/carrying.py: factors of doubling, from laws whose constants are known."""

import numpy as np
import pytest

from metaft.report import scaling_text
from metaft.scaling import carrying, fitting, points
from metaft.scaling.laws import Law

MODELS, EXAMPLES = (1e5, 4e5, 1.6e6), np.geomspace(32, 2048, 7)


def fit(alpha: float, beta: float):
    models, examples = map(np.ravel, np.meshgrid(MODELS, EXAMPLES))
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(len(examples)))
    data = points.make(5.0 * models**-alpha * examples**-beta * noise, examples, [models], ['model_size'])
    return fitting.fit(Law('multiplicative', ('model_size',), irreducible=False), data, num_draws=40)


@pytest.fixture(scope='module')
def fits():
    return {'translation/lora': fit(0.2, 0.1), 'summary/lora': fit(0.1, 0.3), 'summary/full': fit(0.5, 0.5)}


def test_doubling_multiplies_by_the_laws_of_the_same_method(fits):
    data, model = carrying.carry(fits, 'lora', 500.0, 4e5)
    assert set(data.by_group) == {'translation/lora', 'summary/lora'} == set(model.by_group)
    assert (data.what, model.what, data.away, model.away) == ('examples', 'model_size', 1.0, 1.0)
    for group, alpha, beta in (('translation/lora', 0.2, 0.1), ('summary/lora', 0.1, 0.3)):
        assert data.by_group[group].value == pytest.approx(2**-beta, rel=0.01)
        assert data.by_group[group].low < 2**-beta < data.by_group[group].high
        assert model.by_group[group].value == pytest.approx(2**-alpha, rel=0.01)
    assert data.span.value == pytest.approx(2**-0.2, rel=0.01)
    assert data.span.low == data.by_group['summary/lora'].low
    assert data.span.high == data.by_group['translation/lora'].high


def test_variants_go_by_their_method_and_strangers_have_nothing(fits):
    assert set(carrying.carry(fits, 'full_bias', 500.0, 4e5)[0].by_group) == {'summary/full'}
    assert carrying.carry(fits, 'prompt', 500.0, 4e5) == []


def test_outside_of_what_was_measured_the_nearest_place_answers(fits):
    data, model = carrying.carry(fits, 'lora', 20480.0, 1e4)
    assert data.away == pytest.approx(10.0) and model.away == pytest.approx(0.1)
    assert data.span == carrying.carry(fits, 'lora', 2048.0, 1e5)[0].span
    text = ' '.join(scaling_text.carried_sentences([data, model], 0.5, 'the study'))
    assert '10 times the largest measured' in text and '0.1 of the smallest measured' in text
    assert f'{0.5 * data.span.low:.3g} to {0.5 * data.span.high:.3g}' in text and 'not a measurement' in text
