"""The ranking as a table."""

import numpy as np
import pytest

from metaft.search.ranking import rank
from tests.search.beliefs import GaussianPrediction, curves, seconds


def test_the_table_is_in_the_order_of_the_predicted_final_value():
    configurations = [
        {'method': 'lora', 'learning_rate': 1e-3, 'rank': 8},
        {'method': 'full', 'learning_rate': 1e-4},
        {'method': 'lora', 'learning_rate': 1e-2, 'rank': 32},
    ]
    prediction = GaussianPrediction(curves([1.5, 2.0, 1.0]), np.full((3, 5), 0.1), seconds([10.0, 20.0, 30.0]))
    frame = rank(configurations, prediction)
    assert frame['place'].tolist() == [1, 2, 3] and frame['configuration_index'].tolist() == [2, 0, 1]
    assert frame['predicted_seconds'].tolist() == [30.0, 10.0, 20.0]
    assert frame['rank'].tolist()[:2] == [32, 8] and frame['rank'].isna()[2]
    assert frame['method'].tolist() == ['lora', 'lora', 'full']
    np.testing.assert_allclose(frame['predicted_value'], [1.0, 1.5, 2.0])
    np.testing.assert_allclose(frame['predicted_high'] - frame['predicted_low'], 2 * 1.2815516 * 0.1)  # 80 %


def test_whole_numbers_stay_whole_beside_missing_ones(tmp_path):
    configurations = [{'lora_rank': 8}, {'lora_rank': None}, {'lora_rank': 32}]
    prediction = GaussianPrediction(curves([1.5, 2.0, 1.0]), np.full((3, 5), 0.1), seconds([10.0, 20.0, 30.0]))
    rank(configurations, prediction).to_csv(tmp_path / 'ranking.csv', index=False)
    lines = (tmp_path / 'ranking.csv').read_text().splitlines()
    assert [line.split(',')[-1] for line in lines] == ['lora_rank', '32', '8', '']


def test_lengths_must_agree():
    prediction = GaussianPrediction(curves([1.5]), np.full((1, 5), 0.1), seconds([10.0]))
    with pytest.raises(ValueError, match='2 configurations, but predictions of 1'):
        rank([{}, {}], prediction)
