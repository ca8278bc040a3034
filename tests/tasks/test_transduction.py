"""metaft/tasks/transduction.py: datasets fixed by their seed, languages that obey their grammar, base-model text."""

import dataclasses
import itertools
import random

import pytest

from metaft.errors import DataError
from metaft.tasks import pretraining, transduction
from metaft.tasks.tokenizer import ASSISTANT
from metaft.tasks.transduction import Phrase, Sentence, TransductionSettings, lexicon, source, target


@pytest.mark.parametrize('kind', transduction.KINDS)
def test_a_smaller_dataset_is_the_beginning_of_a_larger_one(kind):
    settings = TransductionSettings(kind, 40, 20, 20)
    large = transduction.make_dataset(settings, 3)
    small = transduction.make_dataset(dataclasses.replace(settings, num_train_examples=10), 3)
    assert small.train == large.train[:10] and small.test == large.test
    other = transduction.make_dataset(settings, 4)
    assert other.test == large.test and other.validation == large.validation and other.train != large.train
    prompts = [{e.prompt for e in getattr(large, split)} for split in ('train', 'validation', 'test')]
    assert not prompts[0] & prompts[2] and not prompts[0] & prompts[1] and not prompts[1] & prompts[2]


def test_translation_follows_lexicon_suffixes_and_order():
    noun, other, verb, adjective = (lexicon()[kind][rank] for kind, rank in
                                    (('noun', 0), ('noun', 1), ('verb', 0), ('adjective', 0)))  # fmt: skip
    said = Sentence(Phrase(0, True, 0), 0, True, Phrase(1, False, None))
    assert source(said).lower() == f'{adjective[0]} {noun[0]}ko {verb[0]}bi {other[0]}.'
    assert target(said).lower() == f'{noun[1]}ar {adjective[1]}ar {other[1]}un {verb[1]}ethi.'


def test_no_stem_occurs_twice_and_frequent_words_are_frequent():
    pairs = list(itertools.chain(*lexicon().values()))
    assert all(len({pair[side] for pair in pairs}) == len(pairs) for side in (0, 1))
    generator = random.Random(0)
    drawn = [transduction._draw_word('noun', generator) for _ in range(4000)]
    assert drawn.count(0) > 4 * drawn.count(40) > 0


def test_a_summary_names_what_the_passage_tells_in_a_fixed_order():
    for example in transduction.make_dataset(TransductionSettings('summary', 60), 0).train:
        name, listed = example.answer.removesuffix('.').split(': ')
        assert name in example.context and example.question == f'Sum up {name}.'
        assert listed == 'nothing' or all(value in example.context for value in listed.split(', '))


def test_base_models_read_the_source_and_little_of_the_target():
    texts = list(itertools.islice(transduction.documents(random.Random(0)), 2000))
    translated = [text for text in texts if 'Translate:' in text]
    assert 20 <= len(translated) <= 65 and all(ASSISTANT in text for text in translated)  # 40 expected; p < .003
    world_only = list(itertools.islice(pretraining.documents(random.Random(1)), 50))
    assert list(itertools.islice(transduction.mixed_documents(random.Random(1), 0.0), 50)) == world_only
    mixed = list(itertools.islice(transduction.mixed_documents(random.Random(1), 0.5), 400))
    assert 140 < sum(text in _said(text) for text in mixed) < 260  # 200 expected; p < 1e-8


def _said(text):
    """The text, where a word of it is a frequent one of the source language."""
    stems = [stem for pairs in lexicon().values() for stem, _ in pairs]
    return [text] if any(stem in text.lower() for stem in stems if len(stem) > 3) else []


@pytest.mark.parametrize(('kind', 'number', 'sentence'), [('song', 5, 'allowed are translation, summary'),
                                                          ('summary', 0, 'at least 1')])  # fmt: skip
def test_bad_settings_are_told(kind, number, sentence):
    with pytest.raises(DataError, match=sentence):
        TransductionSettings(kind, number)
