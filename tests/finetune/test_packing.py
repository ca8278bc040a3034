"""Packed rows: every example is there once, scored as alone, and nothing leaks from one to another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.finetune import population as population_module
from metaft.finetune.data import Rows
from metaft.finetune.packing import PackedRows, batch_shape, first_fit, pack, pack_if_worth_it, packed_parts
from metaft.finetune.population import Population
from tests.finetune.test_population import FULL, LORA
from tests.finetune.tiny import tiny_model, tiny_population, tiny_rows
from tests.phi3 import cases

LENGTH = 40  # tokens of a packed row: three to five of the tiny examples


def test_first_fit_places_every_example_once_and_fills_rows():
    length = np.random.default_rng(0).integers(1, 30, 200)
    answer = np.minimum(length, 3)
    bins = first_fit(length, 32, answer, 999)
    assert sorted(example for row in bins for example in row) == list(range(200))
    assert all(length[row].sum() <= 32 for row in bins)
    assert len(bins) <= 11 / 9 * -(-length.sum() // 32) + 1
    assert all(answer[row].sum() <= 6 for row in first_fit(length, 32, answer, 6))
    assert first_fit(np.zeros(0, int), 8, np.zeros(0, int), 8) == []
    with pytest.raises(ValueError, match='an example of 30 tokens'):
        first_fit(np.array([3, 30]), 29, np.array([1, 1]), 8)


def test_positions_restart_and_answers_are_found():
    rows = tiny_rows()
    packed = pack(rows, LENGTH)
    index, mask = map(np.asarray, packed.answers())
    assert mask.sum() == (rows.length_N - rows.answer_start_N).sum()
    found = []
    for row in range(len(packed.tokens_NL)):
        for segment in range(1, packed.max_segments + 1):
            here = np.flatnonzero(packed.segment_ids_NL[row] == segment)
            np.testing.assert_array_equal(packed.positions_NL[row, here], np.arange(len(here)))
            answer = [i for i in index[row][mask[row]] if i in here]
            found.append((packed.tokens_NL[row, here].tolist(), packed.tokens_NL[row, answer].tolist()))
    want = [
        (tokens[:end].tolist(), tokens[start:end].tolist())
        for tokens, start, end in zip(rows.tokens_NL, rows.answer_start_N, rows.length_N, strict=True)
    ]
    assert sorted(f for f in found if f[0]) == sorted(want)


@pytest.mark.parametrize('configurations', [LORA[:2], FULL], ids=['lora', 'full'])
def test_packed_rows_score_as_rows_of_their_own(configurations):
    population = Population(tiny_model(), configurations[0].method, tiny_rows(), width=2)
    for slot, configuration in enumerate(configurations):
        population.put(slot, population.new_member(configuration, slot), configuration, seed=slot, total_steps=30)
    population.advance([10, 5])
    rows = tiny_rows(seed=1)
    packed = pack(rows, LENGTH)
    assert len(packed.tokens_NL) < len(rows.tokens_NL) / 2
    for alone, together in zip(population.evaluate(rows), population.evaluate(packed), strict=True):
        assert together.loss == pytest.approx(alone.loss, rel=1e-6)
        assert (together.exact_match, together.num_tokens) == (alone.exact_match, alone.num_tokens)


def test_only_many_rows_of_padding_are_packed():
    rows = tiny_rows(200)  # 10 of 16 tokens on average
    padded = dataclasses.replace(rows, tokens_NL=np.pad(rows.tokens_NL, ((0, 0), (0, 24))))
    assert pack_if_worth_it(rows, num_rows=100, gain=2.0) is rows
    assert pack_if_worth_it(padded, num_rows=200, gain=2.0) is padded
    packed = pack_if_worth_it(padded, num_rows=100, gain=2.0)
    assert len(packed.tokens_NL) <= 100 and packed.num_examples == 200


def test_a_population_packs_what_it_evaluates():
    rows = tiny_rows(200, seed=1)
    padded = dataclasses.replace(rows, tokens_NL=np.pad(rows.tokens_NL, ((0, 0), (0, 24))))
    one = Population(tiny_model(), 'lora', tiny_rows())
    one.put(0, one.new_member(LORA[0], 0), LORA[0], seed=0, total_steps=30)
    (packed,) = one.evaluate(padded)
    assert isinstance(one._packed[id(padded)][1], PackedRows)
    (plain,) = one.evaluate(rows)
    assert packed.loss == pytest.approx(plain.loss, rel=1e-6) and packed.exact_match == plain.exact_match


def long_tailed(num=60):
    """Most examples have 8 of 48 tokens, one in twelve has 40: eight random ones fit into two rows, or do not."""
    rows = tiny_rows(num)
    tokens = np.pad(rows.tokens_NL, ((0, 0), (0, 32)))
    long = np.arange(num) % 12 == 0
    tokens[long, 6:40] = np.random.default_rng(3).integers(2, 48, (long.sum(), 34))
    start = np.where(long, 36, 4).astype(np.int32)
    length = np.where(long, 40, 8).astype(np.int32)
    return Rows(np.where(np.arange(48) < length[:, None], tokens, 0), start, length, 8)


def test_a_shape_is_chosen_that_nearly_all_batches_fit_into():
    assert batch_shape(tiny_rows(), 8, gain=2.0) is None  # as long as their rows nearly
    shape = batch_shape(long_tailed(), 8, gain=2.0, share=0.5)
    assert shape.num_rows == 2 and shape.max_answers == 32
    assert batch_shape(long_tailed(), 8, gain=2.0, share=0.95).num_rows == 4
    assert batch_shape(long_tailed(), 8, gain=4.0, share=0.95) is None


@pytest.mark.parametrize(
    'configurations', [pytest.param(LORA[:1], id='lora'), pytest.param(FULL, id='full', marks=pytest.mark.slow)]
)
def test_training_on_packed_batches_is_training_on_rows(configurations, monkeypatch):
    """Some micro-batches fit into two rows and some do not; stopped anywhere and gone on, it is bit-equal."""

    def trained(shape, stops=()):
        monkeypatch.setattr(population_module, 'batch_shape', lambda *_, **__: shape)
        population = tiny_population(long_tailed(), configurations, advances=(*stops, 20))
        return jax.tree.leaves([population.take(slot).trainable for slot in range(len(configurations))])

    shape = batch_shape(long_tailed(), 8, gain=2.0, share=0.5)
    index = np.random.default_rng(0).integers(0, 60, (16, 2, 8))
    parts = list(packed_parts(long_tailed(), index, np.array([16, 5]), shape))
    assert len({type(rows) for _, rows in parts}) == 2
    np.testing.assert_array_equal(sum(count_M for count_M, _ in parts), [16, 5])
    plain, packed, stopped = trained(None), trained(shape), trained(shape, stops=(3, 11))
    for one, two, three in zip(plain, packed, stopped, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=2e-5 * np.abs(one).max())
        np.testing.assert_array_equal(three, two)


@pytest.mark.parametrize('name', ['grouped', 'multi_query_window', 'partial_rotary'])
def test_nothing_leaks_between_examples(name):
    model = cases.model(cases.CONFIGS[name])
    lengths = (5, 4, 3)
    segments = np.repeat([1, 2, 3], lengths)[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32)
    x_BLD = model.embed(jnp.asarray(cases.tokens(model.config, 1, sum(lengths))))
    loss = lambda x, segment: jnp.sum(
        model.hidden(x, jnp.asarray(positions), segment_ids_BL=jnp.asarray(segments))[0] ** 3,
        where=(segments[0] == segment)[:, None],
    )
    alone = lambda x: model.hidden(x)[0]
    for segment in (1, 2, 3):
        own = segments[0] == segment
        gradient = np.asarray(jax.grad(loss)(x_BLD, segment))[0]
        assert not gradient[~own].any(), 'a gradient that is exactly zero'
        assert np.abs(gradient[own]).min() > 0
        hidden = model.hidden(x_BLD, jnp.asarray(positions), segment_ids_BL=jnp.asarray(segments))[0]
        np.testing.assert_allclose(hidden[own], alone(x_BLD[:, own]), atol=1e-5)
