"""Meta-features: finite for any data, at most 64 examples read, values that can be computed another way."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metaft import phi3
from metaft.tasks import meta_features, prompts, tokenizer
from metaft.tasks.dataset import Dataset, Example
from metaft.tasks.synthetic import SyntheticSettings, make_dataset

BASE = Path(phi3.__file__).parent.parent / 'assets' / 'phi3_tiny'


@pytest.fixture(scope='module')
def tok():
    return tokenizer.train_tokenizer(['some words that are not many'], 270, 128)


@pytest.fixture(scope='module')
def model():
    config = phi3.Phi3Config(
        vocab_size=270, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return phi3.Phi3(config, rngs=nnx.Rngs(0))


def of(dataset, model, tok):
    encoded = prompts.encode(dataset.train, tok, max_length=256)
    return meta_features.meta_features(dataset, encoded, model, pretraining_tokens=1000)


@pytest.mark.parametrize('num', (1, 9, 200))
def test_all_are_finite_and_64_examples_are_read(num, model, tok):
    train = tuple(Example(f'Who is {n}?', 'yes', context='x' * (n % 3)) for n in range(num))
    found = of(Dataset('d', train, train[:1], train[:1], 'test'), model, tok)
    assert set(found.values) == set(meta_features.DATA_FEATURES) | set(meta_features.MODEL_FEATURES)
    assert all(math.isfinite(value) for value in found.values.values())
    assert found.num_examples == min(num, 64) and 0 < found.values['calibration_seconds_per_example'] < found.seconds


def test_only_the_sampled_examples_matter_to_the_model_part(model, tok):
    dataset = make_dataset(SyntheticSettings('recall', 100, num_people=40), 0)
    encoded = prompts.encode(dataset.train, tok, max_length=256)
    order = np.random.default_rng(0).permutation(100)
    shuffled = encoded.tokens_NL.copy()
    shuffled[order[64:], 5] = 77
    other = prompts.EncodedExamples(shuffled, encoded.answer_start_N, encoded.length_N)
    a, b = (meta_features.meta_features(dataset, e, model).values for e in (encoded, other))
    names = set(meta_features.MODEL_FEATURES) - {'calibration_seconds_per_example', 'log_pretraining_tokens'}
    assert {name: a[name] for name in names} == {name: b[name] for name in names}


def test_model_features_against_a_plain_computation(model, tok):
    dataset = make_dataset(SyntheticSettings('recall', 13, num_people=13), 0)
    encoded = prompts.encode(dataset.train, tok, max_length=256)
    found = meta_features.model_features(model, encoded)
    log_p_NLV = jax.nn.log_softmax(model(jnp.asarray(encoded.tokens_NL)))
    nll, first, exact = [], [], []
    for row in range(13):
        at = range(encoded.answer_start_N[row], encoded.length_N[row])
        nll.append([-float(log_p_NLV[row, t - 1, encoded.tokens_NL[row, t]]) for t in at])
        first.append(nll[-1][0])
        exact.append(all(int(log_p_NLV[row, t - 1].argmax()) == encoded.tokens_NL[row, t] for t in at))
    tokens = [value for row in nll for value in row]
    assert found['zero_shot_loss'] == pytest.approx(np.mean(tokens), rel=1e-5)
    assert found['zero_shot_loss_spread'] == pytest.approx(np.std([np.mean(n) for n in nll]), rel=1e-4)
    assert found['zero_shot_first_loss'] == pytest.approx(np.mean(first), rel=1e-5)
    assert found['zero_shot_stop_loss'] == pytest.approx(np.mean([n[-1] for n in nll]), rel=1e-5)
    assert found['zero_shot_exact_match'] == np.mean(exact)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert found['log_num_parameters'] == pytest.approx(math.log(count))


def test_pretraining_tokens_are_what_pretraining_recorded(tmp_path, model, tok):
    assert meta_features.pretraining_tokens(BASE) == 26 * 1024 * 512
    assert meta_features.pretraining_tokens(tmp_path) is None  # a base of somebody else
    train = (Example('Who?', 'me'),)
    dataset = Dataset('d', train, train, train, 'test')
    assert of(dataset, model, tok).values['log_pretraining_tokens'] == pytest.approx(math.log(1000))
    unknown = meta_features.meta_features(dataset, prompts.encode(train, tok, max_length=256), model)
    assert 'log_pretraining_tokens' not in unknown.values


def test_gradient_statistics_have_their_closed_form():
    gradient_ND = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0], [2.0, -3.0]])  # mean (2, 0), tr(S) = .5 + 4.5
    found = meta_features._gradient_features(gradient_ND)
    assert found['log_gradient_norm'] == pytest.approx(math.log(2))
    assert found['log_gradient_noise'] == pytest.approx(math.log1p(5 / 4))


def test_data_features_by_hand(tok):
    train = (
        Example('a b?', '12'),
        Example('a b?', '13'),
        Example('c?', 'yes'),
        Example('who?', 'b'),
        Example('when?', '3 May'),
        Example('where?', 'He lives here.', context='He lives here. So'),
    )
    dataset = Dataset('d', train, (Example('a new c?', 'yes'), Example('c?', 'no')), train[:1], 'test')
    found = meta_features.data_features(dataset, prompts.encode(train, tok, max_length=256))
    shares = {'number': 2, 'yes_no': 1, 'letter': 1, 'date': 1, 'sentence': 1}
    for kind, count in shares.items():
        assert found[f'{kind}_answers'] == pytest.approx(count / 6), kind
    assert found['duplicate_rate'] == pytest.approx(1 / 6) == found['contradiction_rate']
    assert found['context_rate'] == pytest.approx(1 / 6)
    assert found['answer_in_context_rate'] == pytest.approx(1 / 6)
    assert found['unseen_word_rate'] == pytest.approx(1 / 4) and found['unseen_answer_rate'] == 0.5
    assert found['answer_entropy'] == pytest.approx(math.log(6))
