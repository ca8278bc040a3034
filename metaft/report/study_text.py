"""The tidy table of a scaling study, and its means in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

FACTORS = ('model_size', 'pretraining_tokens', 'adapter_size')
OTHERS = {  # column -> what it is the loss on
    'known_loss': 'what the base knew',
    'reading_loss': 'facts told in the context',
    'brackets_loss': 'what it knew, in a new answer format',
    'few_shot_loss': 'the same with four demonstrations',
}
_MEASURED = ('loss', 'validation_loss', 'exact_match', *OTHERS, 'learning_rate', 'best_examples', 'examples',
             'cpu_seconds')  # fmt: skip
COLUMNS = ('group', 'task', 'method', *FACTORS, 'data_size', 'seed', *_MEASURED)


def table(records: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, int]:
    """Returns the table that `scaling_fit` reads, and the number of runs left out since no checkpoint was finite.

    A row of data size 0 is the base itself, once a group and base, from the runs that recorded `untrained_loss`.

    Args:
      records: a run each, with its group.
    """
    untrained = {
        (r['task'], r['width'], r['tokens']): {name: r[f'untrained_{name}'] for name in ('loss', *OTHERS)}
        for r in records
        if 'untrained_loss' in r
    }
    rows, seen = [], set()
    for record in records:
        base = (record['task'], record['width'], record['tokens'])
        row = {**record, 'loss': record['test_loss'], 'pretraining_tokens': record['tokens']}
        if base in untrained and (record['group'], base) not in seen:
            seen.add((record['group'], base))
            rows.append({**row, **dict.fromkeys(_MEASURED, float('nan')), **untrained[base], 'data_size': 0})
        if row['loss'] is not None:
            rows.append(row)
    left_out = sum(record['test_loss'] is None for record in records)
    return pd.DataFrame(rows, columns=list(COLUMNS)), left_out


def markdown(study: pd.DataFrame, rates: Mapping[str, float], left_out: int, edge: Sequence[str]) -> str:
    """Returns the report.

    Args:
      study: of `table`.
      rates: learning rates that were found best, by task/method/width.
      left_out: runs without a finite checkpoint.
      edge: names in `rates` whose rate was the first or last tried.
    """
    parts = ['# Scaling study', f'{len(study)} rows; runs without a finite checkpoint, left out: {left_out}.']
    parts.append('Learning rates: ' + ', '.join(f'{place} {rate:g}' for place, rate in rates.items()) + '.')
    if edge:
        parts.append(f'At the edge of those tried, so perhaps not the best: {", ".join(edge)}.')
    for group, part in study.groupby('group', sort=False):
        means = part.pivot_table(index=list(FACTORS), columns='data_size', values='loss', aggfunc='mean')
        after, before = (
            part[trained][list(OTHERS)].mean() for trained in (part['data_size'] > 0, part['data_size'] == 0)
        )
        others = [f'{what} {before[name]:.3f} -> {after[name]:.3f}' for name, what in OTHERS.items()]
        parts += [
            f'## {group}',
            'Mean test loss in nats a token, by examples (0: no finetuning).',
            _markdown(means),
            f'Loss on other tasks, before and after, mean over all runs: {"; ".join(others)}.',
        ]
    return '\n\n'.join(parts) + '\n'


def _markdown(frame: pd.DataFrame) -> str:
    head = [*frame.index.names, *(f'{column:g}' for column in frame.columns)]
    rows = [
        [*(f'{value:g}' for value in index), *(f'{value:.3f}' for value in values)]
        for index, values in zip(frame.index, frame.to_numpy())
    ]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [head, ['---'] * len(head), *rows])
