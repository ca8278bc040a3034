"""Train, validation and test: by document, so that what is asked in a test stands in no training document.

Documents that largely repeat each other count as one. Where there are too few documents, passages are split instead.
"""

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from metaft.errors import DataError
from metaft.synthesis import checks
from metaft.synthesis.documents import Document
from metaft.tasks.dataset import SPLIT_SHARES

SAME_DOCUMENT = 0.5  # Jaccard similarity of five-word runs from which two documents tell the same
MAX_SHARE = 0.25  # of all examples that a document may bring into validation or test; more, and passages are split
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class SourcedExample:
    """An example and the span of the document it was made from."""

    question: str
    answer: str
    context: str  # the passage
    document: str
    start: int
    end: int

    @property
    def id(self) -> str:
        """Names the example: document, span, and the question's own mark."""
        return f'{self.document}:{self.start}-{self.end}:{self.mark}'

    @property
    def mark(self) -> str:
        """Tells apart the questions of one passage, the same whatever else is in the data."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:8]


class Splits(NamedTuple):
    """Examples by split, what was left out as a repetition, and whether documents or passages were split."""

    examples: dict[str, list[SourcedExample]]
    duplicates: list[SourcedExample]
    unit: str


def split(examples: Sequence[SourcedExample], documents: Sequence[Document], *, similarity: float, seed: int) -> Splits:
    """Splits examples and takes out near-duplicates, within and across splits; the test split's copy is kept.

    Args:
      examples: the good ones.
      documents: all of them.
      similarity: from which two examples repeat each other (`checks.near_duplicates`).
      seed: of the draw of documents.

    Raises:
      DataError: there are too few examples for three splits.
    """
    told = same_documents(documents)
    side = _draw(Counter(told[e.document] for e in examples), seed)
    unit, part_of = 'document', lambda e: told[e.document]
    if side is None:
        unit, part_of = 'passage', lambda e: (e.document, e.start)
        side = _draw(Counter(map(part_of, examples)), seed, most=1.0)
    if side is None:
        raise DataError(
            f'{len(examples)} examples are too few for train, validation and test; give more documents, or a lower '
            '--passage_characters'
        )
    ordered = sorted(examples, key=lambda e: -SPLITS.index(side[part_of(e)]))
    repeats = checks.near_duplicates([(e.question, e.answer) for e in ordered], similarity)
    found: dict[str, list[SourcedExample]] = {name: [] for name in SPLITS}
    duplicates: list[SourcedExample] = []
    for example, twin in zip(ordered, repeats, strict=True):
        (found[side[part_of(example)]] if twin is None else duplicates).append(example)
    empty = [name for name, part in found.items() if not part]
    if empty:
        raise DataError(
            f'without the {len(duplicates)} near-duplicates no example is left for {" and ".join(empty)}; give more '
            'documents, or a higher --duplicate_similarity'
        )
    return Splits(found, duplicates, unit)


def _draw(sizes: Mapping, seed: int, most: float = MAX_SHARE) -> dict | None:
    """Draws units into test and validation until each has its share of the examples, the rest into train.

    Returns:
      unit -> split, or None where a split would be empty, or hold more than `most` of the examples.
    """
    units = sorted(sizes, key=str)
    random.Random(f'documents {seed}').shuffle(units)
    total = sum(sizes.values())
    side = {}
    for name, share in zip(('test', 'validation'), SPLIT_SHARES[:0:-1], strict=True):
        held = 0
        while units and (held == 0 or held < round(share * total)):
            unit = units.pop()
            side[unit] = name
            held += sizes[unit]
        if held > most * total:
            return None
    return side | dict.fromkeys(units, 'train') if units else None


def same_documents(documents: Sequence[Document]) -> dict[str, str]:
    """Returns for each document's name the first one that tells (nearly) the same, itself if none does."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=SAME_DOCUMENT, num_perm=checks.NUM_PERMUTATIONS, weights=(0.2, 0.8))
    first: dict[str, str] = {}
    runs: dict[str, set[str]] = {}
    for document in documents:
        runs[document.name] = checks.shingles(checks.words(document.text), 5)
        sketch = checks.minhash(runs[document.name])
        twins = [t for t in index.query(sketch) if checks.jaccard(runs[t], runs[document.name]) >= SAME_DOCUMENT]
        first[document.name] = first[min(twins)] if twins else document.name
        index.insert(document.name, sketch)
    return first
