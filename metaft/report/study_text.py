"""The tidy table of a scaling study, and its means in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

FACTORS = ('model_size', 'pretraining_tokens', 'adapter_size')
_MEASURED = ('loss', 'validation_loss', 'exact_match', 'other_loss', 'learning_rate', 'best_examples', 'examples',
             'cpu_seconds')  # fmt: skip
COLUMNS = ('group', 'task', 'method', *FACTORS, 'data_size', 'seed', *_MEASURED)


def table(records: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, int]:
    """Returns the table that `scaling_fit` reads, and the number of runs left out since no checkpoint was finite.

    A row of data size 0 is the base itself, once a group and base, from the runs that recorded `zero_shot_loss`.

    Args:
      records: a run each, with its group.
    """
    untrained = {
        (r['task'], r['width'], r['tokens']): (r['zero_shot_loss'], r['zero_shot_other_loss'])
        for r in records
        if 'zero_shot_loss' in r
    }
    rows, seen = [], set()
    for record in records:
        base = (record['task'], record['width'], record['tokens'])
        row = {**record, 'loss': record['test_loss'], 'pretraining_tokens': record['tokens']}
        if base in untrained and (record['group'], base) not in seen:
            seen.add((record['group'], base))
            loss, other_loss = untrained[base]
            nothing = dict.fromkeys(_MEASURED, float('nan')) | {'loss': loss, 'other_loss': other_loss}
            rows.append({**row, **nothing, 'data_size': 0})
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
            part[trained]['other_loss'].mean() for trained in (part['data_size'] > 0, part['data_size'] == 0)
        )
        parts += [
            f'## {group}',
            'Mean test loss in nats a token, by examples (0: no finetuning).',
            _markdown(means),
            f'Loss on what the base knew: {before:.3f} before, {after:.3f} after, mean over all runs.',
        ]
    return '\n\n'.join(parts) + '\n'


def _markdown(frame: pd.DataFrame) -> str:
    head = [*frame.index.names, *(f'{column:g}' for column in frame.columns)]
    rows = [
        [*(f'{value:g}' for value in index), *(f'{value:.3f}' for value in values)]
        for index, values in zip(frame.index, frame.to_numpy())
    ]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [head, ['---'] * len(head), *rows])
