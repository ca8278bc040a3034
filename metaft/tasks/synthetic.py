"""Question-answer datasets on the synthetic world, each fixed by its settings and a seed.

Five kinds of task, for they want different amounts of change to the base model:

    recall     remember facts of new people; train, validation and test ask for the same facts in other words
    composed   learn the towns of new people and the lands of half of them; tell the lands of the other half
    known      tell what the base already knows in a new answer format; the people asked about differ by split
    rule       tell a class that follows from a known fact by a rule never seen (age -> fare); people differ by split
    reading    read the answer in a context about people named nowhere else

times an answer format, a paraphrase distance, wrong training answers and distracting sentences.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from metaft.errors import DataError
from metaft.tasks import language, world
from metaft.tasks.dataset import Dataset, Example
from metaft.tasks.language import FAMILY_SIZE, NUM_FAMILIES, RELATIONS, Relation
from metaft.tasks.pretraining import draw_options
from metaft.tasks.rules import RULES, classify

KINDS = ('recall', 'composed', 'known', 'rule', 'reading')
ANSWER_FORMATS = ('plain', 'truth', 'letter', 'option', 'sentence', 'bracket', 'twice', 'initial', 'pair')
_KNOWN_SPLIT = {'train': (0, 192), 'validation': (192, 256), 'test': (256, 320)}  # of the known people, shuffled


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """The knobs of a synthetic dataset.

    Attributes:
      kind: one of KINDS.
      num_train_examples: 1 to items x wordings; every item is asked once before one is asked twice.
      relations: what is asked, names of language.RELATIONS; for kind 'rule' names of rules.RULES.
      num_people: new people of kinds recall and composed.
      answer_format: one of ANSWER_FORMATS: the value; yes or no; the letter of an option; the value, which is among the
        options given; a sentence; '[value]'; 'value value'; its first letter; the values of both relations.
      paraphrase_distance: 0 the splits have other wordings of the same three families; 1 the families overlap in part;
        2 each split has its own family (questions, requests, notes).
      noise: share of training answers that are wrong.
      num_distractors: sentences in a context of kind reading that tell of other people.
      num_validation, num_test: examples asked for; fewer where there are no more.
    """

    kind: str
    num_train_examples: int
    relations: tuple[str, ...] = ('job',)
    num_people: int = 64
    answer_format: str = 'plain'
    paraphrase_distance: int = 1
    noise: float = 0.0
    num_distractors: int = 0
    num_validation: int = 128
    num_test: int = 256

    def __post_init__(self) -> None:
        _among('kind', (self.kind,), KINDS)
        _among('answer_format', (self.answer_format,), ANSWER_FORMATS)
        _among('relations', self.relations, RULES if self.kind == 'rule' else RELATIONS)
        _among('paraphrase_distance', (self.paraphrase_distance,), (0, 1, 2))
        if self.answer_format == 'pair' and (len(self.relations) != 2 or self.kind not in ('recall', 'known')):
            raise DataError('answer format pair takes exactly two relations and kind recall or known')
        if (
            not 0 <= self.noise <= 1
            or min(self.num_train_examples, self.num_people, self.num_validation, self.num_test) < 1
        ):
            raise DataError(f'noise must lie in [0, 1] and every number be at least 1; found {self}')


def _among(name: str, found: Iterable[object], allowed: Iterable[object]) -> None:
    wrong = [value for value in found if value not in allowed]
    if wrong:
        raise DataError(f'{name} {wrong[0]!r} is unknown; allowed are {", ".join(map(str, allowed))}')


class Item(NamedTuple):
    """Something to be asked, apart from its wording."""

    person: str
    relation: Relation
    value: str
    second: str = ''  # the value of the second relation, for pairs
    context: str = ''


def make_dataset(settings: SyntheticSettings, seed: int, name: str = 'synthetic') -> Dataset:
    """Returns the dataset of these settings and this seed, the same on every machine.

    Raises:
      DataError: more training examples are asked than there are items and wordings.
    """
    generator = random.Random(f'dataset {dataclasses.astuple(settings)} {seed}')
    items = _ITEMS[settings.kind](settings, generator)
    wordings = split_wordings(settings.paraphrase_distance)
    if settings.num_train_examples > (most := len(items['train']) * len(wordings['train'])):
        raise DataError(f'{settings.num_train_examples} training examples asked; {settings.kind} has {most} at most')
    sizes = {
        'train': settings.num_train_examples,
        'validation': settings.num_validation,
        'test': settings.num_test,
    }
    splits = {}
    for split, size in sizes.items():
        asked = _rounds(items[split], wordings[split], size, generator)
        if split == 'train' and settings.kind == 'recall':  # what was not taught is not asked
            items = dict.fromkeys(
                items, sorted({item for item, _ in asked}, key=lambda item: (item.relation.name, item.person))
            )
        splits[split] = [(item, *_write(item, wording, settings.answer_format, generator)) for item, wording in asked]
    spoil(splits['train'], settings.noise, generator)
    examples = {
        split: tuple(
            Example(question, answer, item.context, f'{split}-{row}')
            for row, (item, question, answer) in enumerate(rows)
        )
        for split, rows in splits.items()
    }
    return Dataset(name, **examples, source=f'synthetic world, seed {seed}, {settings}')


def split_wordings(distance: int) -> dict[str, tuple[int, ...]]:
    """Returns which of the twelve wordings each split uses; no wording is in two splits."""
    families = [tuple(range(f * FAMILY_SIZE, (f + 1) * FAMILY_SIZE)) for f in range(NUM_FAMILIES)]
    a, b, c = families
    train, validation, test = (
        (sum((f[:2] for f in families), ()), tuple(f[2] for f in families), tuple(f[3] for f in families)),
        (a + b[:2], b[2:3] + c[:2], b[3:] + c[2:]),
        (a, b, c),
    )[distance]
    return {'train': train, 'validation': validation, 'test': test}


def _rounds(
    items: Sequence[Item], wordings: Sequence[int], size: int, generator: random.Random
) -> list[tuple[Item, int]]:
    """Pairs items with wordings, `size` pairs if there are, none twice: every item once, then again in other words."""
    items = generator.sample(items, len(items))
    orders = [generator.sample(wordings, len(wordings)) for _ in items]
    pairs = [(item, order[turn]) for turn in range(len(wordings)) for item, order in zip(items, orders, strict=True)][
        :size
    ]
    generator.shuffle(pairs)
    return pairs


def spoil(rows: list[tuple[Item, str, str]], noise: float, generator: random.Random) -> None:
    """Gives `round(noise * N)` rows, in place, another answer that occurs for the same relation."""
    answers: dict[str, set[str]] = {}
    for item, _, answer in rows:
        answers.setdefault(item.relation.name, set()).add(answer)
    everything = set().union(*answers.values())
    for row in generator.sample(range(len(rows)), round(noise * len(rows))):
        item, question, answer = rows[row]
        others = (answers[item.relation.name] - {answer}) or (everything - {answer})
        rows[row] = (item, question, generator.choice(sorted(others)))


# ---------------------------------------------------------------- what is asked, by kind


def _recall(settings: SyntheticSettings, generator: random.Random) -> dict[str, list[Item]]:
    people = world.new_people(settings.num_people, generator)
    return dict.fromkeys(_KNOWN_SPLIT, _facts(people.items(), settings))


def _known(settings: SyntheticSettings, generator: random.Random) -> dict[str, list[Item]]:
    people = list(world.known_people().items())
    generator.shuffle(people)
    return {split: _facts(people[start:stop], settings) for split, (start, stop) in _KNOWN_SPLIT.items()}


def _facts(people: Iterable[tuple[str, world.Facts]], settings: SyntheticSettings) -> list[Item]:
    if settings.answer_format == 'pair':
        first, second = settings.relations
        return [Item(name, RELATIONS[first], facts[first], facts[second]) for name, facts in people]
    return [Item(name, RELATIONS[r], facts[r]) for name, facts in people for r in settings.relations]


def _composed(settings: SyntheticSettings, generator: random.Random) -> dict[str, list[Item]]:
    people = list(world.new_people(settings.num_people, generator).items())
    told, asked = people[: len(people) // 2], people[len(people) // 2 :]
    lands = {name: Item(name, RELATIONS['land'], facts['land']) for name, facts in people}
    towns = [Item(name, RELATIONS['town'], facts['town']) for name, facts in people]
    taught = [lands[name] for name, _ in asked]
    return {'train': towns + [lands[name] for name, _ in told], 'validation': taught, 'test': taught}


def _rule(settings: SyntheticSettings, generator: random.Random) -> dict[str, list[Item]]:
    people = list(world.known_people().items())
    generator.shuffle(people)
    words = {
        name: generator.sample(RULES[name].relation.values, len(RULES[name].relation.values))
        for name in settings.relations
    }
    items = [
        [Item(name, RULES[r].relation, words[r][classify(RULES[r], facts)]) for r in settings.relations]
        for name, facts in people
    ]
    return {split: list(itertools.chain(*items[a:b])) for split, (a, b) in _KNOWN_SPLIT.items()}


def _reading(settings: SyntheticSettings, generator: random.Random) -> dict[str, list[Item]]:
    names = list(language.names('tasks'))
    generator.shuffle(names)
    pools = {'train': names[0::3], 'validation': names[1::3], 'test': names[2::3]}
    sizes = {'train': settings.num_train_examples, 'validation': settings.num_validation, 'test': settings.num_test}
    return {split: [_read(settings, pools[split], generator) for _ in range(sizes[split])] for split in pools}


def _read(settings: SyntheticSettings, names: Sequence[str], generator: random.Random) -> Item:
    people = [(name, world.draw_facts(generator)) for name in generator.sample(names, 1 + settings.num_distractors)]
    told = [(name, RELATIONS[generator.choice(settings.relations)], facts) for name, facts in people]
    said = [language.state(r, generator.randrange(FAMILY_SIZE), name, facts[r.name]) for name, r, facts in told]
    name, relation, facts = told[0]
    generator.shuffle(said)
    return Item(name, relation, facts[relation.name], context=' '.join(said))


_ITEMS: dict[str, Callable[[SyntheticSettings, random.Random], dict[str, list[Item]]]] = {
    'recall': _recall,
    'composed': _composed,
    'known': _known,
    'rule': _rule,
    'reading': _reading,
}


# ---------------------------------------------------------------- how it is asked and answered


def _write(item: Item, wording: int, answer_format: str, generator: random.Random) -> tuple[str, str]:
    """Returns question and true answer of an item in one wording and format."""
    relation, person, value = item.relation, item.person, item.value
    question = language.ask(relation, wording, person)
    if answer_format == 'truth':
        true = generator.random() < 0.5
        claim = value if true else world.other_value(relation, value, generator)
        return language.ask_truth(relation, wording, person, claim), 'yes' if true else 'no'
    if answer_format == 'letter':
        options, letter = draw_options(relation, value, generator)
        return language.ask_choice(question, options), letter
    if answer_format == 'option':
        options, _ = draw_options(relation, value, generator)
        return f'{question} {", ".join(options[:-1])} or {options[-1]}', value
    answers = {
        'plain': value,
        'sentence': language.state(relation, 0, person, value),
        'bracket': f'[{value}]',
        'twice': f'{value} {value}',
        'initial': value[0],
        'pair': f'{value}; {item.second}',
    }
    return question, answers[answer_format]
