"""Pretraining text, and the experiment that reads it, tiny: resumes to the same curve, leaves a loadable model."""

import itertools
import json
import random

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import pretrain
from metaft import phi3
from metaft.tasks import pretraining, tokenizer

TINY = [
    '--hidden_size=8', '--num_layers=1', '--num_heads=2', '--intermediate_size=8', '--vocabulary_size=300',
    '--num_blocks=2', '--block_steps=2', '--step_tokens=256', '--row_length=128', '--short_share=0.5',
]  # fmt: skip


@pytest.fixture(scope='module')
def tok():
    return tokenizer.train_tokenizer(pretraining.tokenizer_texts(random.Random(0), 500), 400, 512)


def test_documents_have_the_shares_they_should():
    found = list(itertools.islice(pretraining.documents(random.Random(0)), 6000))
    assert found == list(itertools.islice(pretraining.documents(random.Random(0)), 6000))
    share = sum('<|user|>' not in text for text in found) / 6000
    assert share == pytest.approx(pretraining.MIXTURE['statement'], abs=0.015)  # 4 sd, false alarm 1e-4
    assert sum(pretraining.MIXTURE.values()) == pytest.approx(1)


def test_rows_hold_whole_documents_and_weigh_answers(tok):
    texts = [pretraining.chat(f'Who {"is " * (n % 7)}it?', 'one two', 'ctx' * (n % 2)) for n in range(400)]
    tokens_NL, weights_NL = pretraining.packed_rows(tok, itertools.cycle([*texts, 'A statement.']), 20, 64, 8.0)
    assert tokens_NL.shape == weights_NL.shape == (20, 64)
    user, end, separator = tok.convert_tokens_to_ids(['<|user|>', '<|end|>', '<|endoftext|>'])
    answer = [*tok.encode('one two', add_special_tokens=False), end]
    for tokens, weights in zip(tokens_NL, weights_NL, strict=True):
        count = int((tokens == user).sum())
        assert tokens[weights == 8].tolist() == answer * count and count >= 1
        assert tokens[-1] == separator and set(tokens[weights == 0].tolist()) <= {separator}
        assert (tokens[:-1][tokens[1:] == user] == separator).all()


def test_pretrain_resumes_and_leaves_a_model(tmp_path, run_experiment, monkeypatch):
    run_experiment('pretrain', f'--workdir={tmp_path / "whole"}', *TINY)
    save = pretrain.save

    def stop_after_one(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, 'save', stop_after_one)
    with pytest.raises(SystemExit, match='130'):
        run_experiment('pretrain', f'--workdir={tmp_path / "halves"}', *TINY)
    monkeypatch.setattr(pretrain, 'save', save)
    run_experiment('pretrain', f'--workdir={tmp_path / "halves"}', *TINY)
    records = [json.loads((tmp_path / d / 'model' / 'pretraining.json').read_text()) for d in ('whole', 'halves')]
    curves = [[{k: v for k, v in point.items() if k != 'seconds'} for point in r['curve']] for r in records]
    assert curves[0] == curves[1] and len(curves[0]) == 2
    models = [phi3.load_pretrained(tmp_path / d / 'model') for d in ('whole', 'halves')]
    leaves = [jax.tree.leaves(nnx.state(model)) for model in models]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(tokenizer.load_tokenizer(tmp_path / 'whole' / 'model')) == 300


def test_sizes_are_sixteen_fold_apart_and_read_the_same():
    counts = []
    for size in pretrain.SIZES:
        settings = pretrain.Settings(size=size)
        config = pretrain.model_config(settings, settings.vocabulary_size)
        shapes = nnx.eval_shape(lambda config=config: phi3.Phi3(config, rngs=nnx.Rngs(0)))
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes))))
        assert settings.name == f'phi3_{size}' and f'{counts[-1] / 1e6:.1f}m' == size
        assert settings.tokens_after(26) == pretrain.Settings().tokens_after(26)
    assert counts[0] == 216_512 and counts[-1] >= 16 * counts[0]


@pytest.mark.parametrize('name', ('phi3_tiny', 'phi3_0.9m'))
def test_a_shipped_base_knows_and_reads(name):
    """The shipped files fit together: recall and reading at the level that its record states."""
    directory = pretrain.SHIPPED.parent / name
    record = json.loads((directory / 'pretraining.json').read_text())
    graph, params = nnx.split(phi3.load_pretrained(directory))
    found = pretrain.Evaluation(graph, tokenizer.load_tokenizer(directory), num=64)(params)
    for kind, recorded in record['curve'][-1].items():
        if kind in found:
            assert abs(found[kind] - recorded) < 0.2, kind  # the sd of a share over 64 is at most .06
    assert found['question'] > 0.9 and found['reading_1'] > 0.8
