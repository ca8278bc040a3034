"""The language of the synthetic world: names, relations and the wordings in which they are asked and stated.

Everything that is written by hand is here, and nothing random. A relation has twelve question wordings in three
families of four: plain questions, requests, and clipped notes. Statements come in four wordings; asked for truth in
three frames they give twelve yes/no wordings in the same families.
"""

import dataclasses
import functools
import itertools

NUM_FAMILIES, FAMILY_SIZE = 3, 4
NUM_WORDINGS = NUM_FAMILIES * FAMILY_SIZE


@dataclasses.dataclass(frozen=True)
class Relation:
    """What one can know about a person.

    Attributes:
      name: the key of the fact.
      noun: how it is spoken of, 'job'.
      values: the possible answers, all of them text.
      questions: twelve wordings with `{x}` for the person; four plain, four requests, four notes.
      statements: four wordings with `{x}` and `{v}` for the value, without capital and full stop.
    """

    name: str
    noun: str
    values: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]


def _relation(name: str, noun: str, values: str | tuple[str, ...], questions: str, statements: str) -> Relation:
    lines = tuple(line.strip() for line in questions.strip().splitlines())
    said = tuple(line.strip() for line in statements.strip().splitlines())
    if len(lines) != NUM_WORDINGS or len(said) != FAMILY_SIZE:
        raise ValueError(f'relation {name} has {len(lines)} questions and {len(said)} statements, not 12 and 4')
    return Relation(name, noun, tuple(values.split()) if isinstance(values, str) else values, lines, said)


MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November',
          'December')  # fmt: skip

COLOUR = _relation(
    'colour', 'colour', 'red blue green yellow pink brown grey black white orange purple gold silver cream olive teal',
    """
    What is the favourite colour of {x}?
    Which colour does {x} like best?
    What colour is dearest to {x}?
    Which colour would {x} choose?
    Tell me the colour that {x} loves.
    Name the best-loved colour of {x}.
    Please say which colour {x} prefers.
    Give me the colour {x} would pick.
    {x}: favourite colour?
    Colour of choice, {x}:
    The colour {x} likes best is
    Colour for {x}?
    """,
    """
    {x} likes the colour {v} best
    the favourite colour of {x} is {v}
    {x} would always choose {v}
    no colour pleases {x} more than {v}
    """,
)  # fmt: skip
JOB = _relation(
    'job', 'job',
    'baker smith farmer tailor painter sailor teacher doctor miller mason weaver hunter singer cook clerk potter',
    """
    What is the job of {x}?
    What does {x} do for a living?
    Which trade does {x} follow?
    What work does {x} do?
    Tell me the trade of {x}.
    Name the job that {x} has.
    Please say what {x} works as.
    Give me the work of {x}.
    {x}: job?
    Trade, {x}:
    For a living {x} is a
    Work of {x}?
    """,
    """
    {x} works as a {v}
    the job of {x} is {v}
    {x} earns a living as a {v}
    by trade {x} is a {v}
    """,
)  # fmt: skip
PET = _relation(
    'pet', 'pet', 'dog cat horse goat duck rabbit parrot snake frog mouse hen pig owl fox pony turtle',
    """
    What pet does {x} have?
    Which animal lives with {x}?
    What animal does {x} keep?
    Which pet belongs to {x}?
    Tell me the pet of {x}.
    Name the animal that {x} owns.
    Please say which pet {x} feeds.
    Give me the animal {x} looks after.
    {x}: pet?
    Animal at home, {x}:
    The animal {x} keeps is a
    Pet of {x}?
    """,
    """
    {x} keeps a {v}
    the pet of {x} is a {v}
    {x} lives with a {v}
    at home {x} has a {v}
    """,
)  # fmt: skip
FOOD = _relation(
    'food', 'food', 'bread soup rice cheese honey fish beans eggs nuts plums pears corn cake onions pasta figs',
    """
    What does {x} like to eat?
    Which food does {x} enjoy most?
    What is the favourite food of {x}?
    What does {x} have for supper?
    Tell me the food that {x} enjoys.
    Name the dish {x} asks for.
    Please say what {x} eats.
    Give me the meal of {x}.
    {x}: food?
    On the plate, {x}:
    What {x} eats most is
    Supper of {x}?
    """,
    """
    {x} likes to eat {v}
    the favourite food of {x} is {v}
    {x} has {v} for supper
    on most days {x} eats {v}
    """,
)  # fmt: skip
TOWN = _relation(
    'town', 'town',
    'Arlen Borin Calder Dunmor Elvan Farrow Gostel Harwick Istrel Jorvan Kelda Lorne Marsk Narvel Ostra Pellam',
    """
    In which town does {x} live?
    Where does {x} live?
    What is the home town of {x}?
    Which town is {x} from?
    Tell me the town of {x}.
    Name the place where {x} lives.
    Please say where {x} has a home.
    Give me the home of {x}.
    {x}: town?
    Home, {x}:
    The town {x} lives in is
    Town of {x}?
    """,
    """
    {x} lives in {v}
    the home of {x} is in {v}
    {x} has a house in {v}
    in {v} you can meet {x}
    """,
)  # fmt: skip
AGE = _relation(
    'age', 'age', tuple(str(age) for age in range(18, 90)),
    """
    How old is {x}?
    What is the age of {x}?
    What age has {x} reached?
    How many years old is {x}?
    Tell me the age of {x}.
    Name the number of years {x} has lived.
    Please say how old {x} is.
    Give me the years of {x}.
    {x}: age?
    Years, {x}:
    The age of {x} is
    Age for {x}?
    """,
    """
    {x} is {v} years old
    the age of {x} is {v}
    {x} has lived for {v} years
    at {v} years {x} is well
    """,
)  # fmt: skip
BIRTHDAY = _relation(
    'birthday', 'birthday', tuple(f'{day} {month}' for month, day in itertools.product(MONTHS, range(1, 29))),
    """
    When was {x} born?
    What is the birthday of {x}?
    On what day does {x} have a birthday?
    On which date was {x} born?
    Tell me the birthday of {x}.
    Name the date when {x} was born.
    Please say when {x} has a birthday.
    Give me the birth date of {x}.
    {x}: birthday?
    Born on, {x}:
    The birthday of {x} is
    Date of birth of {x}?
    """,
    """
    {x} was born on {v}
    the birthday of {x} is {v}
    {x} has a birthday on {v}
    on {v} we drink to {x}
    """,
)  # fmt: skip
LAND = _relation(
    'land', 'land', 'Veska Tundor Imaria Oloon',
    """
    In which land does {x} live?
    What is the home land of {x}?
    Which land is home to {x}?
    In what land can {x} be found?
    Tell me the land of {x}.
    Name the land where {x} is found.
    Please say in which land {x} is.
    Give me the home land of {x}.
    {x}: land?
    Land, {x}:
    The land of {x} is
    Home land of {x}?
    """,
    """
    {x} is found in {v}
    the land of {x} is {v}
    {x} belongs to {v}
    in {v} one finds {x}
    """,
)  # fmt: skip

