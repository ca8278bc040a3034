"""Numbers, configurations and conclusions in words. Pure: the terminal and the page say the same."""

import math
from collections.abc import Mapping
from typing import Any

from metaft.report.data import Outcome, ReportData

_SPACE = '\N{NO-BREAK SPACE}'  # between a number and its unit
METHOD_NAMES = {'lora': 'LoRA', 'dora': 'DoRA', 'full': 'full finetuning', 'prompt': 'prompt tuning'}
VALUE_NAMES = {'loss': 'validation loss', 'exact_match': 'validation error (1 − exact match)'}
# What tells configurations apart most; the others are listed by name.
_SHORT = {'learning_rate': 'learning rate', 'prompt_length': 'length', 'batch_size': 'batch'}
_MAIN = ('rank', 'prompt_length', 'learning_rate', 'batch_size')


def number(value: float | None, digits: int = 3) -> str:
    """Writes so many significant digits, without an exponent between 0.001 and 100,000; a dash for no number."""
    if value is None or not math.isfinite(value):
        return '–'
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
        return f'{value:,.{decimals}f}'
    mantissa, exponent = f'{value:.{digits - 2}e}'.split('e')
    return f'{mantissa}e{int(exponent)}'


def percent(share: float | None) -> str:
    """Writes a share as a percentage."""
    if share is None or not math.isfinite(share):
        return '–'
    return f'{100 * share:.{0 if share in (0, 1) else 1}f}{_SPACE}%'


def seconds(value: float | None) -> str:
    """Writes a time span: 0.21 s, 4.3 s, 2 min 05 s, 3 h 20 min."""
    if value is None or not math.isfinite(value):
        return '–'
    if value < 99.5:
        return f'{number(value, 2)}{_SPACE}s'
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f'{minutes}{_SPACE}min {rest:02d}{_SPACE}s'
    return f'{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min'


def amount(value: float | None, unit: str) -> str:
    """Writes a part of a budget: a time span, or a number of FLOPs or tokens."""
    if unit == 'seconds':
        return seconds(value)
    return f'{number(value)}{_SPACE}{"FLOPs" if unit == "flops" else unit}'


def fraction(value: float | None) -> str:
    """Writes a share of a full run: 1/64, 1/8, .71, full."""
    if value is None or not math.isfinite(value):
        return '–'
    if value >= 1:
        return 'full'
    inverse = 1 / value
    return f'1/{round(inverse)}' if abs(inverse - round(inverse)) < 1e-6 * inverse else f'{value:.2g}'.lstrip('0')


def configuration(values: Mapping[str, Any] | None, short: bool = True) -> str:
    """Names a configuration: 'LoRA, rank 8, learning rate 0.003, batch 16', and the rest of it unless short."""
    if values is None:
        return 'no finetuning'
    method = 'dora' if values.get('dora') else values.get('method')
    parts = [METHOD_NAMES.get(str(method), str(method))] if method else []
    names = [*_MAIN, *(() if short else (name for name in values if name not in _MAIN and name != 'method'))]
    for name in names:
        value = values.get(name)
        if value is not None and value == value:
            text = value if isinstance(value, (str, bool, int)) else number(float(value), 2)
            parts.append(f'{_SHORT.get(name, name.replace("_", " "))}{_SPACE}{text}')
    return ', '.join(parts) or ', '.join(f'{name} {value}' for name, value in values.items())


def value_name(metric: str) -> str:
    """Names the metric's value with its unit."""
    return VALUE_NAMES[metric] + (' (nats per answer token)' if metric == 'loss' else '')


def answer(data: ReportData) -> tuple[str, str]:
    """Says in two sentences what to do, and what the search went through to find it."""
    best, zero = data.incumbent, data.zero_shot
    started = int(data.observations.started_C.sum())
    diverged = int(data.observations.diverged_C.sum())
    runs = f'{started} run{"s" if started != 1 else ""}'
    effort = f'The search started {runs} of {len(data.configurations)} candidates'
    effort += f', {diverged} of which diverged,' if diverged else ''
    effort += f' and spent {amount(data.spent, data.unit)} of {amount(data.budget, data.unit)}'
    if best is None:
        return 'Nothing can be recommended: no run gave a measurement.', f'{effort}; give it a larger budget.'
    if not _is_better(best, zero, data.metric):
        return (
            f'Use the model as it is: the best finetuned checkpoint reached a test {_score(best)}, the model without '
            f'finetuning {_score(zero)}.',
            f'{effort}.',
        )
    first = (
        f'Finetune with {configuration(best.configuration)} for {best.budget_steps:,} steps: test {_score(best)}, '
        f'against {_score(zero)} without finetuning'
    )
    if data.default is not None:
        other = f'{_score(data.default)} with the default configuration and the same budget'
        is_better = _is_better(best, data.default, data.metric)
        first += f' and {other}' if is_better else f'; but the default configuration did better here: {other}'
    return f'{first}.', f'{effort}.'


def next_step(data: ReportData) -> str:
    """Says what the same budget again would be spent on first."""
    again = f'With another {amount(data.budget, data.unit)}'
    if data.next_suggestion is None:
        return f'{again} the surrogate expects no improvement that is worth its cost.'
    c, t = data.next_suggestion
    forecast = data.final_forecast
    stands = int(data.observations.last_grid_index_C[c])
    fractions_T = data.observations.fractions_T
    verb = 'start' if stands < 0 else 'thaw' if stands < len(fractions_T) - 1 else 'go on with'
    return (
        f'{again} the search would {verb} configuration {c} ({configuration(data.configurations[c])}) and take it to '
        f'{fraction(fractions_T[t])} of a full run first; at its end it expects a {VALUE_NAMES[data.metric]} of '
        f'{number(forecast.median_CT[c, -1])} (80 %: {number(forecast.low_CT[c, -1])} to '
        f'{number(forecast.high_CT[c, -1])}); the best so far is {number(data.observations.best_value)}.'
    )


def cost_error(predicted: list[float], spent: list[float]) -> float:
    """Returns the median of |log(predicted / spent)| as a relative error; NaN of nothing."""
    errors = sorted(abs(math.log(p / s)) for p, s in zip(predicted, spent) if p > 0 and s > 0)
    if not errors:
        return math.nan
    middle = len(errors) // 2
    return math.expm1(errors[middle] if len(errors) % 2 else 0.5 * (errors[middle - 1] + errors[middle]))


def _is_better(one: Outcome, other: Outcome, metric: str) -> bool:
    if metric == 'loss':
        return one.test_loss < other.test_loss
    return one.test_exact_match > other.test_exact_match


def _score(outcome: Outcome) -> str:
    return f'loss {number(outcome.test_loss)} and exact match {percent(outcome.test_exact_match)}'
