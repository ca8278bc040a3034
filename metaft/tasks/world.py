"""The synthetic world: who lives in it and what is true of them, drawn from a seed.

A person is a name with one value a relation; towns lie in lands, so the land of a person follows from the town. The
people that base models are pretrained on (`known_people`) are the same for every seed of a task; a task's new people
have names and facts that no base model has read.
"""

import functools
import random
from collections.abc import Mapping

from metaft.tasks import language
from metaft.tasks.language import DRAWN, LAND_OF_TOWN, RELATIONS

WORLD_SEED = 0  # of the known people; a base model and the tasks on what it knows must agree on it

Facts = Mapping[str, str]  # relation name -> value, 'land' included


def draw_facts(generator: random.Random) -> Facts:
    """Returns the facts of one person: every relation's value uniformly and independently, and the land of the town."""
    facts = {name: generator.choice(RELATIONS[name].values) for name in DRAWN}
    return facts | {'land': LAND_OF_TOWN[facts['town']]}


@functools.cache
def known_people() -> Mapping[str, Facts]:
    """Returns name -> facts of the people that pretraining text tells of."""
    generator = random.Random(f'known people {WORLD_SEED}')
    return {name: draw_facts(generator) for name in language.names('known')}


def new_people(num: int, generator: random.Random) -> Mapping[str, Facts]:
    """Returns `num` people who are in no pretraining text.

    Raises:
      ValueError: more are asked than there are names.
    """
    return {name: draw_facts(generator) for name in generator.sample(language.names('tasks'), num)}


def other_value(relation: language.Relation, value: str, generator: random.Random) -> str:
    """Returns a value of `relation` other than `value`."""
    while (found := generator.choice(relation.values)) == value:
        pass
    return found
