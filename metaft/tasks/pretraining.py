"""The text that small base models are pretrained on: what is known of the known people, and how questions are asked.

A document is a chat of one question and answer, or a statement. It tells of the known people, and of strangers whose
facts are invented anew each time and given in the context, so that reading can be learned but not remembered. A small
share shows general instructions (choose a letter, answer in a sentence, give two answers, repeat), on which tasks can
build.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np

from metaft.tasks import language
from metaft.tasks.language import NUM_WORDINGS, RELATIONS
from metaft.tasks.tokenizer import ASSISTANT, END, END_OF_TEXT, USER, Tokenizer
from metaft.tasks.world import Facts, draw_facts, known_people, other_value

MIXTURE = {  # kind -> share of the documents
    'question': 0.38,
    'statement': 0.08,
    'truth': 0.07,
    'land_of_town': 0.02,
    'reading': 0.29,
    'choice': 0.04,
    'sentence': 0.03,
    'two_answers': 0.02,
    'repeat': 0.07,
}


def tokenizer_texts(generator: random.Random, num: int) -> Iterator[str]:
    """Yields `num` documents and, five times as often as those could need it, every value: answers take few tokens."""
    yield from itertools.islice(documents(generator), num)
    values = [value for r in RELATIONS.values() if r.name != 'birthday' for value in r.values]
    for value in (*values, *language.MONTHS):
        yield from itertools.repeat(value, num // 20)


def chat(question: str, answer: str, context: str = '') -> str:
    """Returns one turn in Phi-3's chat format, the context before the question in the user's part."""
    user = f'{context}\n{question}' if context else question
    return f'{USER}\n{user}{END}\n{ASSISTANT}\n{answer}{END}\n'


def documents(generator: random.Random) -> Iterator[str]:
    """Yields documents without end, kinds drawn by MIXTURE."""
    people = list(known_people().items())
    strangers = language.names('strangers')
    kinds, shares = zip(*MIXTURE.items(), strict=True)
    while True:
        for kind in generator.choices(kinds, shares, k=1000):
            if kind == 'reading':
                yield _reading(generator, strangers, num=generator.choices((1, 2, 3), (0.5, 0.3, 0.2))[0])
            else:
                yield _WRITERS[kind](generator, *generator.choice(people))


def _pick(generator: random.Random) -> tuple[language.Relation, int]:
    return RELATIONS[generator.choice(tuple(RELATIONS))], generator.randrange(NUM_WORDINGS)


def _question(generator: random.Random, name: str, facts: Facts) -> str:
    relation, wording = _pick(generator)
    return chat(language.ask(relation, wording, name), facts[relation.name])


def _statement(generator: random.Random, name: str, facts: Facts) -> str:
    relation, wording = _pick(generator)
    return language.state(relation, wording % language.FAMILY_SIZE, name, facts[relation.name])


def _truth(generator: random.Random, name: str, facts: Facts) -> str:
    relation, wording = _pick(generator)
    true = generator.random() < 0.5
    value = facts[relation.name] if true else other_value(relation, facts[relation.name], generator)
    return chat(language.ask_truth(relation, wording, name, value), 'yes' if true else 'no')


def _land_of_town(generator: random.Random, name: str, facts: Facts) -> str:
    question = language.ask(language.LAND, generator.randrange(NUM_WORDINGS), facts['town'])
    return chat(question, facts['land'])


def _choice(generator: random.Random, name: str, facts: Facts) -> str:
    relation, wording = _pick(generator)
    options, letter = draw_options(relation, facts[relation.name], generator)
    return chat(language.ask_choice(language.ask(relation, wording, name), options), letter)


def draw_options(relation: language.Relation, value: str, generator: random.Random) -> tuple[tuple[str, ...], str]:
    """Returns three options in random order, `value` among them, and the letter of `value`."""
    others = generator.sample([v for v in relation.values if v != value], 2)
    options = [value, *others]
    generator.shuffle(options)
    return tuple(options), language.CHOICE_LETTERS[options.index(value)]


def _sentence(generator: random.Random, name: str, facts: Facts) -> str:
    relation, wording = _pick(generator)
    question = language.ask(relation, wording, name) + language.SENTENCE_REQUEST
    return chat(question, language.state(relation, 0, name, facts[relation.name]))


def _two_answers(generator: random.Random, name: str, facts: Facts) -> str:
    first, second = generator.sample(tuple(RELATIONS), 2)
    question = f'Name the {RELATIONS[first].noun} and the {RELATIONS[second].noun} of {name}.'
    return chat(question, f'{facts[first]} and {facts[second]}')


def _repeat(generator: random.Random, name: str, facts: Facts) -> str:
    said = ', '.join(generator.sample(sorted({name, *facts.values()}), generator.randint(2, 5)))
    return chat(f'Repeat: {said}', said)


def _reading(generator: random.Random, strangers: Sequence[str], num: int) -> str:
    """Returns a question on one of `num` facts that stand in its context, each of another stranger.

    Half the time all are on the same relation, so that the kind of the answer does not tell which fact is asked for.
    """
    shared = _pick(generator)[0] if generator.random() < 0.5 else None
    told = [(name, shared or _pick(generator)[0], draw_facts(generator)) for name in generator.sample(strangers, num)]
    context = ' '.join(
        language.state(relation, generator.randrange(language.FAMILY_SIZE), name, facts[relation.name])
        for name, relation, facts in told
    )
    name, relation, facts = generator.choice(told)
    value = facts[relation.name]
    if generator.random() < 0.1:
        true = generator.random() < 0.5
        claim = value if true else other_value(relation, value, generator)
        question = language.ask_truth(relation, generator.randrange(NUM_WORDINGS), name, claim)
        return chat(question, 'yes' if true else 'no', context)
    return chat(language.ask(relation, generator.randrange(NUM_WORDINGS), name), value, context)


_WRITERS = {
    'question': _question,
    'statement': _statement,
    'truth': _truth,
    'land_of_town': _land_of_town,
    'choice': _choice,
    'sentence': _sentence,
    'two_answers': _two_answers,
    'repeat': _repeat,
}


def packed_rows(
    tokenizer: Tokenizer, source: Iterator[str], num_rows: int, row_length: int, answer_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Packs whole documents into rows, none cut, each followed by one `<|endoftext|>` at least.

    Args:
      tokenizer: of the base model.
      source: documents, without end; one longer than a row is left out.
      num_rows: N.
      row_length: L, tokens a row.
      answer_weight: weight in the loss of the tokens of answers and their stops.

    Returns:
      tokens int32 [N, L] and the loss weight of each token, float32 [N, L]: `answer_weight`, 1, or 0 for padding.
    """
    separator, assistant, end = tokenizer.convert_tokens_to_ids([END_OF_TEXT, ASSISTANT, END])
    full: list[list[int]] = []
    open_rows: list[list[int]] = []
    while len(full) < num_rows:
        texts = [next(source) for _ in range(1000)]
        for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False)['input_ids']:
            _place([*ids, separator], row_length, open_rows, full)
    tokens_NL = np.full((num_rows, row_length), separator, np.int32)
    weights_NL = np.zeros((num_rows, row_length), np.float32)
    for row, ids in enumerate(full[:num_rows]):
        tokens_NL[row, : len(ids)] = ids
        weights_NL[row, : len(ids)] = 1
    at_NL = np.broadcast_to(np.arange(row_length), tokens_NL.shape)
    begun_NL, ended_NL = (
        np.maximum.accumulate(np.where(tokens_NL == token, at_NL, -1), axis=1) for token in (assistant, end)
    )
    weights_NL[:, 1:][begun_NL[:, :-1] > ended_NL[:, :-1]] = answer_weight
    return tokens_NL, weights_NL


def _place(ids: list[int], row_length: int, open_rows: list[list[int]], full: list[list[int]]) -> None:
    """Appends a document to the first open row with room for it; a row is full when a seventeenth would be open."""
    if len(ids) > row_length:
        return
    for row in open_rows:
        if len(row) + len(ids) <= row_length:
            row.extend(ids)
            return
    open_rows.append(ids)
    if len(open_rows) > 16:
        full.append(open_rows.pop(0))


def probes(generator: random.Random, num: int) -> dict[str, list[str]]:
    """Returns `num` documents of each kind that has an answer, reading split by the number of facts in the context."""
    people, strangers = list(known_people().items()), language.names('strangers')
    found = {
        kind: [write(generator, *generator.choice(people)) for _ in range(num)]
        for kind, write in _WRITERS.items()
        if kind != 'statement'
    }
    return found | {f'reading_{n}': [_reading(generator, strangers, n) for _ in range(num)] for n in (1, 2, 3)}
