"""Numbers and conclusions in words."""

import dataclasses
import math

import numpy as np
import pytest

from metaft.report import wording
from metaft.report.data import Outcome, started_runs
from metaft.search.observations import Suggestion
from tests.report.examples import report_data


def plain(text):
    """Returns the text with ordinary spaces between numbers and units."""
    return text.replace('\N{NO-BREAK SPACE}', ' ')


@pytest.mark.parametrize(
    'value, text',
    [
        (0.0, '0'),
        (0.684, '0.684'),
        (12.345, '12.3'),
        (1234.5, '1,234'),
        (-2.5, '-2.50'),
        (3e-5, '3.0e-5'),
        (2.5e7, '2.5e7'),
        (math.nan, '–'),
        (math.inf, '–'),
        (None, '–'),
    ],
)
def test_numbers(value, text):
    assert wording.number(value) == text


@pytest.mark.parametrize(
    'value, text',
    [
        (0.21, '0.21 s'),
        (4.32, '4.3 s'),
        (99.0, '99 s'),
        (125.0, '2 min 05 s'),
        (12_000.0, '3 h 20 min'),
        (None, '–'),
    ],
)
def test_time_spans(value, text):
    assert plain(wording.seconds(value)) == text


@pytest.mark.parametrize(
    'value, text', [(1 / 64, '1/64'), (2**-0.5, '.71'), (1.0, 'full'), (0.25, '1/4'), (math.nan, '–')]
)
def test_fractions(value, text):
    assert wording.fraction(value) == text


def test_configurations():
    lora = {
        'method': 'lora',
        'learning_rate': 3e-3,
        'rank': 8,
        'batch_size': 16,
        'prompt_length': None,
        'dropout': 0.05,
    }
    assert plain(wording.configuration(lora)) == 'LoRA, rank 8, learning rate 0.0030, batch 16'
    assert plain(wording.configuration(lora, short=False)).endswith('dropout 0.050')
    assert plain(wording.configuration(lora | {'dora': True})).startswith('DoRA, rank 8')
    assert wording.configuration(None) == 'no finetuning'
    assert plain(wording.configuration({'a': 1})) == 'a 1'


def test_the_answer_follows_the_test_data():
    data = report_data()
    first, second = wording.answer(data)
    assert first.startswith('Finetune with LoRA') and 'and loss 1.25' in first and second.endswith('.')
    better = dataclasses.replace(data, default=Outcome(data.configurations[3], 256, 0.5, 0.5, 0.9))
    assert 'but the default configuration did better here' in wording.answer(better)[0]
    harmful = dataclasses.replace(data, zero_shot=Outcome(None, 0, 0.4, 0.4, 0.9))
    assert wording.answer(harmful)[0].startswith('Use the model as it is')
    assert wording.answer(dataclasses.replace(data, incumbent=None))[0].startswith('Nothing can be recommended')
    exact = dataclasses.replace(data, metric='exact_match', zero_shot=Outcome(None, 0, 0.1, 0.1, 0.5))
    assert wording.answer(exact)[0].startswith('Finetune')  # a better loss, but the share was asked for


def test_the_next_step_names_what_it_does():
    data = report_data()
    assert 'thaw configuration 2 (prompt tuning' in wording.next_step(data)
    assert 'start configuration 30' in wording.next_step(dataclasses.replace(data, next_suggestion=Suggestion(30, 4)))
    assert 'no improvement' in wording.next_step(dataclasses.replace(data, next_suggestion=None))


def test_runs_are_listed_with_where_they_stand():
    runs = started_runs(report_data()).set_index('configuration_index')
    assert runs['state'].to_dict() == {
        0: 'incumbent',
        1: 'frozen',
        2: 'frozen',
        3: 'frozen',
        7: 'frozen',
        12: 'diverged',
    }
    assert runs['best_value'].is_monotonic_increasing
    assert runs.loc[12, 'fraction'] == 1 / 32 and runs.loc[12, 'best_value'] == 3.0
    np.testing.assert_allclose(runs.loc[0, 'spent_seconds'], 1.1 * runs.loc[0, 'predicted_seconds'])


def test_the_cost_error_is_the_median_ratio():
    assert wording.cost_error([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert wording.cost_error([1.0, 1.0], [1.0, 1.21]) == pytest.approx(0.1)
    assert math.isnan(wording.cost_error([], []))


def test_the_record_checks_its_shapes():
    with pytest.raises(ValueError, match='39 configurations, but observations of 40'):
        report_data(configurations=report_data().configurations[:-1])
    with pytest.raises(ValueError, match='metric is'):
        report_data(metric='accuracy')
