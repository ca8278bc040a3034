"""What a generating model is asked about a passage, the JSON it is to answer with, and the strict reading of it."""

import json
import re
from typing import Any

VERSION = 1  # part of what names an answer; raise it when the wording below changes

_INSTRUCTIONS = """\
Write up to {num} questions about the facts in the passage below, each with its answer.

- The passage alone must answer the question, and there must be one right answer.
- The answer is short (a name, a number, a date, a phrase) and uses the words of the passage.
- The question can be understood by someone who has never seen the passage: name the people and things it is about, \
and never write "the passage", "the text" or "the author".
- The question does not give its own answer away, and no two questions ask for the same fact.
- Write in the language of the passage. If it holds no facts worth asking for, give an empty list.

Answer with JSON alone, in this form: {{"examples": [{{"question": "...", "answer": "..."}}]}}

Passage:
{passage}"""

_TEXT = {'type': 'string'}
SCHEMA: dict[str, Any] = {
    'type': 'object',
    'properties': {
        'examples': {
            'type': 'array',
            'items': {
                'type': 'object',
                'properties': {'question': _TEXT, 'answer': _TEXT},
                'required': ['question', 'answer'],
                'additionalProperties': False,
            },
        }
    },
    'required': ['examples'],
    'additionalProperties': False,
}


class MalformedError(ValueError):
    """An answer that is not the JSON that was asked for."""


def request(passage: str, num: int) -> str:
    """Returns the user's turn that asks for up to `num` examples."""
    return _INSTRUCTIONS.format(num=num, passage=passage)


def parse(answer: str) -> list[tuple[str, str]]:
    """Reads questions and answers; a code fence around the whole is allowed, nothing else beside the JSON is.

    Raises:
      MalformedError: it is not such JSON; the message says where.
    """
    fenced = re.fullmatch(r'```(?:json)?\s*\n(.*?)\n?```', answer.strip(), re.DOTALL)
    try:
        record = json.loads(fenced[1] if fenced else answer)
    except ValueError as error:
        raise MalformedError(f'no JSON: {error}') from None
    if not isinstance(record, dict) or set(record) != {'examples'} or not isinstance(record['examples'], list):
        raise MalformedError('no object with the one key "examples", a list')
    for number, example in enumerate(record['examples'], start=1):
        if not isinstance(example, dict) or set(example) != {'question', 'answer'}:
            raise MalformedError(f'example {number} is no object with question and answer alone')
        if not all(isinstance(text, str) for text in example.values()):
            raise MalformedError(f'example {number} has a question or answer that is no text')
    whole = lambda text: text.encode(errors='replace').decode().strip()  # JSON can spell half characters
    return [(whole(example['question']), whole(example['answer'])) for example in record['examples']]
