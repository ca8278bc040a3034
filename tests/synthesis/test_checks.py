"""Examples: read strictly, checked by rules with a reason each, near-duplicates out, splits by document."""

import json

import pytest

from metaft.errors import DataError
from metaft.synthesis import checks, prompting, splitting
from metaft.synthesis.documents import Document
from metaft.synthesis.splitting import SourcedExample
from tests.synthesis.server import facts

PASSAGE = 'In 1903, Ann Lee opened the old harbour of Norhaven with 1,200 guests. 東京は日本の首都です。'


@pytest.mark.parametrize('fence', ['{}', '```json\n{}\n```', '```\n{}\n```', '  {}\n'])
def test_the_json_that_was_asked_for_is_read(fence):
    text = json.dumps({'examples': [{'question': ' Who? ', 'answer': 'Ann\ud800'}]})
    assert prompting.parse(fence.replace('{}', text)) == [('Who?', 'Ann?')]
    assert prompting.parse('{"examples": []}') == []


@pytest.mark.parametrize(
    'text',
    [
        '',
        'Here you are: {"examples": []}',
        '{"examples": [{"question": "a"',
        '[{"question": "a", "answer": "b"}]',
        '{"examples": {"question": "a", "answer": "b"}}',
        '{"examples": [], "note": "x"}',
        '{"examples": [{"question": "a"}]}',
        '{"examples": [{"question": "a", "answer": 3}]}',
        '{"examples": ["a"]}',
    ],
)
def test_anything_else_is_malformed(text):
    with pytest.raises(prompting.MalformedError):
        prompting.parse(text)


@pytest.mark.parametrize(
    'question, answer, reason',
    [
        ('Who opened the harbour of Norhaven?', 'Ann Lee', None),
        ('Who opened the harbour of Norhaven?', 'the ANN  lee!', None),
        ('How many guests came to Norhaven?', '1200 guests', None),
        ('What happened in Norhaven?', 'Ann Lee opened a harbour with guests', None),  # most words, no numbers
        ('日本の首都はどこですか', '東京', None),
        ('Who opened the harbour of Norhaven?', 'Bob Lee', 'unsupported'),
        ('How many guests came to Norhaven?', '1300 guests', 'unsupported'),
        ('How many guests came to Norhaven?', '120', 'unsupported'),  # a part of a number is none
        ('Did Ann Lee open the harbour?', 'yes', 'unsupported'),
        ('Did Ann Lee open the harbour?', 'Ann Lee', 'leaked'),
        ('What did Ann Lee open, the old harbour?', 'An old harbour', 'leaked'),
        ('According to the passage, who opened the harbour?', 'Ann Lee', 'not self-contained'),
        ('When did she open the harbour?', '1903', 'not self-contained'),
        ('When did Ann Lee with her guests open it?', '1903', None),
        ('Who?', 'Ann Lee', 'empty'),
        ('Who opened the harbour of Norhaven?', ' .', 'empty'),
        ('', 'Ann Lee', 'empty'),
        ('Who ' + 'really ' * 70 + 'opened it?', 'Ann Lee', 'too long'),
    ],
)
def test_an_example_is_kept_or_rejected_for_its_reason(question, answer, reason):
    assert checks.reason_to_reject(question, answer, PASSAGE) == reason
    assert reason is None or reason in checks.REASONS


def test_near_duplicates_find_repetitions_and_leave_other_facts_alone():
    examples = [
        ('When was the harbour of Norhaven opened to the public?', '1903'),
        ('when was the Harbour of Norhaven opened to the public', '1904'),  # the same question
        ('So when was the harbour of Norhaven opened to the public?', '1903'),
        ('When was the harbour of Sudhaven opened to the public?', '1877'),  # another fact
        ('Who opened the bridge?', 'Bob'),
    ]
    assert checks.near_duplicates(examples, 0.7) == [None, 0, 0, None, None]


def sourced(document, number, start=0, question=None):
    return SourcedExample(question or f'Who are number {number} of {document}?', f'x{number}', '', document, start, 9)


def test_no_document_is_on_two_sides_and_copies_of_one_count_as_one():
    documents = [Document(f'd{i}', facts(20 * i, 6)) for i in range(12)]
    documents.append(Document('copy', documents[0].text + '\n\nAnd a word more.'))
    examples = [sourced(d.name, n) for d in documents for n in range(5)]
    found = splitting.split(examples, documents, similarity=0.95, seed=3)
    sides = {}
    for name, part in found.examples.items():
        for e in part:
            sides.setdefault(e.document, set()).add(name)
    assert found.unit == 'document' and all(len(s) == 1 for s in sides.values())
    assert sides['copy'] == sides['d0']
    assert {len(found.examples[s]) for s in ('test', 'validation')} <= {5, 10} and not found.duplicates
    assert found == splitting.split(examples, documents, similarity=0.95, seed=3)
    assert any(found.examples != splitting.split(examples, documents, similarity=0.95, seed=s).examples for s in (4, 5))


def test_a_repetition_across_splits_stays_in_the_test():
    documents = [Document(f'd{i}', facts(20 * i, 6)) for i in range(12)]
    examples = [sourced(d.name, n, question='Who is it?' if n == 0 else None) for d in documents for n in range(5)]
    found = splitting.split(examples, documents, similarity=0.95, seed=0)
    assert [e.question for e in found.examples['test']].count('Who is it?') == 1
    assert len(found.duplicates) == 11 and {e.question for e in found.duplicates} == {'Who is it?'}


def test_few_documents_are_split_by_passage_and_fewer_examples_are_refused():
    document = Document('d', facts(0, 20))
    examples = [sourced('d', n, start=10 * (n // 2)) for n in range(20)]
    found = splitting.split(examples, [document], similarity=0.95, seed=0)
    starts = [{e.start for e in part} for part in found.examples.values()]
    assert found.unit == 'passage' and not starts[0] & starts[1] and not starts[0] & starts[2]
    assert [len(part) for part in found.examples.values()] == [16, 2, 2]
    with pytest.raises(DataError, match='too few for train, validation and test'):
        splitting.split(examples[:4], [document], similarity=0.95, seed=0)
