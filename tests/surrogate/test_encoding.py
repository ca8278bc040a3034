"""Configurations with missing, unknown and out-of-range entries become numbers; what is strange is said."""

import json

import numpy as np
import pytest

from metaft.errors import InputError
from metaft.surrogate import transforms
from metaft.surrogate.coverage import coverage
from metaft.surrogate.encoding import Axis, Encoding

CONFIGURATIONS = [
    {'method': 'lora', 'learning_rate': 10.0**-e, 'rank': 2**e, 'dropout': 0.05 * e, 'bias': e % 2 == 0}
    for e in range(1, 5)
] + [{'method': 'full', 'learning_rate': 10.0 ** -(e + 2), 'rank': None, 'bias': None} for e in range(1, 5)]
META_FEATURES = [{'size': float(s), 'entropy': np.nan if s == 1 else 0.5, 'constant': 3.0} for s in range(1, 8)]


@pytest.fixture
def encoding():
    return Encoding.fit(CONFIGURATIONS, META_FEATURES, np.array([0.0, 1.0, np.nan, 2.0]))


def test_a_configuration_has_a_place_in_its_range_and_presence_bits(encoding):
    encoded_CE = encoding.configurations(CONFIGURATIONS)
    assert encoded_CE.shape == (8, encoding.num_hyperparameters)
    assert encoded_CE.dtype == np.float32
    assert np.abs(encoded_CE).max() <= 1.0 + 1e-6
    rank = 2 * list(encoding.numbers).index('rank')
    np.testing.assert_allclose(encoded_CE[:4, rank], np.linspace(-1, 1, 4), atol=1e-6)  # 2, 4, 8, 16: logarithmic
    np.testing.assert_array_equal(encoded_CE[:, rank + 1], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(encoded_CE[4:, rank], 0)


def test_the_learning_rate_is_also_placed_within_its_method(encoding):
    within = encoding.configurations(CONFIGURATIONS)[:, 2 * len(encoding.numbers)]
    np.testing.assert_allclose(within, np.tile(np.linspace(1, -1, 4), 2), atol=1e-6)


def test_unknown_levels_keys_and_values_outside_are_encoded_and_reported(encoding):
    strange = {'method': 'prompt', 'learning_rate': 10.0, 'rank': 4, 'optimizer': 'sgd'}
    (row_E,) = encoding.configurations([strange])
    assert np.isfinite(row_E).all()
    assert 1.0 < np.abs(row_E).max() <= 1.25
    found = coverage(encoding, META_FEATURES[0], [strange])
    assert set(found.hyperparameters) == {'method', 'learning_rate', 'optimizer'}
    assert not found.is_inside
    assert any(sentence.startswith('learning_rate reaches 10; ') for sentence in found.sentences())
    assert coverage(encoding, META_FEATURES[3], CONFIGURATIONS).sentences() == []


def test_a_far_task_is_said_to_be_far(encoding):
    near, far = coverage(encoding, {'size': 7.5}), coverage(encoding, {'size': 100.0, 'constant': 9.0})
    assert near.is_inside and not far.is_inside
    assert far.sentences() == [
        'size is 100; the training tasks have 1 to 7',
        'constant is 9; the training tasks have 3',
    ]


def test_missing_meta_features_become_bits(encoding):
    task_Z = encoding.task({'size': 4.0, 'unheard_of': 1.0}, 'loss')
    assert task_Z.shape == (encoding.num_task_features,)
    names = list(encoding.centers)
    np.testing.assert_array_equal(task_Z[len(names) : 2 * len(names)], [name != 'size' for name in names])
    np.testing.assert_array_equal(task_Z[-2:], [1, 0])


def test_sizes_are_told_as_they_are(encoding):
    sizes = ('log_num_train_examples', 'log_num_parameters')
    tasks = [dict(zip(sizes, pair, strict=True)) | {'other': 1.0} for pair in ((3.0, 12.0), (5.0, 12.0), (8.0, 13.0))]
    fitted = Encoding.fit(CONFIGURATIONS, tasks, np.zeros(1))
    np.testing.assert_allclose(fitted.sizes({'log_num_train_examples': 25.0, 'log_num_parameters': 22.0}), [20.0, 10.0])
    np.testing.assert_array_equal(fitted.sizes({'log_num_parameters': np.nan}), [0.0, 0.0])
    assert fitted.size_places == (0, 1) and list(fitted.centers)[2] == 'other'
    np.testing.assert_array_equal(encoding.sizes({sizes[0]: 25.0}), [0.0, 0.0])  # never seen in training
    assert encoding.size_places == ()


def test_an_encoding_survives_json(encoding):
    again = Encoding.from_json(json.loads(json.dumps(encoding.to_json())))
    assert again == encoding
    np.testing.assert_array_equal(again.configurations(CONFIGURATIONS), encoding.configurations(CONFIGURATIONS))


@pytest.mark.parametrize(
    ('values', 'log'),
    [
        (10.0 ** np.linspace(-5, -1, 50), True),
        ([8, 16, 32, 64, 128], True),
        (np.linspace(0.001, 0.99, 50), False),  # wide in ratio, but evenly spread: a dropout rate
        ([0.0, 0.01, 0.1, 10.0], False),
        ([2.0, 2.0], False),
    ],
)
def test_logarithms_are_taken_where_values_were_chosen_so(values, log):
    assert Axis.of(values).log == log


@pytest.mark.parametrize(('metric', 'values'), [('loss', [0.0, 0.01, 1.0, 2.5, 9.0]), ('exact_match', [0.0, 0.3, 1.0])])
def test_a_transform_is_monotone_and_has_an_inverse(metric, values):
    y = transforms.transform(np.array(values), metric, reference_value=2.5)
    assert (np.diff(y) > 0).all()
    np.testing.assert_allclose(transforms.inverse(y, metric, 2.5), values, atol=1e-5)
    assert np.isnan(transforms.transform(np.array([np.nan]), metric, 2.5)).all()
    assert transforms.transform(np.array([np.inf]), metric, 2.5) == np.float32(transforms.WORST[metric])
    with pytest.raises(InputError, match='loss, exact_match'):
        transforms.transform(y, 'accuracy', 2.5)


def test_a_diverging_loss_counts_as_diverged():
    np.testing.assert_array_equal(
        transforms.transform(np.array([50.0, 1e9, np.inf]), 'loss', 2.5), transforms.WORST['loss']
    )
