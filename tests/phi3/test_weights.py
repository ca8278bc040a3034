"""Model directories: round trips, and every way in which one can be wrong."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from safetensors.numpy import load_file, save_file

from metaft.errors import ModelError
from metaft.phi3 import Phi3, load_config, load_pretrained, save_pretrained, streaming
from metaft.phi3.casting import base_dtype
from metaft.phi3.quantized import QuantizedLinear, is_quantized, quantize
from metaft.phi3.sharding import make_mesh
from tests.phi3 import cases

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'


def leaves(model):
    return {'.'.join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def assert_same(one, two):
    assert one.config == two.config
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key])
        assert value.dtype == two[key].dtype


@pytest.fixture
def saved(tmp_path):
    save_pretrained(cases.model(cases.CONFIGS['grouped']), tmp_path)
    return tmp_path


def edit(directory, change):
    tensors = load_file(directory / FILE)
    change(tensors)
    save_file(tensors, directory / FILE)


@pytest.mark.parametrize('name', ['grouped', 'tied', 'longrope_partial'])
@pytest.mark.parametrize('max_shard_bytes', [5e9, 20_000])
def test_saved_and_loaded_it_is_the_same(tmp_path, name, max_shard_bytes):
    model = cases.model(cases.CONFIGS[name])
    save_pretrained(model, tmp_path, max_shard_bytes)
    assert (tmp_path / INDEX).exists() == (max_shard_bytes < 5e9)
    assert_same(load_pretrained(tmp_path), model)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith('.')]


def test_shards_keep_to_their_size_and_the_index_tells_the_whole(tmp_path):
    model = cases.model(cases.CONFIGS['multi_head'])
    save_pretrained(model, tmp_path, 20_000)
    index = json.loads((tmp_path / INDEX).read_text())
    shards = sorted(tmp_path.glob('*.safetensors'))
    assert {file.name for file in shards} == set(index['weight_map'].values()) and len(shards) > 2
    assert all(sum(x.nbytes for x in load_file(file).values()) <= 20_000 for file in shards)
    assert index['metadata']['total_size'] == sum(value.nbytes for value in leaves(model).values())


def test_saving_again_leaves_no_shard_of_before_and_no_foreign_file_goes(tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{}')
    save_pretrained(cases.model(cases.CONFIGS['grouped']), tmp_path, 20_000)
    other = cases.model(cases.CONFIGS['tied'], seed=5)
    save_pretrained(other, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {'config.json', FILE, 'tokenizer.json'}
    assert_same(load_pretrained(tmp_path), other)


def test_a_place_that_cannot_be_written_keeps_the_old_model_and_no_half_of_the_new(saved, monkeypatch):
    before, files = load_pretrained(saved), {file.name for file in saved.iterdir()}
    write = safetensors.numpy.save_file

    def fail(tensors, path, metadata):
        write(dict(list(tensors.items())[:1]), path, metadata)
        raise OSError('disk full')

    monkeypatch.setattr('safetensors.numpy.save_file', fail)
    with pytest.raises(ModelError, match='disk full'):
        save_pretrained(cases.model(cases.CONFIGS['tied']), saved)
    assert {file.name for file in saved.iterdir()} == files
    assert_same(load_pretrained(saved), before)


def test_linear_weights_lie_as_out_by_in(saved):
    stored = load_file(saved / FILE)['model.layers.1.mlp.down_proj.weight']
    np.testing.assert_array_equal(stored.T, load_pretrained(saved).layers[1].mlp.down_proj.kernel[...])


@pytest.mark.parametrize('stored', [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_load_in_the_asked_for_dtype(saved, stored):
    def halve(tensors):
        tensors.update({key: value.astype(stored) for key, value in tensors.items()})

    edit(saved, halve)
    whole, half = load_pretrained(saved), load_pretrained(saved, dtype=jnp.bfloat16)
    key = 'layers.0.mlp.gate_up_proj.kernel'
    assert leaves(whole)[key].dtype == np.float32 and leaves(half)[key].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(leaves(whole)[key].T, load_file(saved / FILE)[_hf(key)].astype(np.float32))


def test_a_base_is_in_half_precision_where_there_is_an_accelerator(monkeypatch):
    assert base_dtype(None) == jnp.float32 and base_dtype('bfloat16') == jnp.bfloat16
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert base_dtype(None) == jnp.bfloat16 and base_dtype('float32') == jnp.float32


def _hf(key):
    return f'model.{key}'.replace('kernel', 'weight')


def test_a_half_precision_model_is_written_in_half_precision(saved, tmp_path):
    half = load_pretrained(saved, dtype=jnp.bfloat16)
    save_pretrained(half, tmp_path / 'half')
    assert load_file(tmp_path / 'half' / FILE)['model.norm.weight'].dtype == ml_dtypes.bfloat16
    assert json.loads((tmp_path / 'half' / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
    assert_same(load_pretrained(tmp_path / 'half', dtype=jnp.bfloat16), half)


def test_every_wrong_tensor_is_named_in_one_error(saved):
    def spoil(tensors):
        del tensors['model.norm.weight']
        tensors['model.layers.0.self_attn.q_norm.weight'] = np.ones(3, np.float32)
        tensors['lm_head.weight'] = tensors['lm_head.weight'].T.copy()
        tensors['model.layers.1.input_layernorm.weight'] = np.ones(32, np.int8)

    edit(saved, spoil)
    with pytest.raises(ModelError) as caught:
        load_pretrained(saved)
    for part in (
        'model.norm.weight is missing',
        'model.layers.0.self_attn.q_norm.weight is unexpected',
        'lm_head.weight has shape (32, 61) where (61, 32) is needed',
        'model.layers.1.input_layernorm.weight has dtype I8',
    ):
        assert part in str(caught.value)


def test_a_long_list_of_problems_is_cut(saved):
    edit(saved, lambda tensors: [tensors.pop(key) for key in list(tensors)[1:]] + [tensors.update(extra=np.ones(2))])
    with pytest.raises(ModelError, match=r'is missing'):
        load_pretrained(saved)


def test_doubled_truncated_and_missing_shards_are_named(tmp_path):
    save_pretrained(cases.model(cases.CONFIGS['multi_head']), tmp_path, 20_000)
    first, second, third = sorted(tmp_path.glob('*.safetensors'))[:3]
    save_file({**load_file(second), **load_file(first)}, second)
    third.write_bytes(third.read_bytes()[:-40])
    with pytest.raises(ModelError) as caught:
        load_pretrained(tmp_path)
    key = next(iter(load_file(first)))
    assert f'{key} is doubled, in {first.name} and {second.name}' in str(caught.value)
    assert f'{third.name} cannot be read' in str(caught.value)
    first.unlink()
    with pytest.raises(ModelError, match=f'{first.name} cannot be read, it is missing'):
        load_pretrained(tmp_path)


def test_directories_that_are_no_models(tmp_path, saved):
    with pytest.raises(ModelError, match=r'no model directory: it has no config\.json'):
        load_pretrained(tmp_path / 'nowhere')
    index = saved / INDEX
    index.write_text('{}')
    with pytest.raises(ModelError, match='holds both'):
        load_pretrained(saved)
    (saved / FILE).unlink()
    with pytest.raises(ModelError, match='is no index of shards'):
        load_pretrained(saved)
    index.unlink()
    with pytest.raises(ModelError, match='has no weights'):
        load_pretrained(saved)
    for text in ('{"model_type":', '[]', '{"model_type": "gpt2"}'):
        (saved / 'config.json').write_text(text)
        with pytest.raises(ModelError, match=str(saved)):
            load_config(saved)


def test_a_model_with_an_adapter_on_it_is_not_written(tmp_path):
    model = cases.model(cases.CONFIGS['grouped'])
    model.layers[0].mlp.down_proj = nnx.Sequential(model.layers[0].mlp.down_proj)
    with pytest.raises(ModelError, match=r'layers\.0\.mlp\.down_proj\.kernel'):
        save_pretrained(model, tmp_path / 'adapted')
    assert not (tmp_path / 'adapted').exists()


@pytest.mark.parametrize('options', [{}, {'dtype': jnp.bfloat16}, {'quantize': 'int8'}], ids=str)
def test_loaded_onto_a_mesh_it_is_the_same_and_really_divided(tmp_path, monkeypatch, options):
    save_pretrained(cases.model(cases.CONFIGS['grouped']), tmp_path, 20_000)
    whole = load_pretrained(tmp_path, **options)
    monkeypatch.setattr(streaming, 'BLOCK_BYTES', 300)  # several blocks a tensor
    mesh = make_mesh({'fsdp': 4, 'tensor': 2})
    divided = load_pretrained(tmp_path, mesh=mesh, **options)
    assert_same(divided, whole)
    kernel = divided.layers[0].mlp.gate_up_proj.kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size / 8
    assert_same(load_pretrained(tmp_path, **options), whole)


def test_quantised_while_loading_is_quantised_after_loading(saved):
    loaded = load_pretrained(saved, quantize='int8')
    assert is_quantized(loaded) and not is_quantized(load_pretrained(saved))
    assert_same(loaded, quantize(load_pretrained(saved)))
    linear, plain = loaded.layers[0].mlp.down_proj, load_pretrained(saved).layers[0].mlp.down_proj.kernel[...]
    assert isinstance(linear, QuantizedLinear) and linear.kernel[...].dtype == jnp.int8
    back = np.asarray(linear.kernel[...], np.float32) * np.asarray(linear.kernel_scale[...])
    assert np.abs(back - plain).max() <= 0.5001 * np.asarray(linear.kernel_scale[...]).max()
    with pytest.raises(ModelError, match="'int4'"):
        load_pretrained(saved, quantize='int4')
    with pytest.raises(ModelError, match='kernel_scale'):
        save_pretrained(loaded, saved / 'quantised')


PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from metaft.phi3 import load_pretrained
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
jnp.zeros(3).block_until_ready()  # the backend has started
before = peak()
model = load_pretrained(sys.argv[1], getattr(jnp, sys.argv[2]))
jax.block_until_ready(model.embed_tokens[...])
print(peak() - before)
"""


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_loading_holds_the_model_and_no_more_than_a_shard(tmp_path, dtype):
    """144 MB of float32 in shards of 48 MB; the largest tensor has 16 MB."""
    config = cases.config(hidden_size=1024, intermediate_size=2048, vocab_size=4096, num_hidden_layers=3)
    graph, state = nnx.split(nnx.eval_shape(lambda: Phi3(config, rngs=nnx.Rngs(0))))
    zeros = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)
    save_pretrained(nnx.merge(graph, zeros), tmp_path, 48e6)
    shards = [file.stat().st_size for file in tmp_path.glob('*.safetensors')]
    assert len(shards) >= 4
    done = subprocess.run([sys.executable, '-c', PROGRAM, tmp_path, dtype], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model_bytes = sum(shards) * jnp.dtype(dtype).itemsize / 4
    assert int(done.stdout) < model_bytes + 1.3 * max(shards)
