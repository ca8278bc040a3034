"""The findings of a scaling study as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metaft.report.study_text import OTHERS
from metaft.scaling.advice import Interval
from metaft.scaling.crossovers import Crossover
from metaft.scaling.findings import Comparison, Winner

_KEYS = {'heldout_log_rmsd': 'held-out log-RMSD', 'fit_log_rmsd': 'log-RMSD of the fit', 'aicc': 'AICc'}


def markdown(found: Mapping[str, Any]) -> str:
    """Returns the whole text, from what `experiments.scaling_findings.findings` found."""
    parts = [
        '# Which findings hold here',
        'Every interval is 95 %. Exponents: profiles of the fit; their differences: bootstrap draws.',
        '## Which form holds',
        '\n'.join(
            f'- {_form(pair, key, one)}' for pair, compared in found['forms'].items() for key, one in compared.items()
        ),
        '## Exponents',
        _exponents(found),
        '\n'.join(
            f'- {group}: alpha of the model less that of its pretraining {_interval(gap)}'
            for group, gap in found['alpha_model_less_pretraining'].items()
        ),
        '\n'.join(
            f'- {task}: beta of {pair} {_interval(gap)}'
            for task, gaps in found['beta_differences'].items()
            for pair, gap in gaps.items()
        ),
        '## Which method wins',
        'By the runs: the lowest mean loss, and in brackets the methods not clearly worse (paired by seed).',
    ]
    for place, winners in found['winners'].items():
        parts += [f'### {place}', _winners(winners), _crossings(found['crossings'][place])]
    parts += [
        '## What it costs on other tasks',
        'Change of the loss by finetuning, in nats a token.',
        _others(found['others']),
    ]
    if found['each_size']:
        parts += [
            '## Learning rates tuned at every size',
            'By model size: the rate, and the ratio of losses with it to those with the rate of one size.',
            _each_size(found['each_size']),
        ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _form(pair: str, key: str, one: Comparison | None) -> str:
    first, second = pair.split(' / ')
    if one is None:
        return f'{_KEYS[key]}, {first} to {second}: fewer than two groups have both'
    gap, unit = one.difference, 'ratio'
    if key == 'aicc':
        unit = 'difference'
    else:
        gap = Interval(*(math.exp(value) for value in (gap.value, gap.low, gap.high)))
    better = f'{first} is lower in {one.better} of {one.groups} groups'
    return f'{_KEYS[key]}, {first} to {second}: {unit} {_interval(gap)}; {better}'


def _exponents(found: Mapping[str, Any]) -> str:
    names = [name for name in found['alpha'] if found['alpha'][name]]
    cells = lambda group: [
        _interval(found['alpha'][name][group]) if group in found['alpha'][name] else '' for name in names
    ]
    rows = [[group, *cells(group), _interval(beta)] for group, beta in found['beta'].items()]
    return _table(['group', *(f'alpha of {name}' for name in names), 'beta'], rows)


def _winners(winners: Sequence[Winner]) -> str:
    factor = next(name for name in winners[0].sizes if name != 'data_size')
    sizes = sorted({winner.sizes['data_size'] for winner in winners})
    cell = {(winner.sizes[factor], winner.sizes['data_size']): _winner(winner) for winner in winners}
    rows = [
        [f'{value:,.4g}', *(cell.get((value, size), '') for size in sizes)]
        for value in sorted({winner.sizes[factor] for winner in winners})
    ]
    return _table([factor, *(f'{size:,.0f}' for size in sizes)], rows)


def _winner(winner: Winner) -> str:
    alike = [method for method in winner.loss if method != winner.best and method not in winner.clearly_worse]
    return f'{winner.best} {winner.loss[winner.best]:.3f}' + (f' ({", ".join(alike)})' if alike else '')


def _crossings(crossings: Mapping[str, Mapping[float, Crossover]]) -> str:
    lines = []
    for pair, by_size in crossings.items():
        names = dict(zip(('first', 'second'), pair.split(' and '), strict=True))
        said = '; '.join(f'{size:,.4g}: {_crossing(one, names)}' for size, one in by_size.items())
        lines.append(f'- {pair} cross, by their laws: {said}')
    return '\n'.join(lines)


def _crossing(one: Crossover, names: Mapping[str, str]) -> str:
    if one.data_size is None:
        return f'nowhere in range, {names[one.better_below]} is better ({one.probability:.0%} of draws cross)'
    interval = '' if one.low is None else f' [{one.low:,.0f}, {one.high:,.0f}]'
    return f'at {one.data_size:,.0f}{interval}, above it {names[one.better_above]} ({one.probability:.0%} of draws)'


def _others(others: Mapping[str, Mapping[tuple[str, str, int], Interval]]) -> str:
    keys = list(dict.fromkeys(key for changes in others.values() for key in changes))
    rows = [
        [*map(str, key), *(_interval(changes[key]) if key in changes else '' for changes in others.values())]
        for key in keys
    ]
    return _table(['task', 'method', 'examples', *(OTHERS[column] for column in others)], rows)


def _each_size(groups: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = sorted({size for said in groups.values() for size in said['log_ratio']})
    rows = []
    for group, said in groups.items():
        rows.append(
            [
                group,
                f'{said["one_size_learning_rate"]:g}',
                *(_retuned(said, size) for size in sizes),
                _interval(said['alpha_model_size']),
                _interval(said['one_size_alpha_model_size']),
            ]
        )
    head = ['group', 'rate of one size', *(f'{size:,.4g}' for size in sizes)]
    return _table([*head, 'alpha of model_size', 'the same with one rate'], rows)


def _retuned(said: Mapping[str, Any], size: float) -> str:
    if size not in said['log_ratio']:
        return ''
    rate = said['learning_rate'][size]
    if rate == said['one_size_learning_rate']:
        return 'the same'
    gap = said['log_ratio'][size]
    return f'{rate:g}: {_interval(Interval(*(math.exp(value) for value in (gap.value, gap.low, gap.high))))}'


def _interval(interval: Interval) -> str:
    return f'{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(line)} |' for line in [head, ['---'] * len(head), *rows])
