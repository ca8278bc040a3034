"""How near a generated answer comes to its reference: exact match, token F1, ROUGE-L, BLEU, chrF.

Packages do the counting of the last three; they are imported where they are used, as they take a second to load.
"""

import collections
import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words, in [0, 1].

    Words are compared without case, punctuation and articles; two texts without words agree.

    Reference: SQuAD's evaluation (arXiv 1606.05250, section 6.1).
    """
    words, wanted = _words(answer), _words(reference)
    common = sum((collections.Counter(words) & collections.Counter(wanted)).values())
    if not words or not wanted:
        return float(words == wanted)
    return 2.0 * common / (len(words) + len(wanted))


def text_metrics(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score answers against one reference each.

    Returns:
      'exact_match', 'token_f1' and 'rouge_l' (F measure), means in [0, 1]; 'bleu' and 'chrf' of the whole set, in
      [0, 100], as sacrebleu gives them. Where no answer is four tokens long, BLEU counts the n-grams that there are.

    Raises:
      ValueError: no answers, or not one reference each.
    """
    if not answers or len(answers) != len(references):
        raise ValueError(f'{len(answers)} answers and {len(references)} references; there must be as many, and one')
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    pairs = list(zip(answers, references, strict=True))
    mean = lambda values: sum(values) / len(pairs)
    scorer = RougeScorer(['rougeL'])
    return {
        'exact_match': mean(float(a == r) for a, r in pairs),
        'token_f1': mean(token_f1(a, r) for a, r in pairs),
        'rouge_l': mean(scorer.score(r, a)['rougeL'].fmeasure for a, r in pairs),
        'bleu': sacrebleu.BLEU(effective_order=True).corpus_score(list(answers), [list(references)]).score,
        'chrf': sacrebleu.CHRF().corpus_score(list(answers), [list(references)]).score,
    }


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split()
