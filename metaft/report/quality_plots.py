"""Pictures of a meta-dataset's quality, from the frames of `metaft.metadataset.quality`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from metaft.metadataset.quality import kind_of
from metaft.report.plots import BLUE, GREY, INK, ORANGE, RED

_DPI = 110
_COLOURS = (BLUE, ORANGE, GREY, RED, INK)


def spread(path: Path, runs: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Draws every run's final loss as a multiple of the loss before finetuning, a row a task."""
    figure = Figure(figsize=(7.5, 1.2 + 0.19 * len(summary)), layout='constrained')
    axes = figure.add_subplot()
    order = sorted(summary.index, key=lambda task: (kind_of(task), summary['best'][task]))
    for row, task in enumerate(order):
        own = runs[runs['task'] == task]
        ratio = np.clip(own['value'] / own['reference'], 0.0, 3.0)
        axes.plot(ratio, np.full(len(ratio), row), '|', color=GREY, markersize=5)
        facts, reference = summary.loc[task], summary['reference'][task]
        for name, sign, colour in (('best', 'o', BLUE), ('median', 's', INK), ('default', 'D', ORANGE)):
            axes.plot(
                min(facts[name] / reference, 3.0),
                row,
                sign,
                color=colour,
                markersize=4,
                label=name if not row else None,
            )
    axes.axvline(1.0, color=RED, linewidth=0.8)
    axes.set_xlim(0, 3.05)
    axes.set_yticks(range(len(order)), order, fontsize=6)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel('final validation loss / loss before finetuning (3 and more at the right)')
    figure.legend(loc='outside upper center', ncols=3, frameon=False)
    figure.savefig(path, dpi=_DPI)


def correlation_matrix(path: Path, pairs: pd.DataFrame) -> None:
    """Draws the rank correlations between tasks among learning configurations, tasks by kind."""
    tasks = sorted({*pairs['a'], *pairs['b']}, key=lambda task: (kind_of(task), task))
    matrix = pd.DataFrame(np.nan, tasks, tasks)
    for row in pairs.itertuples():
        matrix.loc[row.a, row.b] = matrix.loc[row.b, row.a] = row.learning
    side = 2.5 + 0.13 * len(tasks)
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.add_subplot()
    axes.set_facecolor('#d8dce0')
    image = axes.imshow(matrix.to_numpy(), vmin=-1, vmax=1, cmap='RdBu')
    axes.set_yticks(range(len(tasks)), tasks, fontsize=5)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=5, rotation=90)
    figure.colorbar(image, shrink=0.7, label='Spearman; grey: too few learn on both')
    figure.savefig(path, dpi=_DPI)


def early_ranks(path: Path, table: pd.DataFrame) -> None:
    """Draws how well the ranks at a fraction of the budget predict the final ones: tasks, and their quartiles."""
    figure = Figure(figsize=(6.0, 3.6), layout='constrained')
    axes = figure.add_subplot()
    fractions = np.asarray(table.columns, np.float64)
    axes.plot(fractions, table.to_numpy().T, color=GREY, linewidth=0.5, alpha=0.6)
    low, middle, high = (table.quantile(q) for q in (0.25, 0.5, 0.75))
    axes.fill_between(fractions, low, high, color=BLUE, alpha=0.2, linewidth=0, label='half of the tasks')
    axes.plot(fractions, middle, color=BLUE, label='median task')
    axes.set_xscale('log', base=2)
    axes.set_xlim(fractions[0] / 1.1, 1.1)  # also where no task has a correlation
    axes.set_ylim(-1.02, 1.02)
    axes.set_xlabel('fraction of a full run')
    axes.set_ylabel('Spearman with the final rank')
    axes.legend(frameon=False)
    figure.savefig(path, dpi=_DPI)


def costs(path: Path, runs: pd.DataFrame) -> None:
    """Draws seconds over FLOPs of finished runs by method."""
    figure = Figure(figsize=(6.0, 3.6), layout='constrained')
    axes = figure.add_subplot()
    finished = runs[runs['status'] == 'finished']
    groups = finished.groupby(['base_model', 'configuration.method'])
    for number, ((base, method), group) in enumerate(groups):
        label = method if finished['base_model'].nunique() == 1 else f'{base}, {method}'
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(group['cost_flops'], group['cost_seconds'], '.', color=colour, markersize=3, alpha=0.5, label=label)
    if len(finished):
        axes.set_xscale('log')
        axes.set_yscale('log')
    axes.set_xlabel('FLOPs of a run')
    axes.set_ylabel('seconds of a run')
    axes.legend(frameon=False, markerscale=3, fontsize=7)
    figure.savefig(path, dpi=_DPI)


def importance(path: Path, shares: dict[str, pd.DataFrame]) -> None:
    """Draws the importance of hyperparameters over tasks, a panel a group of runs."""
    figure = Figure(figsize=(7.5, 3.8), layout='constrained')
    for axes, (title, table) in zip(np.atleast_1d(figure.subplots(1, len(shares))), shares.items(), strict=True):
        order = table.mean().sort_values().index
        axes.boxplot([table[name].dropna() for name in order], orientation='horizontal', tick_labels=list(order),
                     showfliers=False, medianprops={'color': ORANGE})  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel('share of importance, over tasks', fontsize=8)
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=_DPI)
