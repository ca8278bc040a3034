"""Agreement with transformers' Phi3ForCausalLM: stored logits always, the library itself where torch is installed."""

import functools

import numpy as np
import pytest

from metaft.phi3 import Phi3Config, generate, save_pretrained
from tests.phi3 import cases
from tests.phi3.make_goldens import FILE, reference_logits

TOLERANCE = 1e-5  # absolute and relative, float32
EVERY = pytest.mark.parametrize('name', cases.CONFIGS)


@functools.cache
def model(name):
    return cases.model(cases.CONFIGS[name])


@EVERY
def test_logits_equal_stored_ones_of_transformers(name):
    """If cases.py changed on purpose: python -m tests.phi3.make_goldens (needs torch)."""
    goldens = np.load(FILE)
    tokens, mask = cases.tokens(cases.CONFIGS[name]), cases.padding('left')
    np.testing.assert_allclose(cases.logits(model(name), tokens), goldens[name], rtol=TOLERANCE, atol=TOLERANCE)
    padded = cases.logits(model(name), tokens, mask=mask)
    np.testing.assert_allclose(padded[mask], goldens[f'{name}.left'][mask], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture
def torch():
    return pytest.importorskip('torch')


def drawn(seed):
    """Draws a configuration: every combination of heads, window, rope, tying may come."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 4, 8]))
    head_dim = int(rng.choice([4, 8, 12]))
    partial = float(rng.choice([0.5, 1.0]))
    longrope = None
    if rng.random() < 0.5:
        short, long = (np.sort(rng.uniform(1, 5, int(head_dim * partial) // 2)).tolist() for _ in range(2))
        longrope = {'type': 'longrope', 'short_factor': short, 'long_factor': long}
    return Phi3Config.from_dict(
        {
            **cases.config().to_dict(),
            'hidden_size': heads * head_dim,
            'num_attention_heads': heads,
            'num_key_value_heads': int(rng.choice([n for n in (1, 2, 4, 8) if heads % n == 0])),
            'num_hidden_layers': int(rng.integers(1, 4)),
            'sliding_window': None if rng.random() < 0.4 else int(rng.integers(1, 20)),
            'partial_rotary_factor': partial,
            'rope_scaling': longrope,
            'original_max_position_embeddings': int(rng.integers(6, 20)),
            'tie_word_embeddings': bool(rng.random() < 0.3),
        }
    )


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize('seed', range(10))
def test_logits_equal_those_of_transformers(torch, seed):
    config = drawn(seed)
    ours = cases.model(config, seed)
    tokens = cases.tokens(config, batch=3, length=int(np.random.default_rng(seed).integers(5, 19)), seed=seed)
    for mask in (None, *(cases.padding(side, *tokens.shape) for side in ('left', 'right'))):
        mask = None if mask is None else mask | (np.arange(tokens.shape[1])[None] == tokens.shape[1] // 2)
        got = cases.logits(ours, tokens, mask=mask)
        real = np.ones(tokens.shape, bool) if mask is None else mask
        np.testing.assert_allclose(
            got[real], reference_logits(ours, tokens, mask)[real], rtol=TOLERANCE, atol=TOLERANCE
        )


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')
def test_greedy_tokens_equal_those_of_transformers_generate(torch, tmp_path):
    from transformers import Phi3ForCausalLM

    ours = cases.model(cases.CONFIGS['grouped'], seed=3)
    save_pretrained(ours, tmp_path, max_shard_bytes=20_000)
    theirs = Phi3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 61, rng.integers(1, 20)).tolist() for _ in range(20)]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = theirs.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=[9, 50])
    want = [row[width:].tolist() for row in out]
    got = generate(ours, prompts, max_new_tokens=12, stop_ids=[9, 50])
    assert {9, 50} <= {row[-1] for row in got if len(row) < 12}  # as for <|end|> and <|endoftext|>, either stops
    for mine, other in zip(got, want, strict=True):
        assert mine + [0] * (len(other) - len(mine)) == other  # transformers pads what has stopped
