"""Length buckets: every micro-batch is there once, in its order and whole, and nothing is scored differently."""

import jax
import numpy as np
import pytest

from metaft.finetune import population as population_module
from metaft.finetune import step
from metaft.finetune.buckets import bucket_lengths, bucketed_parts, sorted_parts
from metaft.finetune.data import Rows
from metaft.finetune.population import Population
from metaft.phi3 import LongRope
from tests.finetune.test_packing import long_tailed
from tests.finetune.test_population import LORA, PROMPT, assert_equal
from tests.finetune.tiny import tiny_population, tiny_rows
from tests.phi3 import cases

LENGTHS = (16, 24, 48)  # of long_tailed's rows, which have 8 or 40 tokens


def test_buckets_are_chosen_where_they_save_enough():
    choose = lambda rows, gain=1.5, width=1, **how: bucket_lengths(rows, 8, width=width, size=16, gain=gain, **how)
    assert choose(tiny_rows()) == (16,)  # as long as their rows nearly
    rows = long_tailed()
    rows = rows.take(np.r_[0, np.tile(np.flatnonzero(rows.length_N < 40), 2)])  # one of 111 is long
    assert choose(rows) == (16, 48)
    assert choose(rows, gain=3.0) == (48,)
    assert choose(rows, shortest=17) == (24, 48)
    # Seven of a hundred micro-batches are long: the members of a wide population would wait for one another.
    assert choose(rows, width=8) == (48,)


def test_every_micro_batch_is_there_once_and_whole():
    rows, index = long_tailed(), np.random.default_rng(0).integers(0, 60, (16, 2, 8))
    left_M = np.array([16, 5])
    parts = list(bucketed_parts(rows, index, left_M, LENGTHS))
    assert {part.tokens_NL.shape for _, part in parts} == {(16, 2, 8, 16), (16, 2, 8, 48)}
    for m in range(2):
        got = [part.tokens_NL[s, m] for count_M, part in parts for s in range(count_M[m])]
        assert len(got) == left_M[m]
        for s, tokens in enumerate(got):
            whole = rows.tokens_NL[index[s, m]]
            np.testing.assert_array_equal(np.pad(tokens, ((0, 0), (0, 48 - tokens.shape[1]))), whole)


def test_evaluation_takes_every_row_once_the_short_ones_cut():
    rows = long_tailed()
    parts = list(sorted_parts(rows, 8, LENGTHS))
    assert [part.tokens_NL.shape for part in parts] == 6 * [(8, 16)] + 2 * [(8, 48)]
    found = [tokens[:length].tolist() for p in parts for tokens, length in zip(p.tokens_NL, p.length_N) if length]
    assert sorted(found) == sorted(tokens[:length].tolist() for tokens, length in zip(rows.tokens_NL, rows.length_N))
    (whole,) = sorted_parts(rows, 64, (48,))
    np.testing.assert_array_equal(whole.tokens_NL[:60], rows.tokens_NL)  # one bucket: the order stays
    assert [part.tokens_NL.shape for part in sorted_parts(rows.take(np.arange(0)), 8, LENGTHS)] == [(8, 16)]


@pytest.mark.parametrize(
    'configurations', [pytest.param(PROMPT, id='prompt', marks=pytest.mark.slow), pytest.param(LORA[:1], id='lora')]
)
def test_a_run_in_buckets_is_the_run_without(configurations, monkeypatch):
    """Losses are the same, one program a bucket is compiled, and stopped anywhere and gone on it is bit-equal."""
    monkeypatch.setattr(population_module, 'batch_shape', lambda *_, **__: None)
    advance, traced = step.advance, []
    trace = lambda *args: (traced.append(args[6].tokens_NL.shape[-1]), advance(*args))[1]
    monkeypatch.setattr(step, 'advance', trace)

    def trained(lengths, stops=()):
        monkeypatch.setattr(population_module, 'bucket_lengths', lambda *_, **__: lengths)
        return tiny_population(long_tailed(), configurations, advances=(*stops, 20))

    plain, cut, stopped = trained((48,)), trained(LENGTHS), trained(LENGTHS, stops=(3, 11))
    assert traced == [48, *LENGTHS, *LENGTHS], 'one program a bucket'
    rows = tiny_rows(seed=1)
    padded = Rows(np.pad(rows.tokens_NL, ((0, 0), (0, 32))), rows.answer_start_N, rows.length_N, rows.max_answer)
    for slot in range(len(configurations)):
        assert_equal(stopped.take(slot), cut.take(slot))
        for x, y in zip(jax.tree.leaves(cut.take(slot)), jax.tree.leaves(plain.take(slot)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5 * max(1e-3, np.abs(y).max()))
        scores = [population.evaluate(part)[slot] for population, part in ((plain, padded), (cut, padded), (cut, rows))]
        assert [score.loss for score in scores] == pytest.approx(3 * [scores[0].loss], rel=1e-5)
        assert len({(score.exact_match, score.num_tokens) for score in scores}) == 1
        assert cut.training_loss(slot) == pytest.approx(plain.training_loss(slot), rel=1e-5)


def test_rows_that_make_longrope_take_its_long_factors_are_neither_packed_nor_cut_below():
    short, long = (1.0, 1.1, 1.3, 1.6), (1.5, 2.0, 4.0, 9.0)
    of = lambda original: cases.model(
        cases.config(rope_scaling=LongRope(short, long), original_max_position_embeddings=original)
    )
    reaching, within = (Population(of(original), 'lora', long_tailed()) for original in (30, 48))
    assert reaching._packing is None and min(reaching._lengths) > 30
    assert within._packing is not None
