"""A dataset's datasheet: what it holds, examples of it, how it was made, under which licence, as Markdown."""

import statistics
from collections.abc import Mapping, Sequence

from metaft.tasks.dataset import Dataset, Example

SPLITS = ('train', 'validation', 'test')


def datasheet(
    dataset: Dataset, *, made: str, knobs: Mapping[str, object], licence: str, notes: Sequence[str] = (), num: int = 3
) -> str:
    """Returns the datasheet.

    Args:
      dataset: what it is of.
      made: a sentence on how the examples came to be.
      knobs: the settings that made them.
      licence: under which they may be used.
      notes: further paragraphs, of Markdown.
      num: examples shown a split.
    """
    parts = [f'# {dataset.name}', made, f'Source: {dataset.source}', f'Licence: {licence}', *notes]
    parts += ['## Counts', _table(['split', *_COUNTS], [[s, *_counts(getattr(dataset, s))] for s in SPLITS])]
    parts += ['## Knobs', _table(['knob', 'value'], [[name, value] for name, value in knobs.items()])]
    parts += ['## Examples', _table(['split', 'context', 'question', 'answer'], _shown(dataset, num))]
    return '\n\n'.join(parts) + '\n'


_COUNTS = (
    'examples',
    'different questions',
    'different answers',
    'words a question (median)',
    'words an answer (median)',
    'with context',
)


def _counts(examples: Sequence[Example]) -> list[int | float]:
    return [
        len(examples),
        len({e.prompt for e in examples}),
        len({e.answer for e in examples}),
        statistics.median(len(e.question.split()) for e in examples),
        statistics.median(len(e.answer.split()) for e in examples),
        sum(bool(e.context) for e in examples),
    ]


def _shown(dataset: Dataset, num: int) -> list[list[str]]:
    return [[s, e.context, e.question, e.answer] for s in SPLITS for e in getattr(dataset, s)[:num]]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(_cell(entry) for entry in line) + ' |' for line in lines)


def _cell(entry: object) -> str:
    text = ' '.join(str(entry).replace('|', '\\|').split())
    return text if len(text) <= 160 else text[:157] + '...'
