"""Figures of the comparison of searchers: regret and rank over the budget, and scores of predicted curves."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PANEL_INCHES = (4.6, 3.6)
_FLOOR = 1e-3  # of a regret on a logarithmic axis
_SCORES = {
    'log_likelihood': 'log likelihood (nats, scaled to [0, 1])',
    'mse': 'mean squared error',
    'coverage_80': 'coverage of 80 % intervals',
    'spearman': 'Spearman of final values',
    'cost_ape': 'median relative error of cost',
}


def plot_regret(frame: pd.DataFrame, path: Path) -> None:
    """Draws normalised regret with its standard error, and the mean rank, over the budget.

    Args:
      frame: `regret.csv`.
      path: the PNG file to write.
    """
    figure, (regret, rank) = _panels(2)
    for method, part, style in _methods(frame):
        x, mean = 100.0 * part['budget_fraction'], part['normalized_regret']
        low, high = mean - part['standard_error'], mean + part['standard_error']
        regret.fill_between(
            x, low.clip(lower=_FLOOR), high.clip(lower=_FLOOR), alpha=0.12, color=style['color'], linewidth=0
        )
        regret.plot(x, mean.clip(lower=_FLOOR), label=method, **style)
        rank.plot(x, part['rank'], label=method, **style)
    regret.set(xscale='log', yscale='log', xlabel='budget (%)', ylabel='normalised regret')
    rank.set(xscale='log', xlabel='budget (%)', ylabel='mean rank')
    _save(figure, rank, path)


def plot_prediction(frame: pd.DataFrame, path: Path) -> None:
    """Draws each score over the number of observed points.

    Args:
      frame: `prediction.csv`.
      path: the PNG file to write.
    """
    figure, panels = _panels(len(_SCORES))
    for panel, (score, title) in zip(panels, _SCORES.items()):
        for method, part, style in _methods(frame):
            panel.plot(part['context_size'], part[score], label=method, **style)
        panel.set_xscale('symlog', linthresh=10)
        panel.set(xlabel='observed points', ylabel=title)
    panels[2].axhline(0.8, color='0.5', linewidth=0.8)
    _save(figure, panels[-1], path)


def _methods(frame: pd.DataFrame):
    """Yields (method, its rows, line style); metaft's lines are thick."""
    names = frame['method'].drop_duplicates().tolist()
    colours = matplotlib.colormaps['tab20']
    for index, name in enumerate(names):
        width = 2.2 if name.startswith('metaft') else 1.0
        style = {'color': colours(index % colours.N), 'linewidth': width, 'marker': '.', 'markersize': 4}
        yield name, frame[frame['method'] == name], style


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_PANEL_INCHES[0] * number + 1.6, _PANEL_INCHES[1]), layout='constrained')
    return figure, [figure.add_subplot(1, number, place + 1) for place in range(number)]


def _save(figure: Figure, last: Axes, path: Path) -> None:
    handles, labels = last.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right center', fontsize=7)
    figure.savefig(path, dpi=130)
