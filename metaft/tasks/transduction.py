"""Two tasks whose answers are whole sentences, for scaling studies: a translation and a one-line summary.

translation  between two invented languages. The target has a lexicon of its own, other suffixes (plural, object, past)
             and another order of words: subject object verb, adjectives behind their nouns. Words are drawn by Zipf's
             law, so that more sentences keep teaching rarer words, and the loss keeps falling.
summary      a passage of facts about a stranger, with other people's between them, to one line that names the stranger
             and those of three relations that the passage tells, in a fixed order.

`documents` is what base models read beforehand: the source language, and a small share of parallel text.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping

from metaft.errors import DataError
from metaft.tasks import language, pretraining, world
from metaft.tasks.dataset import Dataset, Example
from metaft.tasks.language import RELATIONS

KINDS = ('translation', 'summary')
PARALLEL_SHARE = 0.02  # of the documents about the languages: base models have seen a little of the target
LEXICON_SEED = 0  # of both languages; a base model and its tasks must agree on it
_WORDS = {'noun': 160, 'verb': 64, 'adjective': 48}  # stems of each language
_SOURCE_SYLLABLES = 'ba de ki lo mu na pe ri so tu va we yi zo fu ga'.split()
_TARGET_SYLLABLES = 'ul en or ash it em oth ir an esk ov ud al ig er om'.split()
_ADJECTIVE_SHARE = 0.4
_TOLD, _OTHERS = 4, 1  # facts of the passage's stranger, and of somebody else
_SUMMARISED = ('job', 'town', 'food')


@dataclasses.dataclass(frozen=True)
class TransductionSettings:
    """The knobs of a dataset.

    Attributes:
      kind: one of KINDS.
      num_train_examples: a smaller number gives the first examples of a larger one.
      num_validation, num_test: the same for every seed.
    """

    kind: str
    num_train_examples: int
    num_validation: int = 128
    num_test: int = 256

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f'kind {self.kind!r} is unknown; allowed are {", ".join(KINDS)}')
        if min(self.num_train_examples, self.num_validation, self.num_test) < 1:
            raise DataError(f'every number of examples must be at least 1; found {self}')


def make_dataset(settings: TransductionSettings, seed: int, name: str | None = None) -> Dataset:
    """Returns the dataset of these settings; the seed is of the training examples, which are in no other split."""
    write = _WRITERS[settings.kind]
    held_back: set[tuple[str, str]] = set()
    splits = {}
    for split in ('test', 'validation', 'train'):
        generator = random.Random(f'{settings.kind} {split}' + (f' {seed}' if split == 'train' else ''))
        size = settings.num_train_examples if split == 'train' else getattr(settings, f'num_{split}')
        found: list[Example] = []
        while len(found) < size:
            example = write(generator)
            if example.prompt not in held_back:
                found.append(dataclasses.replace(example, id=f'{split}-{len(found)}'))
        held_back |= {example.prompt for example in found}
        splits[split] = tuple(found)
    return Dataset(name or settings.kind, **splits, source=f'transduction, seed {seed}, {settings}')


def documents(generator: random.Random) -> Iterator[str]:
    """Yields documents without end: sentences of the source language, asked to be repeated or not, few translated."""
    while True:
        sentence = _draw_sentence(generator)
        said, kind = source(sentence), generator.random()
        if kind < PARALLEL_SHARE:
            yield pretraining.chat(f'Translate: {said}', target(sentence))
        elif kind < 0.5:
            yield pretraining.chat(f'Repeat: {said}', said)
        else:
            yield said


def mixed_documents(generator: random.Random, share: float) -> Iterator[str]:
    """Yields the world's documents with a share of `documents` among them; with share 0, exactly the world's."""
    of_the_world = pretraining.documents(generator)
    if share == 0:
        yield from of_the_world
    own = documents(generator)
    while True:
        yield next(own if generator.random() < share else of_the_world)


# ---------------------------------------------------------------- the two languages


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A noun with a number and perhaps an adjective; words are ranks in the lexicon, 0 the most frequent."""

    noun: int
    is_plural: bool
    adjective: int | None


