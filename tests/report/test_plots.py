"""Figures are written, for every state a search can end in."""

import io

import numpy as np
import pytest

from metaft.report import plots
from metaft.search.observations import Observations
from tests.report.examples import FRACTIONS_T, report_data

FIGURES = (plots.learning_curves, plots.prediction_plot, plots.cost_plot)


@pytest.mark.parametrize('draw', FIGURES, ids=lambda draw: draw.__name__)
def test_a_figure_is_a_png_that_shows_something(tmp_path, draw):
    from matplotlib.image import imread

    draw(tmp_path / 'figure.png', report_data())
    image = imread(tmp_path / 'figure.png')
    assert image.shape[0] > 300 and image.shape[1] > 900 and np.std(image[..., :3]) > 0.02


def test_drawing_does_not_touch_pyplot():
    import sys

    assert 'matplotlib.pyplot' not in sys.modules


@pytest.mark.parametrize('kind', ['nothing', 'one point', 'all diverged'])
def test_unfinished_searches_are_drawn_too(kind):
    observations = Observations.empty(40, FRACTIONS_T, 3.1)
    if kind == 'one point':
        observations = observations.observe(3, 2, 2.0, 0.5)
    if kind == 'all diverged':
        observations = observations.observe(3, 0, np.nan, 0.5).observe(4, 1, np.inf, 0.7)
    for draw in FIGURES:
        buffer = io.BytesIO()
        draw(buffer, report_data(observations=observations))
        assert buffer.getvalue().startswith(b'\x89PNG')
