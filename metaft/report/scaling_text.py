"""Advice of scaling laws as Markdown: for the terminal, a file, and the report of a finetuning job."""

import math
from collections.abc import Sequence

from metaft.scaling.advice import PASSES, Advice, Basis, Crossing, Interval, Option, Step
from metaft.scaling.carrying import Carried

_LARGEST_TABLE = 40  # options listed, the best ones


def markdown(advice: Advice) -> str:
    """Returns the whole answer."""
    parts = [
        f'# Finetuning with {advice.examples:,.0f} examples',
        '\n\n'.join(sentences(advice)),
        '## Options, the lowest expected loss first',
        _options(advice),
        '## Where one overtakes another',
        _crossings(advice),
        '## What this rests on',
        '\n'.join(f'- {_basis(group, basis)}' for group, basis in advice.basis.items()),
        _costs(advice),
    ]
    return '\n\n'.join(parts) + '\n'


def sentences(advice: Advice) -> list[str]:
    """Returns the answer in three sentences or four: the choice, a cheaper one, twice the data, the next size."""
    choice, cheap = advice.choice, advice.cheapest_alike
    found = [
        f'Lowest expected loss: {name(choice, advice)}, {_interval(choice.loss)} (95 %), the best of '
        f'{len(advice.options)} options in {choice.best_probability:.0%} of draws{_outside(choice.extrapolated)}.'
    ]
    if cheap != choice:
        found.append(
            f'Cheapest that is not clearly worse: {name(cheap, advice)}, {_interval(cheap.loss)}, at '
            f'{cheap.cost / choice.cost:.2g} times its cost{_outside(cheap.extrapolated)}.'
        )
    found.append(f'Twice the data would change the loss by {_step(choice.twice_the_data)}.')
    if choice.next_size is not None:
        found.append(f'{advice.size_factor} {choice.next_size.to:,.4g} would change it by {_step(choice.next_size)}.')
    return found


def name(option: Option, advice: Advice) -> str:
    """Returns an option in words."""
    return option.group if option.size is None else f'{option.group} at {advice.size_factor} {option.size:,.4g}'


def _options(advice: Advice) -> str:
    ranked = sorted(advice.options, key=lambda option: option.loss.value)
    rows = [
        (
            name(option, advice),
            _interval(option.loss),
            'unknown' if math.isnan(option.cost) else f'{option.cost:.3g}',
            f'{option.best_probability:.0%}',
            _change(option.twice_the_data),
            '' if option.next_size is None else f'{_change(option.next_size)} (x{option.next_size.cost_ratio:.3g})',
            'yes' if option.extrapolated else '',
        )
        for option in ranked[:_LARGEST_TABLE]
    ]
    head = ('option', 'expected loss', 'cost', 'best in', 'twice the data (cost x2)', 'next size', 'extrapolated')
    more = len(ranked) - len(rows)
    return _table(head, rows) + (f'\n\n{more} options with a higher loss are not listed.' if more else '')


def _crossings(advice: Advice) -> str:
    low, high = advice.crossing_range
    if not advice.crossings:
        return 'There is one law only.'
    rows = [
        (f'{c.first} / {c.second}', '' if c.factor is None else f'{c.factor} {c.value:,.4g}', _crossing(c))
        for c in advice.crossings
    ]
    text = _table(('pair', 'at', f'examples at which they cross, looked for from {low:,.0f} to {high:,.0f}'), rows)
    if advice.pairs_left_out:
        text += f'\n\n{advice.pairs_left_out} pairs among groups with a higher loss are left out.'
    return text


def _crossing(c: Crossing) -> str:
    found = c.found
    better = {'first': c.first, 'second': c.second}
    share = f'{found.probability:.0%} of draws'
    if found.data_size is None:
        return f'no crossover in range, {better[found.better_below]} is better throughout ({share} have one)'
    interval = 'no interval' if found.low is None else f'{found.low:,.0f} to {found.high:,.0f}'
    text = f'{found.data_size:,.0f} ({interval}, in {share}); above it {better[found.better_above]}'
    return text + (', outside of the data that both were measured at' if c.extrapolated else '')


def _basis(group: str, basis: Basis) -> str:
    ranges = ', '.join(
        f'{what} {low:,.4g} to {high:,.4g} ({number} values)' if number > 1 else f'{what} {low:,.4g}'
        for what, (low, high, number) in basis.ranges.items()
    )
    form = f'the {basis.form} law{"" if basis.irreducible else " without irreducible loss"}'
    text = (
        f'{group}: {form}, {basis.points} points of {basis.measurements} measurements; {ranges}; '
        f'log-RMSD {basis.log_rmsd:.2g}, noise of one measurement {basis.noise:.2g}'
    )
    open_ones = '; '.join(f'{constant} ({why})' for constant, why in basis.not_identified.items())
    return text + (f'; left open by the data: {open_ones}' if open_ones else '')


def _costs(advice: Advice) -> str:
    passes = ', '.join(f'{method} {count:.0f}' for method, count in PASSES.items())
    size = f'{advice.size_factor} times ' if advice.size_factor else ''
    return (
        f'Costs are relative FLOPs, {size}examples times passes over the weights ({passes}, another group 3), with the '
        f'same number of epochs; the cheapest option is 1. Intervals hold where the law does, extrapolated or not.'
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple('---' for _ in head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _interval(interval: Interval) -> str:
    return f'{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]'


def _change(step: Step) -> str:
    return f'{step.change.value:+.2g} [{step.change.low:+.2g}, {step.change.high:+.2g}]'


def _step(step: Step) -> str:
    return f'{_change(step)} at {step.cost_ratio:.3g} times the cost{_outside(step.extrapolated)}'


def _outside(extrapolated: tuple[str, ...]) -> str:
    return f'; extrapolated: {" and ".join(extrapolated)}' if extrapolated else ''


def carried_sentences(found: Sequence[Carried], loss: float, source: str) -> list[str]:
    """Says what doubling is expected to bring on a task with this loss, by laws of other tasks.

    Args:
      found: of `carrying.carry`; nothing is said of nothing.
      loss: of the task at hand, as it is.
      source: what the laws are of, in words.
    """
    if not found:
        return []
    lines = []
    for one in found:
        what = 'the examples' if one.what == 'examples' else f'the {one.what.replace("_", " ")}'
        groups = ', '.join(f'{group} {_interval(factor)}' for group, factor in one.by_group.items())
        away = ''
        if one.away > 1.0:
            away = f'; what is at hand is {one.away:.3g} times the largest measured, whose factor this is'
        elif one.away < 1.0:
            away = f'; what is at hand is {one.away:.2g} of the smallest measured, whose factor this is'
        lines.append(
            f'Twice {what}: the loss times {one.span.value:.3g}, so {loss * one.span.value:.3g} instead of '
            f'{loss:.3g}, with the span of all laws {loss * one.span.low:.3g} to {loss * one.span.high:.3g} '
            f'(factors: {groups}{away}).'
        )
    return [*lines, f'This is carried over from {source}: an expectation, not a measurement of this task.']