@dataclasses.dataclass(frozen=True)
class Sentence:
    """What both languages can say."""

    subject: Phrase
    verb: int
    is_past: bool
    object: Phrase


@functools.cache
def lexicon() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Returns by class of word the (source, target) stems, the most frequent first; none occurs twice in a language."""
    generator = random.Random(f'lexicon {LEXICON_SEED}')
    stems = []
    for syllables in (_SOURCE_SYLLABLES, _TARGET_SYLLABLES):
        two = [a + b for a in syllables for b in syllables]
        three = [a + b + c for a in syllables for b in syllables for c in syllables]
        words = list(dict.fromkeys(generator.sample(two, 120) + generator.sample(three, 400)))[: sum(_WORDS.values())]
        generator.shuffle(words)
        stems.append(words)
    pairs = iter(zip(*stems, strict=True))
    return {kind: tuple(next(pairs) for _ in range(number)) for kind, number in _WORDS.items()}


@functools.cache
def _weights(kind: str) -> tuple[float, ...]:
    return tuple(1 / (rank + 2.7) for rank in range(_WORDS[kind]))  # Zipf-Mandelbrot


def _draw_word(kind: str, generator: random.Random) -> int:
    return generator.choices(range(_WORDS[kind]), _weights(kind))[0]


def _draw_phrase(generator: random.Random) -> Phrase:
    adjective = _draw_word('adjective', generator) if generator.random() < _ADJECTIVE_SHARE else None
    return Phrase(_draw_word('noun', generator), generator.random() < 0.4, adjective)


def _draw_sentence(generator: random.Random) -> Sentence:
    return Sentence(
        _draw_phrase(generator), _draw_word('verb', generator), generator.random() < 0.5, _draw_phrase(generator)
    )


def source(sentence: Sentence) -> str:
    """Returns the sentence in the source language: adjective noun, verb, adjective noun; plural -ko, past -bi."""

    def phrase(p: Phrase) -> list[str]:
        adjective = [] if p.adjective is None else [lexicon()['adjective'][p.adjective][0]]
        return [*adjective, lexicon()['noun'][p.noun][0] + ('ko' if p.is_plural else '')]

    verb = lexicon()['verb'][sentence.verb][0] + ('bi' if sentence.is_past else '')
    return language.sentence(' '.join([*phrase(sentence.subject), verb, *phrase(sentence.object)]))


def target(sentence: Sentence) -> str:
    """Returns the translation: subject, object -un, verb; adjectives agree in number -ar; verb past -eth, plural -i."""

    def phrase(p: Phrase, case: str) -> list[str]:
        number = 'ar' if p.is_plural else ''
        noun = lexicon()['noun'][p.noun][1] + number + case
        return [noun] if p.adjective is None else [noun, lexicon()['adjective'][p.adjective][1] + number]

    tense, agreement = 'eth' if sentence.is_past else '', 'i' if sentence.subject.is_plural else ''
    verb = lexicon()['verb'][sentence.verb][1] + tense + agreement
    return language.sentence(' '.join([*phrase(sentence.subject, ''), *phrase(sentence.object, 'un'), verb]))


# ---------------------------------------------------------------- examples


def _translation(generator: random.Random) -> Example:
    sentence = _draw_sentence(generator)
    return Example(f'Translate: {source(sentence)}', target(sentence))


def _summary(generator: random.Random) -> Example:
    name, *others = generator.sample(language.names('tasks'), 1 + _OTHERS)
    facts, told = world.draw_facts(generator), generator.sample(tuple(RELATIONS), _TOLD)
    state = lambda relation, person, value: language.state(
        RELATIONS[relation], generator.randrange(language.FAMILY_SIZE), person, value
    )
    said = [state(relation, name, facts[relation]) for relation in told]
    for other in others:
        relation = generator.choice(_SUMMARISED)
        said.append(state(relation, other, world.draw_facts(generator)[relation]))
    generator.shuffle(said)
    listed = ', '.join(facts[relation] for relation in _SUMMARISED if relation in told)
    return Example(f'Sum up {name}.', f'{name}: {listed or "nothing"}.', ' '.join(said))


_WRITERS: dict[str, Callable[[random.Random], Example]] = {'translation': _translation, 'summary': _summary}
