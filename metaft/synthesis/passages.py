"""Plain text to passages: whole paragraphs together, up to a length, with their character spans."""

import dataclasses
import re

from metaft.synthesis.documents import Document

_PARAGRAPH = re.compile(r'\S(?:.*?\S)??(?=\n[^\S\n]*\n|\s*\Z)', re.DOTALL)
_SENTENCE_END = re.compile(r'(?<=[.!?。！？])["”’)]*\s+')
_SPACE = re.compile(r'\s+')
MIN_CHARACTERS = 40  # a shorter rest (a heading, a page number) goes with the passage before it


@dataclasses.dataclass(frozen=True)
class Passage:
    """A stretch of a document: `text` is the document's text from `start` to `end`."""

    document: str
    start: int
    end: int
    text: str


def cut(document: Document, max_characters: int) -> list[Passage]:
    """Cuts a document into passages of about at most `max_characters`.

    Neighbouring paragraphs share a passage while they fit; one that is too long is cut between sentences, or words
    where a sentence is too long. Passages do not overlap, and together hold all of the text.
    """
    pieces = [
        piece
        for found in _PARAGRAPH.finditer(document.text)
        for piece in _shortened(document.text, found.start(), found.end(), max_characters)
    ]
    spans: list[tuple[int, int]] = []
    for start, end in pieces:
        if spans and (end - spans[-1][0] <= max_characters or end - start < MIN_CHARACTERS):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [Passage(document.name, start, end, document.text[start:end]) for start, end in spans]


def _shortened(text: str, start: int, end: int, most: int) -> list[tuple[int, int]]:
    """Cuts [start, end) into spans of at most `most` characters."""
    spans = []
    while end - start > most:
        for gap in (_SENTENCE_END, _SPACE):
            ends = [found for found in gap.finditer(text, start, start + most) if found.start() > start]
            if ends:
                break
        here, there = (ends[-1].start(), ends[-1].end()) if ends else (start + most, start + most)
        spans.append((start, here))
        start = there
    return [*spans, (start, end)]
