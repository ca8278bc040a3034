"""A small, complete report in closed form: six runs of forty candidates, one of them diverged."""

import numpy as np

from metaft.report.data import Forecast, Outcome, ReportData
from metaft.search.observations import Observations, Suggestion
from metaft.search.portfolio import portfolio
from metaft.search.ranking import rank
from metaft.search.task_mixture import TaskMixture
from tests.search.beliefs import GaussianPrediction

FRACTIONS_T = 2.0 ** (-np.arange(12, -1, -1) / 2)


def configurations(num=40):
    methods = ('lora', 'full', 'prompt')
    return [
        {
            'method': methods[c % 3],
            'learning_rate': float(10.0 ** (-4 + 3 * c / num)),
            'batch_size': (8, 16, 32)[c % 3],
            'rank': 8 if c % 3 == 0 else None,
            'prompt_length': 4 if c % 3 == 2 else None,
            'schedule': 'cosine',
        }
        for c in range(num)
    ]


def report_data(**changes):
    """Returns the record; keyword arguments replace fields."""
    final_C = 0.6 + 0.04 * np.arange(40)
    mean_CT = 3.0 + (FRACTIONS_T**0.3)[None, :] * (final_C[:, None] - 3.0)
    prediction = GaussianPrediction(mean_CT, np.full((40, 13), 0.15), np.outer(5.0 + 0.1 * np.arange(40), FRACTIONS_T))
    observations = Observations.empty(40, FRACTIONS_T, reference_value=3.1)
    for c, until in ((0, 13), (1, 5), (2, 9), (3, 3), (7, 1)):
        for t in range(until):
            cost = 1.1 * prediction.cost_seconds_CT[c, t]
            observations = observations.observe(c, t, float(mean_CT[c, t]) + 0.02 * (c - 1), cost)
    observations = observations.observe(12, 0, 3.0, 0.1).observe(12, 2, np.nan, 0.3)
    known_WCT = np.stack([mean_CT, mean_CT[::-1]])
    mixture = TaskMixture(known_WCT, np.log([0.75, 0.25]), np.full(13, 0.15), lambda values: values)
    data = {
        'task': 'museum',
        'metric': 'loss',
        'asked': {'model': 'phi3_tiny', 'data': 'museum.jsonl, 80 questions <of a person>'},
        'budget': 12.0,
        'spent': 11.4,
        'max_examples': 4096,
        'configurations': configurations(),
        'observations': observations,
        'zero_shot_forecast': Forecast.of(prediction),
        'final_forecast': Forecast.of(prediction),
        'ranking': rank(configurations(), prediction),
        'portfolio': portfolio(configurations(), prediction, mixture, 3.1, size=3),
        'zero_shot': Outcome(None, 0, 3.1, 3.05, 0.02),
        'incumbent': Outcome(configurations()[0], 512, 0.58, 0.61, 0.8),
        'default': Outcome(configurations()[3], 256, 1.2, 1.25, 0.4),
        'next_suggestion': Suggestion(2, 10),
        'next_command': 'launch/local.sh tune --train=museum.jsonl --budget_seconds=24',
        'warnings': ('The base model lies outside of what the surrogate has seen.',),
        'versions': {'metaft': '0.1.0', 'jax': '0.10.2'},
        'seed': 3,
    }
    return ReportData(**data | changes)
