"""The report: one self-contained page. Images are inside, nothing is fetched, it reads on a phone."""

import base64
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from metaft.report import plots, wording
from metaft.report.data import Outcome, ReportData, started_runs

_NUM_RANKED = 20
_NUM_RUNS = 20


def write(path: str | os.PathLike, data: ReportData) -> None:
    """Writes the page."""
    Path(path).write_text(render(data), encoding='utf-8')


def render(data: ReportData) -> str:
    """Returns the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('metaft.report'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = started_runs(data)
    predicted, spent = runs['predicted_seconds'].tolist(), runs['spent_seconds'].tolist()
    return environment.get_template('report.html.j2').render(
        task=data.task,
        answer=wording.answer(data),
        warnings=list(data.warnings),
        asked=dict(data.asked),
        outcomes=_outcomes(data),
        incumbent=None if data.incumbent is None else _hyperparameters(data.incumbent.configuration or {}),
        value_name=wording.value_name(data.metric),
        curves=_image(plots.learning_curves, data),
        runs=[_run(data, run) for run in runs.head(_NUM_RUNS).to_dict('records')],
        num_runs=len(runs),
        num_diverged=int(data.observations.diverged_C.sum()),
        num_candidates=len(data.configurations),
        ranking=_ranking(data),
        portfolio=_portfolio(data),
        prediction_plot=_image(plots.prediction_plot, data) if len(runs) else None,
        cost_plot=_image(plots.cost_plot, data) if len(runs) else None,
        cost_error=wording.percent(wording.cost_error(predicted, spent)),
        spent_in_runs=wording.seconds(float(np.sum(spent))),
        spent=wording.amount(data.spent, data.unit),
        budget=wording.amount(data.budget, data.unit),
        next_step=wording.next_step(data),
        next_command=data.next_command,
        scaling=list(data.scaling),
        versions=dict(data.versions),
        seed=data.seed,
    )


def _outcomes(data: ReportData) -> list[dict[str, str]]:
    named: list[tuple[str, Outcome | None]] = [
        ('found by the search', data.incumbent),
        ('default configuration', data.default),
        ('no finetuning', data.zero_shot),
    ]
    return [
        {
            'name': name,
            'configuration': wording.configuration(outcome.configuration),
            'steps': f'{outcome.budget_steps:,}',
            'validation_loss': wording.number(outcome.validation_loss),
            'test_loss': wording.number(outcome.test_loss),
            'test_exact_match': wording.percent(outcome.test_exact_match),
        }
        for name, outcome in named
        if outcome is not None
    ]


def _run(data: ReportData, run: dict[str, Any]) -> dict[str, str]:
    c = int(run['configuration_index'])
    return {
        'index': str(c),
        'state': run['state'],
        'configuration': wording.configuration(data.configurations[c]),
        'reached': wording.fraction(run['fraction']),
        'best': wording.number(run['best_value']),
        'best_at': wording.fraction(run['at_fraction']),
        'predicted': wording.number(run['predicted_value']),
        'spent': wording.seconds(run['spent_seconds']),
        'predicted_seconds': wording.seconds(run['predicted_seconds']),
    }


def _ranking(data: ReportData) -> list[dict[str, str]]:
    runs = {run['configuration_index']: run for run in started_runs(data).to_dict('records')}
    rows = []
    for ranked in data.ranking.head(_NUM_RANKED).to_dict('records'):
        run = runs.get(ranked['configuration_index'])
        rows.append(
            {
                'place': str(ranked['place']),
                'index': str(ranked['configuration_index']),
                'configuration': wording.configuration(data.configurations[ranked['configuration_index']]),
                'predicted': wording.number(ranked['predicted_value']),
                'interval': f'{wording.number(ranked["predicted_low"])} to {wording.number(ranked["predicted_high"])}',
                'seconds': wording.seconds(ranked['predicted_seconds']),
                'measured': '' if run is None else wording.number(run['best_value']),
                'at': '' if run is None else wording.fraction(run['at_fraction']),
                'state': '' if run is None else run['state'],
            }
        )
    return rows


def _portfolio(data: ReportData) -> list[dict[str, str]]:
    rows = [] if data.portfolio is None else data.portfolio.to_dict('records')
    return [
        {
            'place': str(row['place']),
            'index': str(row['configuration_index']),
            'configuration': wording.configuration(data.configurations[row['configuration_index']]),
            'predicted': wording.number(row['predicted_value']),
            'expected_best': wording.number(row['expected_best']),
        }
        for row in rows
    ]


def _hyperparameters(configuration: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else wording.number(value) if isinstance(value, float) else f'{value}'
        for name, value in configuration.items()
        if value is not None
    }


def _image(draw: Callable[[io.BytesIO, ReportData], None], data: ReportData) -> str:
    """Returns the figure as a data URI."""
    buffer = io.BytesIO()
    draw(buffer, data)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')
