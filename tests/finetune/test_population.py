"""A population's member is the run it would be alone; freezing and thawing change nothing; what is frozen stays."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metaft.adapters import lora
from metaft.finetune import population as population_module
from metaft.finetune.methods import program
from metaft.finetune.population import CHUNK, MICRO_BATCH, Population
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.finetune.step import answer_scores
from tests.finetune.tiny import tiny_model, tiny_rows

NO_LORA = {'rank': None, 'alpha_ratio': None, 'dropout': None, 'targets': None}
LORA = [
    Configuration(learning_rate=1e-2, rank=4, dropout=0.0, batch_size=8),
    Configuration(learning_rate=3e-2, rank=8, dropout=0.2, batch_size=16, schedule='linear', targets='mlp', beta2=0.95),
    Configuration(
        learning_rate=1e-3, rank=1, alpha_ratio=4.0, schedule='constant', targets='attention', weight_decay=0.1
    ),
]
PROMPT = [
    Configuration(method='prompt', learning_rate=0.3, prompt_length=4, **NO_LORA),
    Configuration(method='prompt', learning_rate=0.03, prompt_length=16, batch_size=8, **NO_LORA),
]
FULL = [
    Configuration(method='full', learning_rate=1e-4, batch_size=8, **NO_LORA),
    Configuration(method='full', learning_rate=5e-4, schedule='linear', **NO_LORA),
]
DORA = [
    Configuration(learning_rate=1e-2, rank=4, dropout=0.0, batch_size=8, dora=True, rslora=True),
    Configuration(learning_rate=3e-3, rank=8, dropout=0.2, targets='mlp', dora=True, lora_plus_ratio=4.0),
]
LION = [
    Configuration(learning_rate=1e-3, rank=4, dropout=0.0, batch_size=8, optimizer='lion', beta2=0.99),
    Configuration(learning_rate=3e-4, rank=8, optimizer='lion', beta2=0.95, weight_decay=0.1, clip_norm=0.3),
]
ADAFACTOR = [
    Configuration(learning_rate=1e-2, rank=4, dropout=0.0, batch_size=8, optimizer='adafactor', beta2=None),
    Configuration(learning_rate=3e-3, rank=8, optimizer='adafactor', beta2=None, label_smoothing=0.1),
]
SGD = [
    Configuration(learning_rate=0.1, rank=4, dropout=0.0, batch_size=8, optimizer='sgd', beta2=None),
    Configuration(learning_rate=0.03, rank=8, optimizer='sgd', beta2=None, lora_plus_ratio=8.0),
]
GROUPS = {
    'lora': LORA,
    'prompt': PROMPT,
    'full': FULL,
    'dora': DORA,
    'lion': LION,
    'adafactor': ADAFACTOR,
    'sgd': SGD,
}
EACH = [  # the plainer optimizers take the same way as AdamW's and Adafactor's
    pytest.param(name, marks=pytest.mark.slow) if name in ('lion', 'sgd') else name for name in GROUPS
]
STEPS = 20


def new_population(configuration, *, rows=None, width=1, model=None):
    variant, optimizer = program(configuration)
    return Population(model or tiny_model(), variant, rows or tiny_rows(), width=width, optimizer=optimizer)


def train(configurations, steps=STEPS, width=None, rows=None):
    population = new_population(configurations[0], rows=rows, width=width or len(configurations))
    for slot, configuration in enumerate(configurations):
        member = population.new_member(configuration, seed=slot)
        population.put(slot, member, configuration, seed=slot, total_steps=30)
    population.advance([steps] * len(configurations) + [None] * (population.width - len(configurations)))
    return population


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=rtol * max(1e-3, np.abs(y).max()))


@pytest.mark.parametrize('name', EACH)
def test_member_equals_the_run_alone(name):
    configurations = GROUPS[name]
    together = train(configurations)
    scores = together.evaluate(tiny_rows(seed=1))
    for slot, configuration in enumerate(configurations):
        population = new_population(configuration)
        member = population.new_member(configuration, seed=slot)
        population.put(0, member, configuration, seed=slot, total_steps=30)
        population.advance([STEPS])
        assert_close(together.take(slot).trainable, population.take(0).trainable, rtol=1e-5)
        assert scores[slot].loss == pytest.approx(population.evaluate(tiny_rows(seed=1))[0].loss, rel=1e-5)


@pytest.mark.parametrize('name', EACH)
def test_freeze_and_thaw_is_bit_equal(name):
    configuration = GROUPS[name][1]
    undisturbed = train([configuration]).take(0)
    population = train([configuration], steps=7)
    frozen = population.take(0)
    other = new_population(configuration)
    other.put(0, frozen, configuration, seed=0, total_steps=30)
    other.advance([STEPS])
    assert_equal(other.take(0), undisturbed)


def test_stop_in_the_middle_of_an_update_and_go_on():
    configuration = dataclasses.replace(LORA[1], batch_size=64)  # eight micro-batches an update
    undisturbed = train([configuration], steps=5).take(0)
    population = train([configuration], steps=0)
    asked = []
    assert not population.advance([5], should_stop=lambda: asked.append(1) or True)
    assert len(asked) == 1 and population.steps()[0] == 0 and population.take(0).micro == 2
    assert population.advance([5])
    assert_equal(population.take(0), undisturbed)


@jax.jit
def after_a_second(x):
    """Returns x, late: XLA on a CPU computes callbacks and what is cheap at once, so that only work can hold it up."""
    square = jax.lax.fori_loop(0, 1000, lambda _, a: a @ a, jnp.full((256, 256), 0.0 * x[0]))
    return x + square[0, :1]


def test_a_call_is_dispatched_before_the_one_before_it_is_computed(monkeypatch):
    population = train([LORA[0]], steps=1)  # compiled
    population._micro_seconds = 1e-3  # so that no call is shorter than CHUNK
    monkeypatch.setattr(population_module, 'CALL_SECONDS', 1e9)
    jax.block_until_ready(after_a_second(population._members.loss_sum))
    under_way, computed_before, reads = [], [], []
    real, read = population._advance, population_module._read

    def slow(params, members, *rest):
        late = dataclasses.replace(members, loss_sum=after_a_second(members.loss_sum))
        members, diverged = real(params, late, *rest)
        computed_before.append([one.is_ready() for one in under_way])
        under_way.append(diverged)
        return members, diverged

    monkeypatch.setattr(population, '_advance', slow)
    monkeypatch.setattr(population_module, '_read', lambda x: (reads.append(len(under_way)), read(x))[1])
    population.advance([1 + 4 * CHUNK])
    assert [ready[-1:] for ready in computed_before] == [[], [False], [False], [False]]
    assert reads == [2, 3, 4, 4], 'one call ahead, never more: a run that is told to stop has two to wait for'


def test_calls_are_shorter_where_they_take_long_and_nothing_else_changes(monkeypatch):
    configuration, asked = LORA[1], []
    undisturbed = train([configuration]).take(0)
    monkeypatch.setattr(population_module, 'CALL_SECONDS', 0.0)
    population = train([configuration], steps=0)
    population.advance([STEPS], should_stop=lambda: asked.append(1))
    assert len(asked) == 2 * STEPS  # a micro-batch a call
    assert_equal(population.take(0), undisturbed)


@pytest.mark.parametrize('name', ['lora', 'dora', 'prompt', 'full'])
def test_thawed_in_another_slot_and_width_it_goes_on(name):
    configuration = GROUPS[name][0]
    undisturbed, frozen = train([configuration]).take(0), train([configuration], steps=7).take(0)
    wide = train(GROUPS[name][:2], steps=2)
    wide.put(1, frozen, configuration, seed=0, total_steps=30)
    wide.advance([None, STEPS])
    assert_close(wide.take(1).trainable, undisturbed.trainable, rtol=1e-6)


def test_swapping_slots_changes_nothing():
    first = train(LORA[:2], steps=10, width=3)
    members = [first.take(0), first.take(1)]
    for target, source in ((0, 1), (2, 0)):
        first.put(target, members[source], LORA[source], seed=source, total_steps=30)
    first.advance([STEPS, None, STEPS])
    straight = train(LORA[:2], width=3)
    assert_close(first.take(0).trainable, straight.take(1).trainable, rtol=1e-6)
    assert_close(first.take(2).trainable, straight.take(0).trainable, rtol=1e-6)


@pytest.mark.parametrize('name', ['lora', 'prompt', 'dora', 'lion', 'full'])
def test_base_is_frozen_and_adapter_moves(name):
    configuration, model = GROUPS[name][0], tiny_model()
    before = jax.tree.map(np.array, nnx.state(model, nnx.Param))
    population = new_population(configuration, model=model)
    start = population.new_member(configuration, seed=0)
    population.put(0, start, configuration, seed=0, total_steps=30)
    population.advance([3])
    after = population._params
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(x, np.asarray(y))
    moved = [not np.array_equal(x, y) for x, y in zip(
        jax.tree.leaves(start.trainable), jax.tree.leaves(population.take(0).trainable), strict=True)]  # fmt: skip
    assert all(moved)


def test_masked_ranks_and_modules_stay_zero():
    population = train([LORA[2]])  # rank 1, attention only
    adapter = population.take(0).trainable
    for path, leaves in adapter.items():
        assert not leaves['lora_A'][:, 1:].any() and not leaves['lora_B'][1:].any(), path
        if 'mlp' in path:
            assert not leaves['lora_B'].any(), path


WILD = Configuration(learning_rate=1e30, rank=8, dropout=0.0, batch_size=8, warmup_fraction=0.0)


@pytest.mark.parametrize('wild', [WILD, dataclasses.replace(WILD, dora=True)], ids=['lora', 'dora'])
def test_slots_are_refilled_without_compiling_again(wild):
    tame = dataclasses.replace(LORA[0], dora=wild.dora)
    population = train([tame, wild])
    assert list(population.alive()) == [True, False]
    straight = population.take(0)
    programs = (population._advance, population._evaluate, population._init, population._place, population._take)
    population.put(1, population.new_member(tame, 0), tame, seed=0, total_steps=30)  # a diverged slot
    compiled = [one._cache_size() for one in programs]
    population.advance([None, STEPS])
    assert_close(population.take(1), straight, rtol=1e-6)
    other = dataclasses.replace(tame, learning_rate=1e-4, rank=2, targets='mlp', batch_size=32, schedule='linear',
                                beta2=0.9, clip_norm=0.1, label_smoothing=0.1, lora_plus_ratio=4.0, rslora=True,
                                layers='first_half', dropout=0.1, weight_decay=0.1)  # fmt: skip
    population.put(0, population.new_member(other, 5), other, seed=5, total_steps=7)  # a finished one
    population.advance([7, None])
    assert list(population.steps()) == [7, STEPS] and population.alive().all()
    assert population._advance._cache_size() == 1 and [one._cache_size() for one in programs] == compiled


def test_a_population_takes_its_own_program_only():
    population = new_population(LORA[0])
    for changes in ({'dora': True}, {'rank': 64}, {'optimizer': 'lion'}):
        with pytest.raises(ValueError, match='does not train in a population of lora/adamw'):
            population.new_member(dataclasses.replace(LORA[0], **changes), 0)
    with pytest.raises(ValueError, match='a batch of 12 is no multiple of micro-batches of 8'):
        population.new_member(dataclasses.replace(LORA[0], batch_size=12), 0)


def test_label_smoothing_is_that_of_optax():
    rows, model = tiny_rows(4), tiny_model()
    add_axis = lambda tree: jax.tree.map(lambda x: x[None], tree)
    adapter = add_axis(new_population(LORA[0], model=model).new_member(LORA[0], 0).trainable)
    settings = add_axis(lora.settings(rank=4, alpha=8.0, dropout=0.0, targets='all', max_rank=32))
    graphdef, params = nnx.split(model)
    scores = jax.jit(partial(answer_scores, graphdef, 'lora'))
    nats, mask, _, above = scores(params, adapter, settings, add_axis(rows), None)

    @jax.jit
    def plain(params):
        labels = optax.smooth_labels(jax.nn.one_hot(rows.tokens_NL[:, 1:], 48), 0.1)
        return optax.softmax_cross_entropy(nnx.merge(graphdef, params)(rows.tokens_NL)[:, :-1], labels)

    at = np.arange(1, 16)[None, :]
    is_answer = (at >= rows.answer_start_N[:, None]) & (at < rows.length_N[:, None])
    found = np.asarray(nats + 0.1 * above)[np.asarray(mask)]
    np.testing.assert_allclose(found, np.asarray(plain(params))[is_answer], rtol=1e-5)


def test_diverged_member_disturbs_nobody():
    together = train([LORA[0], WILD])
    alone = train([LORA[0]], width=2)
    assert list(together.alive()) == [True, False]
    assert_close(together.take(0).trainable, alone.take(0).trainable, rtol=1e-6)


def test_a_member_with_a_nan_is_dead_and_disturbs_nobody():
    together, alone = train(LORA[:2], steps=2), train(LORA[:2], steps=2)
    sick = together.take(1)
    sick = dataclasses.replace(
        sick, trainable=jax.tree.map(lambda x: np.where(x == x.max(), np.nan, x), sick.trainable)
    )
    together.put(1, sick, LORA[1], seed=1, total_steps=30)
    for population in (together, alone):
        population.advance([STEPS, STEPS])
    assert list(together.alive()) == [True, False] and together.steps()[1] == 2
    assert_equal(together.take(0), alone.take(0))
    assert not np.isfinite(together.evaluate(tiny_rows(seed=1))[1].loss)


def test_nobody_computes_for_the_dead(monkeypatch):
    population, calls = train([WILD], steps=0), []
    real = population._advance
    monkeypatch.setattr(population, '_advance', lambda *args: (calls.append(1), real(*args))[1])
    assert population.advance([30 * CHUNK])
    assert not population.alive()[0] and len(calls) < 6


def test_members_are_donated_to_the_step():
    population = train([LORA[0]], steps=1)
    before = jax.tree.leaves(population._members.trainable)
    assert all(isinstance(leaf, jax.Array) for leaf in before)
    population.advance([2])
    assert all(leaf.is_deleted() for leaf in before)


def test_batch_size_is_that_of_a_plain_step():
    """Two accumulated micro-batches and one optax step by hand on all 16 rows give the same update."""
    configuration = dataclasses.replace(LORA[0], batch_size=16, warmup_fraction=0.0, schedule='constant', rank=4)
    rows = tiny_rows(16)
    population = train([configuration], steps=1, rows=rows)
    model = tiny_model()
    start = Population(model, 'lora', rows).new_member(configuration, seed=0).trainable
    settings = lora.settings(rank=4, alpha=8.0, dropout=0.0, targets='all', max_rank=32)
    add_axis = lambda tree: jax.tree.map(lambda x: x[None], tree)
    graphdef, params = nnx.split(model)

    def loss(adapter):
        fresh = nnx.merge(graphdef, params)
        x = lora.hidden(fresh, add_axis(adapter), add_axis(settings), rows.tokens_NL)
        logits = fresh.logits(x)[:, :-1]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens_NL[:, 1:])
        at = np.arange(1, 16, dtype=np.int32)[None, :]
        mask = ((at >= rows.answer_start_N[:, None]) & (at < rows.length_N[:, None])).astype(np.float32)
        return (nats * mask).sum() / mask.sum()

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(configuration.learning_rate))
    grads = jax.grad(loss)(start)
    with jax.numpy_dtype_promotion('standard'):
        updates, _ = optimizer.update(grads, optimizer.init(start), start)
    # Adam's first step has length lr whatever the gradient: entries whose gradient is rounding noise are left out.
    for (x, y), g in zip(
        zip(
            jax.tree.leaves(population.take(0).trainable),
            jax.tree.leaves(optax.apply_updates(start, updates)),
            strict=True,
        ),
        jax.tree.leaves(grads),
        strict=True,
    ):
        sure = np.abs(g) > 1e-6
        np.testing.assert_allclose(np.asarray(x)[sure], np.asarray(y)[sure], rtol=2e-4)


def test_order_visits_every_row_once_an_epoch():
    from metaft.finetune.data import order

    whole = order(3, 0, 30, 10)
    assert all(sorted(whole[i : i + 10]) == list(range(10)) for i in (0, 10, 20))
    np.testing.assert_array_equal(np.concatenate([order(3, 0, 13, 10), order(3, 13, 17, 10)]), whole)
    assert MICRO_BATCH == 8


@pytest.mark.parametrize('method', ['lora', 'full', 'prompt'])
def test_training_lowers_the_loss(method):
    rows = tiny_rows(8)
    configuration = dataclasses.replace(default_configuration(method), batch_size=8)
    if method != 'prompt':
        configuration = dataclasses.replace(configuration, learning_rate=1e-2)
    population = Population(tiny_model(), method, rows)
    population.put(0, population.new_member(configuration, 0), configuration, seed=0, total_steps=60)
    before = population.evaluate(rows)[0]
    population.advance([60])
    after = population.evaluate(rows)[0]
    assert after.loss < 0.8 * before.loss
    assert after.num_tokens == int((rows.length_N - rows.answer_start_N).sum())
