"""The terminal while a job runs: the ranking, a live view of the search with the time left, what was found.

On a terminal the view of the search is redrawn in place. Elsewhere (a pipe, a log, CI) it becomes plain lines: one when
the incumbent gets better or a run diverges, else one every so many seconds of the budget.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metaft.report import wording
from metaft.report.data import Outcome
from metaft.search.observations import Incumbent, Observations, Suggestion

_PLAIN_LINES = 12  # of a search in which nothing happens
_PLAIN_WIDTH = 120  # columns where there is no terminal to ask


class Terminal:
    """Writes to one console."""

    def __init__(self, console: Console | None = None):
        console = Console(highlight=False) if console is None else console
        self.console = console if console.is_terminal else _plain(console)

    def say(self, text: str) -> None:
        """Writes one line."""
        self.console.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Writes a warning, so that it is seen."""
        self.console.print(Text.assemble(('warning: ', 'bold yellow'), text), soft_wrap=True)

    def meta_features(self, meta_features: Mapping[str, float | None], seconds: float) -> None:
        """Writes the meta-features in columns, and what they cost."""
        table = Table(title=f'{len(meta_features)} meta-features, {wording.seconds(seconds)}', **_PLAIN_TABLE)
        names = list(meta_features)
        columns = 3 if self.console.width >= 110 else 2
        for _ in range(columns):
            table.add_column('', no_wrap=True, overflow='ellipsis')
            table.add_column('', justify='right')
        height = -(-len(names) // columns)
        for row in range(height):
            part = [names[k] if k < len(names) else '' for k in range(row, columns * height, height)]
            table.add_row(
                *(text for name in part for text in (name, wording.number(meta_features[name]) if name else ''))
            )
        self.console.print(table)

    def ranking(self, ranking: pd.DataFrame, metric: str, num: int = 10) -> None:
        """Writes the first rows of a ranking, see `metaft.search.ranking.rank`."""
        title = (
            f'Zero-shot ranking of {len(ranking)} configurations: {wording.value_name(metric)} at the end of a full run'
        )
        self._configurations(title, ranking.head(num))

    def portfolio(self, portfolio: pd.DataFrame, metric: str) -> None:
        """Writes a portfolio, see `metaft.search.portfolio.portfolio`."""
        title = (
            f'To run {len(portfolio)} of them, these, in this order: the expected {wording.VALUE_NAMES[metric]} of the '
            'best so far'
        )
        self._configurations(title, portfolio)

    def _configurations(self, title: str, frame: pd.DataFrame) -> None:
        table = Table(title=title, **_PLAIN_TABLE)
        has_best = 'expected_best' in frame
        for name in ('place', *(['best so far'] if has_best else []), 'predicted', '80 % interval', 'seconds'):
            table.add_column(name, justify='right', no_wrap=True)
        hyperparameters = [name for name in _SHOWN if name in frame]
        for name in hyperparameters:
            table.add_column(name.replace('_', ' '), justify='left' if name == 'method' else 'right')
        for row in frame.to_dict('records'):
            interval = f'{wording.number(row["predicted_low"])} – {wording.number(row["predicted_high"])}'
            table.add_row(
                str(row['place']),
                *([wording.number(row['expected_best'])] if has_best else []),
                wording.number(row['predicted_value']),
                interval,
                wording.number(row['predicted_seconds'], 2),
                *(_cell(row[name]) for name in hyperparameters),
            )
        self.console.print(table)

    @contextlib.contextmanager
    def search(
        self,
        budget: float,
        configurations: Sequence[Mapping[str, Any]],
        observations: Observations,
        unit: str = 'seconds',
    ) -> Iterator['SearchView']:
        """Shows a search while the context lasts; call `update` of what it gives."""
        view = SearchView(self.console, budget, configurations, observations, unit)
        if not self.console.is_terminal:
            yield view
            return
        with Live(view, console=self.console, refresh_per_second=8, transient=True):
            yield view

    def results(self, outcomes: Mapping[str, Outcome | None]) -> None:
        """Writes what was found next to what it is compared with, in the given order."""
        table = Table(title='Results', **_PLAIN_TABLE)
        table.add_column('')
        for name in ('test loss', 'exact match', 'validation loss', 'steps'):
            table.add_column(name, justify='right', no_wrap=True)
        table.add_column('configuration')
        for name, outcome in outcomes.items():
            if outcome is not None:
                table.add_row(
                    name,
                    wording.number(outcome.test_loss),
                    wording.percent(outcome.test_exact_match),
                    wording.number(outcome.validation_loss),
                    f'{outcome.budget_steps:,}',
                    wording.configuration(outcome.configuration),
                )
        self.console.print(table)


class SearchView:
    """Where a search stands. Rich draws it; without a terminal `update` writes lines."""

    def __init__(
        self,
        console: Console,
        budget: float,
        configurations: Sequence[Mapping[str, Any]],
        observations: Observations,
        unit: str = 'seconds',
    ):
        self._console, self._budget, self._unit, self._configurations = console, budget, unit, configurations
        self._observations = observations
        self._spent, self._updated_at = 0.0, time.monotonic()
        self._advancing: tuple[Suggestion, ...] = ()
        self._said_at = -math.inf
        self._said: tuple[Incumbent | None, int] = (None, 0)

    def update(self, observations: Observations, spent: float, advancing: Sequence[Suggestion] = ()) -> None:
        """Takes in what was observed so far, and what is being advanced now."""
        self._observations, self._advancing = observations, tuple(advancing)
        self._spent, self._updated_at = spent, time.monotonic()
        if self._console.is_terminal:
            return
        state = (observations.incumbent(), int(observations.diverged_C.sum()))
        if state != self._said or spent - self._said_at >= self._budget / _PLAIN_LINES:
            self._console.print(Text(self.line()), soft_wrap=True)
            self._said_at, self._said = spent, state

    def line(self) -> str:
        """Returns the state as one line."""
        spent = f'{self._spent:.0f}' if self._unit == 'seconds' else wording.number(self._spent)
        parts = [f'{spent} of {wording.amount(self._budget, self._unit)}', f'incumbent {self._incumbent()}']
        if self._advancing:
            fractions_T = self._observations.fractions_T
            parts.append(
                'advancing ' + ', '.join(f'{c} to {wording.fraction(fractions_T[t])}' for c, t in self._advancing)
            )
        return ' · '.join([*parts, self._counts()])

    def __rich__(self) -> Group:
        spent = self._spent
        if self._unit == 'seconds':  # a long step: the clock goes on
            spent += time.monotonic() - self._updated_at
        share = min(spent / self._budget, 1.0) if self._budget else 1.0
        left = wording.amount(max(self._budget - spent, 0.0), self._unit)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=1.0, completed=share, width=40), Text(f'{left} left', style='bold'), self._counts()
        )
        rows = [Text.assemble(('incumbent  ', 'bold'), self._incumbent(), overflow='ellipsis', no_wrap=True)]
        rows += [
            Text.assemble(('advancing  ', 'bold'), self._step(step), overflow='ellipsis', no_wrap=True)
            for step in self._advancing
        ]
        return Group(head, *rows)

    def _incumbent(self) -> str:
        incumbent = self._observations.incumbent()
        if incumbent is None:
            return 'none yet'
        c, t, value = incumbent
        at = wording.fraction(self._observations.fractions_T[t])
        return f'{wording.number(value)} by {c} at {at} ({wording.configuration(self._configurations[c])})'

    def _step(self, step: Suggestion) -> str:
        c, t = step
        last = int(self._observations.last_grid_index_C[c])
        fractions_T = self._observations.fractions_T
        origin = 'started' if last < 0 else f'from {wording.fraction(fractions_T[last])}'
        return f'{c} to {wording.fraction(fractions_T[t])}, {origin} ({wording.configuration(self._configurations[c])})'

    def _counts(self) -> str:
        started, diverged = self._observations.started_C, self._observations.diverged_C
        advancing = [step.configuration_index for step in self._advancing]
        finished = (self._observations.last_grid_index_C == len(self._observations.fractions_T) - 1) & ~diverged
        frozen = started & ~diverged & ~finished
        frozen[advancing] = False
        return f'{frozen.sum()} frozen, {finished.sum()} finished, {diverged.sum()} diverged'


_SHOWN = ('method', 'learning_rate', 'rank', 'prompt_length', 'batch_size', 'schedule', 'targets')
_PLAIN_TABLE: Mapping[str, Any] = {'box': None, 'title_justify': 'left', 'title_style': 'bold', 'pad_edge': False}


def _plain(console: Console) -> Console:
    """Returns the console with a width that does not depend on where its output goes."""
    console.width = max(console.width, _PLAIN_WIDTH)
    return console


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or value != value:
        return '–'
    return wording.number(value, 2) if isinstance(value, float) else str(value)
