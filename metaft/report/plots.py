"""Figures, written as PNG. Object-oriented matplotlib on the Agg canvas: no global state, no display."""

import os
from typing import IO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from metaft.report import wording
from metaft.report.data import ReportData, started_runs

BLUE, ORANGE, GREY, RED, INK = '#1f5fa8', '#c96a12', '#9aa5b1', '#b3372b', '#22303c'
_NUM_PANELS = 6
_WIDTH_INCHES = 7.0
_DPI = 150
_BAND = 0.18  # opacity

Target = str | os.PathLike | IO[bytes]


def learning_curves(path: Target, data: ReportData) -> None:
    """Draws all measured curves over the incumbent's prediction, and below the runs that got most of the budget.

    Bands hold 80 %: blue, predicted before anything was run; orange, the prediction for what remains of a frozen run,
    given everything that was measured. The dashed line is the model before finetuning.
    """
    runs = started_runs(data)
    shown = _most_advanced(runs)
    num_rows = -(-len(shown) // 2)
    figure = _figure(height=3.6 + 2.3 * num_rows)
    grid = figure.add_gridspec(1 + num_rows, 2, height_ratios=[1.5] + [1.0] * num_rows)
    limits = _value_limits(data, shown)
    overview = figure.add_subplot(grid[0, :])
    _overview(overview, data, runs)
    _value_axis(overview, data, limits)
    overview.set_ylabel(wording.value_name(data.metric))
    overview.set_xlabel('training examples seen')
    for k, (_, run) in enumerate(shown.iterrows()):
        axes = figure.add_subplot(grid[1 + k // 2, k % 2])
        _panel(axes, data, run)
        _value_axis(axes, data, limits)
    figure.savefig(path, dpi=_DPI, format='png')


def prediction_plot(path: Target, data: ReportData) -> None:
    """Draws where each run stands against what was predicted for that point before anything was run, with its 80 %."""
    runs = started_runs(data)
    runs = runs[np.isfinite(runs['last_value'])]
    figure, reference = _figure(height=4.4), data.observations.reference_value
    axes = figure.add_subplot()
    values = np.concatenate([runs['last_value'], runs['predicted_value'], [reference]])
    top = min(values.max(), 1.8 * max(reference, 0.05))
    ends = (values.min() - 0.05 * (top - values.min()) - 1e-3, top * 1.05 + 1e-3)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.axhline(reference, color=INK, linestyle='--', linewidth=1, label='no finetuning')
    axes.hlines(runs['last_value'], runs['predicted_low'], runs['predicted_high'], color=BLUE, alpha=_BAND, linewidth=4)
    _by_state(axes, runs, 'predicted_value', 'last_value')
    axes.set(xlim=ends, ylim=ends, xlabel=f'predicted {wording.VALUE_NAMES[data.metric]}, 80 %', ylabel='measured')
    _finish(axes)
    figure.savefig(path, dpi=_DPI, format='png')


def cost_plot(path: Target, data: ReportData) -> None:
    """Draws what each run cost against what was predicted for it before it started."""
    runs = started_runs(data)
    runs = runs[(runs['spent_seconds'] > 0) & (runs['predicted_seconds'] > 0)]
    figure = _figure(height=4.4)
    axes = figure.add_subplot()
    both = np.concatenate([runs['spent_seconds'], runs['predicted_seconds']]) if len(runs) else np.array([0.1, 10.0])
    ends = np.array([both.min() / 1.6, both.max() * 1.6])
    axes.fill_between(ends, ends / 1.25, ends * 1.25, color=GREY, alpha=0.25, linewidth=0, label='within a quarter')
    axes.plot(ends, ends, color=GREY, linewidth=1)
    _by_state(axes, runs, 'predicted_seconds', 'spent_seconds')
    axes.set(xscale='log', yscale='log', xlim=ends, ylim=ends, xlabel='predicted seconds', ylabel='spent seconds')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ''))
    _finish(axes)
    figure.savefig(path, dpi=_DPI, format='png')


def _by_state(axes: Axes, runs: pd.DataFrame, x: str, y: str) -> None:
    for state, color in (('frozen', GREY), ('finished', BLUE), ('diverged', RED), ('incumbent', ORANGE)):
        part = runs[runs['state'] == state]
        if len(part):
            axes.plot(part[x], part[y], 'o', color=color, markersize=6, markeredgecolor='white', label=state)


def _finish(axes: Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, ncols=5, loc='lower left', bbox_to_anchor=(-0.02, 1.0))


def _overview(axes: Axes, data: ReportData, runs: pd.DataFrame) -> None:
    x_T, values_CT = data.examples_T, data.observations.values_CT
    for state, color, marker in (('frozen', GREY, '.'), ('finished', GREY, 'o'), ('diverged', RED, 'x')):
        rows = runs[runs['state'] == state]['configuration_index'].to_list()
        for c in rows:
            measured = np.isfinite(values_CT[c])
            axes.plot(x_T[measured], values_CT[c][measured], color=color, marker=marker, markersize=3, linewidth=1)
        if rows:
            axes.plot([], [], color=color, marker=marker, linewidth=1, label=f'{state} ({len(rows)})')
    incumbent = data.observations.incumbent()
    if incumbent is not None:
        c, t, value = incumbent
        forecast, measured = data.zero_shot_forecast, np.isfinite(values_CT[c])
        axes.fill_between(x_T, forecast.low_CT[c], forecast.high_CT[c], color=BLUE, alpha=_BAND, linewidth=0)
        axes.plot(x_T, forecast.median_CT[c], ':', color=BLUE, linewidth=1, label='predicted before it ran, 80 %')
        axes.plot(x_T[measured], values_CT[c][measured], 'o-', color=BLUE, linewidth=2.2, markersize=4, label='its run')
        label = f'incumbent: {wording.number(value)}'
        axes.plot(x_T[t], value, '*', color=ORANGE, markersize=14, label=label, zorder=5)
    axes.plot([], [], color=INK, linestyle='--', linewidth=1, label='no finetuning')
    axes.legend(frameon=False, fontsize=8.5, ncols=3, loc='lower left', bbox_to_anchor=(-0.02, 1.0))


def _panel(axes: Axes, data: ReportData, run: pd.Series) -> None:
    c, x_T = int(run['configuration_index']), data.examples_T
    values_T = data.observations.values_CT[c]
    measured, before, after = np.isfinite(values_T), data.zero_shot_forecast, data.final_forecast
    axes.fill_between(x_T, before.low_CT[c], before.high_CT[c], color=BLUE, alpha=_BAND, linewidth=0)
    axes.plot(x_T, before.median_CT[c], color=BLUE, linewidth=1, linestyle=':')
    if run['state'] != 'diverged' and measured.any() and not measured[-1]:
        rest = np.arange(len(x_T)) >= np.flatnonzero(measured)[-1]
        axes.fill_between(
            x_T[rest], after.low_CT[c][rest], after.high_CT[c][rest], color=ORANGE, alpha=_BAND, linewidth=0
        )
        axes.plot(x_T[rest], after.median_CT[c][rest], color=ORANGE, linewidth=1, linestyle=':')
    axes.plot(x_T[measured], values_T[measured], color=INK, linewidth=1.5, marker='o', markersize=3.5)
    name = wording.configuration({**data.configurations[c], 'batch_size': None})
    axes.set_title(f'{c}: {name}\n{run["state"]} at {wording.fraction(run["fraction"])}', loc='left', fontsize=8.5)


def _most_advanced(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the incumbent's run, then those with the most seconds."""
    is_incumbent = runs['state'] == 'incumbent'
    return runs.assign(first=is_incumbent).sort_values(['first', 'spent_seconds'], ascending=False).head(_NUM_PANELS)


def _value_limits(data: ReportData, shown: pd.DataFrame) -> tuple[float, float]:
    """Returns limits that hold the base model, the measurements and the predictions shown; not a loss that explodes."""
    reference, rows = data.observations.reference_value, shown['configuration_index'].to_numpy(int)
    values = data.observations.values_CT[np.isfinite(data.observations.values_CT)]
    top = min(max([reference, *np.atleast_1d(values)]), 1.8 * max(reference, 0.05))
    low = min([reference, *values, *data.zero_shot_forecast.low_CT[rows].ravel()])
    margin = 0.06 * (top - low) or 0.1
    return low - margin, top + margin


def _value_axis(axes: Axes, data: ReportData, limits: tuple[float, float]) -> None:
    x_T = data.examples_T
    axes.axhline(data.observations.reference_value, color=INK, linestyle='--', linewidth=1)
    axes.set_xscale('log', base=2)
    axes.set_xlim(x_T[0] / 1.1, x_T[-1] * 1.1)
    axes.set_ylim(*limits)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.xaxis.set_major_locator(FixedLocator(list(x_T[::-1][::4])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{round(value):,}'))


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout='constrained')
    figure.patch.set_facecolor('white')
    return figure
