"""Rules that tasks teach: a class of a known person that follows from one fact, never told in pretraining.

A rule looks like a relation to the rest of `tasks`: it has a noun, values (the classes) and wordings. Which word names
which class is drawn anew for each dataset.
"""

import dataclasses
from collections.abc import Callable

from metaft.tasks.language import AGE, BIRTHDAY, COLOUR, FOOD, JOB, LAND, MONTHS, TOWN, Relation
from metaft.tasks.world import Facts

_QUESTIONS = (
    'What is the {n} of {x}?',
    'Which {n} does {x} get?',
    'What {n} belongs to {x}?',
    'Which {n} is right for {x}?',
    'Tell me the {n} of {x}.',
    'Name the {n} that {x} has.',
    'Please say which {n} {x} gets.',
    'Give me the {n} for {x}.',
    '{x}: {n}?',
    '{x}, which {n}:',
    'The {n} of {x} is',
    'Right {n} for {x}?',
)
_STATEMENTS = ('the {n} of {x} is {v}', '{x} has the {n} {v}', '{x} gets the {n} {v}', 'for {x} the {n} is {v}')


@dataclasses.dataclass(frozen=True)
class Rule:
    """`class = class_of(facts[source])`, an index into the classes' words."""

    relation: Relation
    source: str
    class_of: Callable[[str], int]


def classify(rule: Rule, facts: Facts) -> int:
    """Returns the class of a person as an index."""
    return rule.class_of(facts[rule.source])


def _rule(noun: str, words: str, source: Relation, class_of: Callable[[str], int]) -> Rule:
    questions, statements = (tuple(text.replace('{n}', noun) for text in texts) for texts in (_QUESTIONS, _STATEMENTS))
    return Rule(Relation(noun, noun, tuple(words.split()), questions, statements), source.name, class_of)


def _groups(relation: Relation, num: int) -> Callable[[str], int]:
    """Returns the rule that puts neighbouring values of `relation` into `num` equal groups."""
    group_of = {value: i * num // len(relation.values) for i, value in enumerate(relation.values)}
    return group_of.__getitem__


RULES = {
    rule.relation.name: rule
    for rule in (
        _rule('fare', 'half full free', AGE, lambda age: (int(age) >= 40) + (int(age) >= 65)),
        _rule('gate', 'open shut', AGE, lambda age: int(age) >= 50),
        _rule('team', 'bears lions hawks stags', LAND, _groups(LAND, 4)),
        _rule('post', 'road river', TOWN, _groups(TOWN, 2)),
        _rule('season', 'frost bud sun leaf', BIRTHDAY, lambda date: MONTHS.index(date.split()[1]) // 3),
        _rule('guild', 'hammer needle wheel lamp', JOB, _groups(JOB, 4)),
        _rule('flag', 'stripe star', COLOUR, _groups(COLOUR, 2)),
        _rule('table', 'round long', FOOD, _groups(FOOD, 2)),
    )
}
