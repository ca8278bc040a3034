"""The estimate against XLA's own analysis, and what follows from it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from metaft.errors import ModelError
from metaft.finetune import memory
from metaft.finetune.memory import affordable_width, estimate, num_trained
from metaft.finetune.methods import METHODS, variant
from metaft.finetune.population import CHUNK, MICRO_BATCH, Population, evaluation_batch
from metaft.finetune.search_space import default_configuration
from metaft.phi3 import PRESETS, Phi3
from metaft.phi3.quantized import quantize
from tests.finetune.tiny import tiny_model, tiny_rows
from tests.phi3 import cases

FACTOR = 2.0
SHAPE = cases.config(
    hidden_size=192, intermediate_size=512, num_hidden_layers=2, vocab_size=2048, max_position_embeddings=256
)


@pytest.mark.parametrize(
    ('method', 'width', 'remat'),
    [('lora', 3, 'none'), ('lora', 1, 'layer'), ('full', 2, 'none'), ('prompt', 2, 'layer')],
)
def test_estimate_is_near_what_xla_reserves(method, width, remat):
    model = Phi3(SHAPE, rngs=nnx.Rngs(0))
    model.remat = remat
    rows = tiny_rows(8, length=64)
    population = Population(model, method, rows, width=width)
    configuration = dataclasses.replace(default_configuration(method), batch_size=8)
    population.put(0, population.new_member(configuration, 0), configuration, seed=0, total_steps=10)
    batches = rows.take(np.zeros((CHUNK, width, MICRO_BATCH), np.int32))
    left_M = np.ones(width, np.int32)
    step = population._advance.lower(
        population._params, population._members, population._hyper, batches, left_M, left_M.max()
    )
    part = rows.take_padded(np.arange(8), evaluation_batch(width, 64))
    evaluation = population._evaluate.lower(
        population._params, population._members.trainable, population._hyper['adapter'], part
    )
    analyses = [program.compile().memory_analysis() for program in (step, evaluation)]
    used = max(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes for analysis in analyses)
    got = estimate(model, method, width=width, batch=MICRO_BATCH, length=64, max_answer=rows.max_answer)
    assert used / FACTOR < got.total < used * FACTOR, (used, str(got))


def of_variant(name):
    kind, _, size = name.partition('_')
    changes = {'dora': True} if kind == 'dora' else {}
    if size:
        changes['prompt_length' if kind == 'prompt' else 'rank'] = int(size)
    return dataclasses.replace(default_configuration('lora' if kind == 'dora' else kind), **changes)


@pytest.mark.parametrize('name', METHODS)
def test_trained_numbers_are_counted(name):
    model, configuration = tiny_model(), of_variant(name)
    assert variant(configuration) == name
    member = Population(model, name, tiny_rows()).new_member(configuration, 0)
    assert num_trained(model.config, name) == sum(x.size for x in jax.tree.leaves(member.trainable))


def test_phi3_mini():
    """LoRA at 4 x 512 tokens over a bfloat16 base stays under 14 GiB; full tuning does not fit into 80 GiB."""
    mini = nnx.eval_shape(lambda: Phi3(PRESETS['phi-3-mini-4k'], rngs=nnx.Rngs(0), dtype=jax.numpy.bfloat16))
    shape = {'width': 1, 'batch': 4, 'length': 512, 'max_answer': 64, 'flash': True}
    assert estimate(mini, 'full', **shape).total > 80 * 2**30
    assert estimate(mini, 'lora', **shape).base == 2 * 3_821_079_552
    mini.remat = 'dots'
    some = estimate(mini, 'lora', **shape).total
    mini.remat = 'layer'
    assert estimate(mini, 'lora', **shape).total < some < 14 * 2**30
    eighth = nnx.eval_shape(lambda: quantize(Phi3(PRESETS['phi-3-mini-4k'], rngs=nnx.Rngs(0))))
    assert estimate(eighth, 'lora', **shape).base < 2 * 3_821_079_552


def test_width_is_what_fits_and_nothing_is_refused_with_the_numbers(monkeypatch):
    model, rows = tiny_model(), tiny_rows()
    of = lambda m: estimate(model, 'full', width=m, batch=8, length=16, max_answer=8)
    for free, wanted in ((10**12, 8), (of(3).total / memory.RESERVE, 3)):
        monkeypatch.setattr(memory, 'available_bytes', lambda free=free: free)
        assert affordable_width(model, 'full', rows, width=8, batch=8) == wanted
    monkeypatch.setattr(memory, 'available_bytes', lambda: 1000)
    with pytest.raises(ModelError, match=r'method full .* needs about .* MiB \(base .*--remat=layer'):
        affordable_width(model, 'full', rows, width=8, batch=8)
    with pytest.raises(ModelError, match='in 8 bits'):
        affordable_width(quantize(model), 'full', rows, width=8, batch=8)


def test_a_base_that_does_not_fit_is_refused_with_the_numbers(monkeypatch, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(PRESETS['phi-3-mini-4k'].to_dict()))
    monkeypatch.setattr(memory, 'available_bytes', lambda: 4.5 * 2**30)
    with pytest.raises(ModelError, match=r'needs about 14\.2 GiB .* 4\.5 GiB are free: .*--quantize=int8'):
        memory.loading(tmp_path).__enter__()
    for enough in ({'num_devices': 4}, {'quantize': 'int8'}):
        with memory.loading(tmp_path, **enough):
            pass
    with pytest.raises(ModelError, match=r'needs about 7\.1 GiB'), memory.loading(tmp_path, dtype='bfloat16'):
        pass
    monkeypatch.setattr(memory, 'available_bytes', lambda: 8 * 2**30)
    with memory.loading(tmp_path, dtype='bfloat16'):
        pass


def test_weights_that_do_not_fit_after_all_are_told_so(monkeypatch, tmp_path):
    """281 TB are more than an address space: XLA itself refuses."""
    (tmp_path / 'config.json').write_text(json.dumps(PRESETS['phi-3-mini-4k'].to_dict()))
    monkeypatch.setattr(memory, 'available_bytes', lambda: 32 * 2**30)
    with pytest.raises(ModelError, match=r'needs about 14\.2 GiB .*\(XLA: RESOURCE_EXHAUSTED: Out of memory'):
        with memory.loading(tmp_path):
            jax.numpy.zeros(2**46, np.float32).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'), memory.loading(tmp_path):
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')


def test_a_container_limit_counts_and_its_file_cache_does_not(tmp_path):
    assert memory._left_in_control_group(tmp_path) == float('inf')
    for name, text in (('memory.max', '1000\n'), ('memory.current', '900\n'), ('memory.stat', 'anon 1\nfile 300\n')):
        (tmp_path / name).write_text(text)
    assert memory._left_in_control_group(tmp_path) == 400
    (tmp_path / 'memory.max').write_text('max\n')
    assert memory._left_in_control_group(tmp_path) == float('inf')
    assert memory.available_bytes() > 0
