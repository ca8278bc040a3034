"""Cross-entropy in chunks: the same numbers as in one piece, and never all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.finetune import step
from metaft.finetune.loss import token_scores
from metaft.finetune.population import Population
from tests.finetune.test_population import FULL, LORA
from tests.finetune.tiny import tiny_model, tiny_rows

B, A, D, V = 3, 10, 8, 40


def inputs(v=V, a=A, b=B):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((b, a, D)).astype(np.float32)
    return x, rng.integers(0, v, (b, a)).astype(np.int32), rng.standard_normal((D, v)).astype(np.float32)


def mean_nats(x, targets, head_DV, **options):
    vocab_size = head_DV.shape[1]
    nats, right, above = token_scores(
        lambda x: jnp.einsum('BAD,DV->BAV', x, head_DV), x, targets, vocab_size=vocab_size, **options
    )
    return jnp.mean(nats), (nats, above, right)


@pytest.mark.parametrize('positions', [1, 3, 4, 9, A])
def test_chunks_change_neither_value_nor_gradient(positions):
    x, targets, head = inputs()
    run = lambda **options: jax.value_and_grad(lambda x, head: mean_nats(x, targets, head, **options), (0, 1), True)(
        x, head
    )
    (whole, scores), gradients = run()
    (chunked, chunked_scores), chunked_gradients = run(max_logits=B * positions * V)
    assert chunked == pytest.approx(float(whole), abs=1e-6)
    np.testing.assert_array_equal(chunked_scores[2], scores[2])
    for one, two in zip((*gradients, *scores[:2]), (*chunked_gradients, *chunked_scores[:2]), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_a_gradient_never_holds_the_logits_of_more_than_one_chunk():
    b, a, v = 2, 64, 2000
    x, targets, head = inputs(v, a, b)
    gradient = lambda limit: jax.jit(jax.grad(lambda x: mean_nats(x, targets, head, max_logits=limit)[0]))
    temporary = lambda limit: gradient(limit).lower(x).compile().memory_analysis().temp_size_in_bytes
    assert temporary(b * a * v) >= 4 * b * a * v  # in one piece they are there
    assert temporary(b * v) < 4 * b * a * v / 8


@pytest.mark.parametrize(
    'configuration', [pytest.param(LORA[0], id='lora'), pytest.param(FULL[0], id='full', marks=pytest.mark.slow)]
)
def test_a_population_scored_in_chunks_trains_the_same(configuration, monkeypatch):
    def trained():
        one = Population(tiny_model(), configuration.method, tiny_rows())
        one.put(0, one.new_member(configuration, 0), configuration, seed=0, total_steps=30)
        one.advance([3])
        return one.training_loss(0), one.evaluate(tiny_rows(seed=1))[0]

    whole, score = trained()
    in_chunks = lambda *args, **options: token_scores(*args, **options, max_logits=1)
    monkeypatch.setattr(step, 'token_scores', in_chunks)
    chunked, chunked_score = trained()
    assert chunked == pytest.approx(whole, rel=1e-6)
    assert chunked_score.loss == pytest.approx(score.loss, rel=1e-6)
    assert chunked_score.exact_match == score.exact_match
