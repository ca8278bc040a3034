"""Asks a generating model about passages, once each: every answer is on the disk before the next is waited for.

A generator is anything with a `name` and `ask`, which takes requests by key and yields their outcomes in any order.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

from metaft import journal
from metaft.errors import DataError, GeneratorError
from metaft.synthesis import prompting
from metaft.synthesis.passages import Passage

MAX_FAILURES = 8  # in a row; then something is wrong with the server, not with a passage

FINISHES = ('stop', 'length', 'refused')


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said: `finish` is 'stop' (it was done), 'length' (cut off), or 'refused'."""

    text: str
    finish: str
    seconds: float  # from request to answer; of a batch, its share

    def __post_init__(self):
        if self.finish not in FINISHES:
            raise DataError(f'an answer has finish {self.finish!r}; allowed are {", ".join(FINISHES)}')


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why there is no answer; another try may get one."""

    reason: str


class Model(Protocol):
    """A model that writes examples; `name` says which one, wherever it is served."""

    name: str

    def ask(self, requests: Mapping[str, str]) -> Generator[tuple[str, Answer | Failure]]:
        """Yields (key, outcome) as outcomes come; raises GeneratorError where no request can succeed."""
        ...


def key_of(passage: Passage, generator_name: str, num: int) -> str:
    """Returns the name of an answer: the same text asked the same way of the same model is asked once."""
    asked = repr((prompting.VERSION, generator_name, num, passage.text))
    return hashlib.sha256(asked.encode()).hexdigest()[:24]


def read_answers(path: str | os.PathLike) -> dict[str, Answer]:
    """Reads the answers that were kept, by key; what a killed process left torn counts as never asked."""
    answers = {}
    for number, row in journal.read(path).rows:
        try:
            answers[row['key']] = Answer(row['text'], row['finish'], row['seconds'])
        except (KeyError, TypeError, DataError) as error:
            raise DataError(
                f'{path}, row {number} is no answer of a generating model ({error}); take it out'
            ) from error
    return answers


def gather(
    path: str | os.PathLike,
    passages: Sequence[Passage],
    generator: Model,
    num: int,
    on_outcome: Callable[[Answer | Failure], None] = lambda outcome: None,
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Asks about the passages that `path` holds no answer for, and keeps what comes.

    Args:
      path: JSON lines, appended to.
      passages: what to ask about; equal texts are asked once.
      generator: asked for up to `num` examples a passage.
      on_outcome: called after each request.

    Returns:
      All answers by key, and the reasons of the requests that failed.

    Raises:
      GeneratorError: the model cannot be used; what was answered before is kept.
    """
    answers = read_answers(path)
    requests = {key_of(p, generator.name, num): prompting.request(p.text, num) for p in passages}
    failed: dict[str, str] = {}
    in_a_row = 0
    new = {key: text for key, text in requests.items() if key not in answers}
    with contextlib.closing(generator.ask(new)) as outcomes:
        for key, outcome in outcomes:
            if isinstance(outcome, Answer):
                journal.append(path, {'key': key, 'generator': generator.name, **dataclasses.asdict(outcome)})
                answers[key] = outcome
                in_a_row = 0
            else:
                failed[key] = outcome.reason
                in_a_row += 1
                if in_a_row == MAX_FAILURES:
                    raise GeneratorError(
                        f'{in_a_row} requests in a row failed, the last one so: {outcome.reason}; the answers so far '
                        'are kept, run the same command to go on'
                    )
            on_outcome(outcome)
    return answers, failed
