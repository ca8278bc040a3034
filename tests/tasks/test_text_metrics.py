"""Metrics of generated answers: values known from the definitions."""

import math

import pytest

from metaft.tasks.text_metrics import text_metrics, token_f1


@pytest.mark.parametrize(
    'answer, reference, want',
    [
        ('The red harbour', 'red harbour.', 1.0),
        ('red', 'the red harbour', 2 / 3),  # precision 1, recall 1/2
        ('red red', 'red blue', 0.5),  # a word counts as often as it is there
        ('', 'blue', 0.0),
        ('the', '', 1.0),
    ],
)
def test_token_f1(answer, reference, want):
    assert token_f1(answer, reference) == pytest.approx(want)


def test_equal_texts_are_perfect():
    texts = ['the keeper of the light lives here', 'blue']
    assert text_metrics(texts, texts) == pytest.approx(
        {'exact_match': 1.0, 'token_f1': 1.0, 'rouge_l': 1.0, 'bleu': 100.0, 'chrf': 100.0}
    )


def test_values_by_hand():
    found = text_metrics(['a b x c'], ['a b c'])
    assert found['exact_match'] == 0.0
    assert found['rouge_l'] == pytest.approx(6 / 7)  # the longest common subsequence has 3 of 4 and of 3 words
    # 3 of 4 words, 1 of 3 pairs, none of 2 triples and of 1 quadruple: those count as 1/2 and 1/4 of one.
    assert found['bleu'] == pytest.approx(100 * math.exp(sum(map(math.log, (3 / 4, 1 / 3, 1 / 4, 1 / 4))) / 4))


def test_short_answers_have_a_bleu():
    assert text_metrics(['blue sky'], ['blue sky'])['bleu'] == pytest.approx(100.0)
    assert text_metrics(['red'], ['blue']) == pytest.approx(
        {
            'exact_match': 0.0,
            'token_f1': 0.0,
            'rouge_l': 0.0,
            'bleu': 0.0,
            'chrf': text_metrics(['red'], ['blue'])['chrf'],
        }
    )


def test_one_reference_each():
    with pytest.raises(ValueError, match='1 answers and 2 references'):
        text_metrics(['a'], ['a', 'b'])
    with pytest.raises(ValueError, match='0 answers'):
        text_metrics([], [])
