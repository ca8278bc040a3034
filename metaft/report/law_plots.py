"""Figures of fitted scaling laws: curves with bands on logarithmic axes, and residuals."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaft.scaling import fitting
from metaft.scaling.fitting import Fit
from metaft.scaling.points import Points

_COLUMNS = 5
_PANEL_INCHES = (3.2, 2.6)
_GRID = 60


def plot_curves(fits: Mapping[str, Fit], held_out: Mapping[str, Points], path: Path) -> None:
    """Draws one panel a group: measured points, the law with its 95 % band, and the points kept out of the fit.

    A law with factors gets one curve a value of its last-listed combination of factors.

    Args:
      fits: by group.
      held_out: by group, may be empty.
      path: the PNG file to write.
    """
    figure, axes = _panels(len(fits))
    for panel, (group, fit) in zip(axes, fits.items()):
        kept_out = held_out[group]
        series = np.unique(np.concatenate([_series(fit.points), _series(kept_out)]), axis=0)
        for colour, row in zip(_colours(len(series)), series):
            mine, out = (points.where((_series(points) == row).all(axis=1)) for points in (fit.points, kept_out))
            _draw_curve(panel, fit, mine, out, colour, label=_name(fit.points, row))
        panel.set(xscale='log', yscale='log', xlabel='finetuning examples', ylabel='loss')
        panel.set_title(group, fontsize=8)
        if 1 < len(series) <= 8:
            panel.legend(fontsize=5)
    _save(figure, path)


def plot_methods(
    tasks: Mapping[str, Mapping[str, Fit]],
    held_out: Mapping[str, Mapping[str, Points]],
    path: Path,
    factor: str = 'model_size',
) -> None:
    """Draws one panel a task and value of a factor: the methods' points, their laws, 95 % bands, and points kept out.

    Args:
      tasks: task -> method -> fit; all laws speak of `factor`.
      held_out: task -> method -> points of `factor` that the fit did not see; drawn as crosses, may be empty.
      path: the PNG file to write.
      factor: what is varied from panel to panel.
    """
    sizes = {task: sorted({x for fit in fits.values() for x in _own(fit, factor)}) for task, fits in tasks.items()}
    methods = list(dict.fromkeys(method for fits in tasks.values() for method in fits))
    colours = dict(zip(methods, _colours(len(methods))))
    rows, columns = len(tasks), max(map(len, sizes.values()))
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey='row')
    for row, (task, fits) in zip(axes, tasks.items()):
        for panel, size in zip(row, sizes[task]):
            for method, fit in fits.items():
                points, number = fit.points, fit.points.factors.index(factor)
                mine = points.where((points.member_IX[:, number] > 0) & (points.factors_IX[:, number] == size))
                rest = held_out[task][method]
                rest = rest.where(rest.factors_IX[:, rest.factors.index(factor)] == size)
                if len(mine):
                    _draw_curve(panel, fit, mine, rest, colours[method], label=method)
            panel.set(xscale='log', yscale='log')
            panel.set_title(f'{task}, {factor} {size:,.0f}', fontsize=8)
            panel.tick_params(labelsize=6, which='both')
        row[0].set_ylabel('loss', fontsize=7)
    for panel in axes[-1]:
        panel.set_xlabel('finetuning examples', fontsize=7)
    axes[0][0].legend(fontsize=6)
    _save(figure, path)


def _own(fit: Fit, factor: str) -> np.ndarray:
    """Returns the values of a factor in its own series."""
    number = fit.points.factors.index(factor)
    return fit.points.factors_IX[fit.points.member_IX[:, number] > 0, number]


def plot_residuals(fits_of_forms: Mapping[str, Mapping[str, Fit]], path: Path) -> None:
    """Draws, one panel a form, log measured minus log predicted loss against the data size, one colour a group."""
    figure, axes = _panels(len(fits_of_forms))
    for panel, (form, fits) in zip(axes, fits_of_forms.items()):
        for colour, fit in zip(_colours(len(fits)), fits.values()):
            panel.plot(fit.points.data_size_I, fit.residuals_I, '.', markersize=3, color=colour, alpha=0.7)
        panel.axhline(0.0, color='0.5', linewidth=0.8)
        panel.set(xscale='log', xlabel='finetuning examples', ylabel='log residual')
        panel.set_title(form, fontsize=8)
    _save(figure, path)


def _draw_curve(panel: Axes, fit: Fit, mine: Points, out: Points, colour, label: str) -> None:
    row = mine if len(mine) else out
    sizes = np.concatenate([mine.data_size_I, out.data_size_I])
    size_I = np.geomspace(sizes.min(), sizes.max(), _GRID)
    grid = dataclasses.replace(row.where(np.zeros(_GRID, int)), data_size_I=size_I)
    low_I, high_I = np.percentile(fitting.predict_draws(fit, grid), [2.5, 97.5], axis=0)
    panel.fill_between(size_I, low_I, high_I, color=colour, alpha=0.2, linewidth=0)
    panel.plot(size_I, fitting.predict(fit, grid), color=colour, linewidth=1)
    panel.plot(mine.data_size_I, mine.loss_I, '.', color=colour, markersize=4, label=label)
    panel.plot(out.data_size_I, out.loss_I, 'x', color=colour, markersize=4)


def _series(points: Points) -> np.ndarray:
    return np.concatenate([points.factors_IX, points.member_IX], axis=1)


def _name(points: Points, row: np.ndarray) -> str:
    return ', '.join(f'{name} {value:g}' for name, value in zip(points.factors, row))


def _colours(number: int):
    return matplotlib.colormaps['viridis'](np.linspace(0.0, 0.9, max(number, 1)))


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = min(number, _COLUMNS)
    rows = -(-number // columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout='constrained')
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    for panel in axes:
        panel.tick_params(labelsize=6, which='both')
        panel.xaxis.label.set_fontsize(7)
        panel.yaxis.label.set_fontsize(7)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130)
