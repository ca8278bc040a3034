"""The synthetic world: fixed by seeds, disjoint where it must be, noisy as asked."""

import dataclasses
import itertools
import random

import pytest

from metaft.errors import DataError
from metaft.tasks import catalogue, language, pretraining, synthetic, world
from metaft.tasks.rules import RULES
from metaft.tasks.synthetic import SyntheticSettings, make_dataset


def settings_of(kind, **more):
    relations = ('fare', 'team') if kind == 'rule' else ('job', 'town')
    return SyntheticSettings(kind, 60, **({'relations': relations, 'num_people': 20} | more))


@pytest.mark.parametrize('kind', synthetic.KINDS)
def test_same_seed_same_dataset(kind):
    settings = settings_of(kind)
    assert make_dataset(settings, 3) == make_dataset(settings, 3)
    assert make_dataset(settings, 3).train != make_dataset(settings, 4).train


def test_datasets_do_not_change_between_versions():
    """Golden: the shipped meta-dataset refers to these; change it only together with the catalogue's names."""
    first = catalogue.make(catalogue.DEMONSTRATION).train[0]
    assert (first.question, first.answer) == GOLDEN


@pytest.mark.parametrize('distance', (0, 1, 2))
def test_splits_share_no_wording(distance):
    wordings = synthetic.split_wordings(distance)
    assert sorted(itertools.chain(*wordings.values())) == list(range(language.NUM_WORDINGS))
    families = {split: {w // language.FAMILY_SIZE for w in of} for split, of in wordings.items()}
    shared = len(families['train'] & families['test'])
    assert shared == {0: 3, 1: 1, 2: 0}[distance]


@pytest.mark.parametrize('kind', synthetic.KINDS)
@pytest.mark.parametrize('answer_format', synthetic.ANSWER_FORMATS)
def test_no_question_is_in_two_splits_or_twice_in_one(kind, answer_format):
    if answer_format == 'pair' and kind not in ('recall', 'known'):
        pytest.skip('pairs are of stored facts')
    data = make_dataset(settings_of(kind, answer_format=answer_format, num_distractors=1), 0)
    prompts = [e.prompt for e in data.train + data.validation + data.test]
    assert len(set(prompts)) == len(prompts)
    assert all(e.answer and e.question for e in data.train)


@pytest.mark.parametrize('noise', (0.0, 0.1, 0.5))
@pytest.mark.parametrize('answer_format', ('plain', 'truth'))
def test_the_share_of_wrong_answers_is_as_asked(noise, answer_format):
    settings = settings_of('known', noise=noise, answer_format='plain')
    clean = {e.question: e.answer for e in make_dataset(dataclasses.replace(settings, noise=0.0), 0).train}
    facts = world.known_people()
    data = make_dataset(settings, 0)
    known = {
        language.ask(language.RELATIONS[r], wording, name): facts[name][r]
        for name in facts for r in settings.relations for wording in range(language.NUM_WORDINGS)
    }  # fmt: skip
    wrong = [e for e in data.train if e.answer != known[e.question]]
    assert len(wrong) == round(noise * len(data.train)) and len(clean) == 60
    assert all(e.answer == known[e.question] for e in data.validation + data.test)


def test_every_fact_that_is_asked_was_taught():
    data = make_dataset(SyntheticSettings('recall', 30, ('job',), num_people=50), 0)
    people = {split: {_name(e.question) for e in getattr(data, split)} for split in ('train', 'validation', 'test')}
    assert len(people['train']) == 30 and people['validation'] <= people['train'] and people['test'] <= people['train']


@pytest.mark.parametrize('kind', ('known', 'rule', 'reading'))
def test_where_a_skill_is_asked_people_differ_by_split(kind):
    data = make_dataset(settings_of(kind), 0)
    people = [{_name(e.question) for e in split} for split in (data.train, data.validation, data.test)]
    assert len(set.union(*people)) == sum(map(len, people))


def test_the_answer_of_a_reading_task_stands_in_its_context():
    data = make_dataset(settings_of('reading', num_distractors=2), 0)
    assert all(e.answer in e.context and e.context.count('.') == 3 for e in data.train)


def test_base_models_never_read_a_task_s_names():
    parts = {part: set(language.names(part)) for part in ('known', 'strangers', 'tasks')}
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 24**3
    text = ' '.join(itertools.islice(pretraining.documents(random.Random(0)), 5000))
    data = make_dataset(SyntheticSettings('recall', 200, num_people=100), 0)
    assert not any(_name(e.question) in text for e in data.train)
    assert not any(word in text.lower().split() for rule in RULES.values() for word in (rule.relation.noun,))


def _name(question):
    names = [word.strip('?:,.') for word in question.split() if word.strip('?:,.') in NAMES]
    assert len(names) == 1, question
    return names[0]


GOLDEN = ('What is the job of Tejimi?', 'clerk')
NAMES = set(language.names('known') + language.names('tasks'))


def test_bad_settings_are_told():
    with pytest.raises(DataError, match="kind 'recal' is unknown; allowed are recall"):
        SyntheticSettings('recal', 10)
    with pytest.raises(DataError, match="relations 'fare'"):
        SyntheticSettings('recall', 10, ('fare',))
    with pytest.raises(DataError, match='noise'):
        SyntheticSettings('recall', 10, noise=1.5)
    with pytest.raises(DataError, match='pair'):
        SyntheticSettings('recall', 10, answer_format='pair')
    with pytest.raises(DataError, match='101 training examples asked; recall has 60 at most'):
        make_dataset(SyntheticSettings('recall', 101, num_people=10, paraphrase_distance=1), 0)
