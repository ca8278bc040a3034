"""Which generated examples are good: supported by their passage, not given away, understandable alone, not repeated.

A check is a rule over words; where a rule is for English only it says so. Rejected examples are kept with their reason.
"""

import re
import unicodedata
from collections.abc import Sequence

MAX_QUESTION_WORDS, MAX_ANSWER_WORDS = 60, 40
MIN_SUPPORT = 0.8  # share of an answer's telling words that the passage must hold where it does not hold them in a row

REASONS = {
    'refused': 'the model refused to answer (a passage)',
    'truncated': 'the answer was cut off at --max_new_tokens (a passage)',
    'malformed': 'the answer is not the JSON that was asked for (a passage)',
    'nothing': 'the model found nothing to ask (a passage)',
    'empty': 'question or answer is empty, or the question is not a question',
    'too long': f'more than {MAX_QUESTION_WORDS} words of question or {MAX_ANSWER_WORDS} of answer',
    'unsupported': 'the passage does not hold the answer',
    'leaked': 'the question holds the answer',
    'not self-contained': 'the question points at its passage, or at people it does not name',
    'duplicate': 'nearly the same is asked elsewhere, in this split or another',
}

# A run of letters with inner apostrophes, a number, or one sign of a script that sets no spaces.
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|\d+(?:[.:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_ARTICLES = {'the', 'a', 'an'}
_STOP = set('a an and are as at be been by for from had has have in into is it its of on or that the their there these '
            'they this those to was were which who whom with'.split())  # fmt: skip
# English. The document as a thing: "according to the passage", "in this section", "the author".
_POINTING = re.compile(
    r'\b(?:(?:the|this|that|given|above|following) (?:\w+ )?(?:passage|text|paragraph|document|article|excerpt|section|'
    r'snippet|author|context|page|chapter|table|figure)|mentioned (?:above|here)|described (?:above|here)|the above)\b',
    re.IGNORECASE,
)
_PRONOUN = re.compile(r'\b(?:he|she|him|her|his|hers|they|them|their|theirs)\b', re.IGNORECASE)
_NAME = re.compile(r"(?<=\s)(?!I\b)[A-Z][\w'’-]*|\d")  # a capital inside of the question, or a number


def words(text: str) -> list[str]:
    """Returns the text's words: case, accents' encoding, punctuation and commas in numbers do not count."""
    text = unicodedata.normalize('NFKC', text).casefold()
    return _WORD.findall(re.sub(r'(?<=\d),(?=\d{3})', '', text))


def reason_to_reject(question: str, answer: str, passage: str) -> str | None:
    """Returns the first of REASONS that speaks against an example on its own, or None."""
    asked, answered = words(question), _without_article(words(answer))
    if len(asked) < 2 or not answered:
        return 'empty'
    if len(asked) > MAX_QUESTION_WORDS or len(answered) > MAX_ANSWER_WORDS:
        return 'too long'
    if _POINTING.search(question) or (_PRONOUN.search(question) and not _NAME.search(question)):
        return 'not self-contained'
    if _holds(asked, answered):
        return 'leaked'
    if not is_supported(answer, passage):
        return 'unsupported'
    return None


def is_supported(answer: str, passage: str) -> bool:
    """Returns whether a passage holds an answer's words in a row, or all of its numbers and MIN_SUPPORT of the rest."""
    answered, given = _without_article(words(answer)), words(passage)
    if _holds(given, answered):
        return True
    telling, known = [word for word in answered if word not in _STOP], set(given)
    numbers = [word for word in telling if word[0].isdigit()]
    return (
        len(telling) >= 2
        and set(numbers) <= known
        and sum(word in known for word in telling) >= MIN_SUPPORT * len(telling)
    )


def _without_article(found: list[str]) -> list[str]:
    return found[1:] if len(found) > 1 and found[0] in _ARTICLES else found


def _holds(row: Sequence[str], part: Sequence[str]) -> bool:
    """Returns whether `part` stands in `row` without a gap."""
    return any(list(row[i : i + len(part)]) == list(part) for i in range(len(row) - len(part) + 1))


def near_duplicates(examples: Sequence[tuple[str, str]], similarity: float) -> list[int | None]:
    """Finds examples that repeat an earlier one that was kept.

    Two examples repeat each other where their questions have the same words, or where question and answer share at
    least `similarity` of their words and pairs of words (Jaccard). MinHash finds candidates, the sets decide.

    Returns:
      for each (question, answer) the index of the one it repeats, or None.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=NUM_PERMUTATIONS, weights=(0.2, 0.8))  # rather find too many
    kept: list[set[str]] = []
    same_question: dict[tuple[str, ...], int] = {}
    found: list[int | None] = []
    for number, (question, answer) in enumerate(examples):
        asked = words(question)
        kept.append(shingles([*asked, '=', *words(answer)], 1) | shingles([*asked, '=', *words(answer)], 2))
        sketch = minhash(kept[number])
        twins = [twin for twin in sorted(index.query(sketch)) if jaccard(kept[twin], kept[number]) >= similarity]
        found.append(same_question.get(tuple(asked), twins[0] if twins else None))
        if found[-1] is None:
            index.insert(number, sketch)
            same_question[tuple(asked)] = number
    return found


NUM_PERMUTATIONS = 128


def minhash(entries: set[str]):
    """Returns the `datasketch.MinHash` of a set of texts, the same on every machine."""
    from datasketch import MinHash

    sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)
    sketch.update_batch([entry.encode() for entry in sorted(entries)])
    return sketch


def shingles(row: Sequence[str], length: int) -> set[str]:
    """Returns all runs of `length` words."""
    return {' '.join(row[i : i + length]) for i in range(max(1, len(row) - length + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Returns |a and b| / |a or b|."""
    return len(a & b) / len(a | b)