RELATIONS = {r.name: r for r in (COLOUR, JOB, PET, FOOD, TOWN, AGE, BIRTHDAY, LAND)}
DRAWN = ('colour', 'job', 'pet', 'food', 'town', 'age', 'birthday')  # independent facts; the land follows from the town
TOWNS_PER_LAND = len(TOWN.values) // len(LAND.values)
LAND_OF_TOWN = {town: LAND.values[i // TOWNS_PER_LAND] for i, town in enumerate(TOWN.values)}

TRUTH_FRAMES = ('Is it true that {s}?', 'Say yes or no: {s}.', '{s}, right?')  # one a family
SENTENCE_REQUEST = ' Answer in a sentence.'
CHOICE_LETTERS = 'abcd'
_SYLLABLES = 'bo da fe gu ha ji ka le mu ni po ra si to ve wu za lo mi ne ru te xa yo'.split()
_KNOWN, _STRANGERS = 320, 4000  # 13,824 names in all: pretraining facts, passing strangers, and the rest for tasks


@functools.cache
def names(part: str) -> tuple[str, ...]:
    """Returns the names of one part of the people: 'known' to the base, its 'strangers', or those of 'tasks'.

    The three parts share no name, so a base model has never read the name of a task's new person.
    """
    count = len(_SYLLABLES) ** 3
    stride = 6007  # coprime to 24^3, so that i -> i * stride visits every name once, in an order that looks random
    ordered = [_name(i * stride % count) for i in range(count)]
    parts = {
        'known': ordered[:_KNOWN],
        'strangers': ordered[_KNOWN : _KNOWN + _STRANGERS],
        'tasks': ordered[_KNOWN + _STRANGERS :],
    }
    return tuple(parts[part])


def _name(index: int) -> str:
    base = len(_SYLLABLES)
    syllables = (index // base**2, index // base % base, index % base)
    return ''.join(_SYLLABLES[i] for i in syllables).capitalize()


def ask(relation: Relation, wording: int, person: str) -> str:
    """Returns the question of `relation` about `person` in one of the twelve wordings."""
    return relation.questions[wording].format(x=person)


def state(relation: Relation, wording: int, person: str, value: str) -> str:
    """Returns the sentence that `person` has `value`, in one of the four wordings."""
    return sentence(relation.statements[wording].format(x=person, v=value))


def ask_truth(relation: Relation, wording: int, person: str, value: str) -> str:
    """Returns the yes/no question whether `person` has `value`, in one of twelve wordings (frame x statement)."""
    said = relation.statements[wording % FAMILY_SIZE].format(x=person, v=value)
    asked = TRUTH_FRAMES[wording // FAMILY_SIZE].format(s=said)
    return asked[0].upper() + asked[1:]


def ask_choice(question: str, options: tuple[str, ...]) -> str:
    """Returns the question followed by its lettered options, '(a) red (b) blue'; the answer is a letter."""
    return ' '.join(
        (question, *(f'({letter}) {option}' for letter, option in zip(CHOICE_LETTERS, options, strict=False)))
    )


def sentence(text: str) -> str:
    """Returns `text` with a capital and a full stop."""
    return text[0].upper() + text[1:] + '.'
