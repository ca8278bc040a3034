"""PEFT's format: round trips, agreement with Hugging Face PEFT over the saved base, and files that are not accepted."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from metaft.adapters import dora, lora, peft, prompt
from metaft.errors import ModelError
from metaft.phi3 import save_pretrained
from tests.phi3 import cases

CONFIG = cases.CONFIGS['grouped']
TOKENS = cases.tokens(CONFIG)
TOLERANCE = 1e-5
parity = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::UserWarning')


@pytest.fixture(scope='module')
def model():
    return cases.model(CONFIG)


def trained_lora(model, rank=3, max_rank=8, module=lora):
    """Returns an adapter that does something, with numbers in the masked columns too, where a trained one has zeros."""
    adapter = module.init(model, jax.random.key(0), lora.rank_mask(rank, max_rank))
    rng = np.random.default_rng(0)
    noise = lambda leaf: np.float32(0.2 * rng.standard_normal(leaf.shape))
    return {
        path: {name: noise(leaf) + (np.asarray(leaf) if name == 'magnitude' else 0) for name, leaf in member.items()}
        for path, member in adapter.items()
    }


def logits(model, method, adapter, settings):
    """Computes logits [B, L, V] under one member's adapter."""
    adapter, settings = jax.tree.map(lambda x: jnp.asarray(x)[None], (adapter, settings))
    hidden = {'lora': lora.hidden, 'dora': dora.hidden, 'prompt': prompt.hidden}[method]
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state, adapter, settings):
        plain = nnx.merge(graph, state)
        return nnx.merge(graph, state).logits(hidden(plain, adapter, settings, TOKENS))

    return np.asarray(forward(state, adapter, settings))


def save_trained_lora(model, directory, targets='all', rank=3, module=lora, **how):
    adapter = trained_lora(model, rank, module=module)
    peft.save_lora(directory, adapter, rank=rank, alpha=4.5, dropout=0.1, targets=targets, base_model='base', **how)
    return adapter, lora.settings(rank=rank, alpha=4.5, dropout=0.0, targets=targets, max_rank=8, **how)


VARIANTS = {
    'mlp': ('lora', {'targets': 'mlp'}),
    'all': ('lora', {}),
    'rslora': ('lora', {'rslora': True}),
    'dora': ('dora', {}),
    'dora, rslora, last half': ('dora', {'rslora': True, 'layers': 'last_half', 'targets': 'attention'}),
}


@pytest.mark.parametrize('targets', ['attention', 'mlp', 'all'])
def test_a_lora_comes_back_as_it_was_in_use(model, tmp_path, targets):
    adapter, settings = save_trained_lora(model, tmp_path, targets)
    read = peft.load(tmp_path, CONFIG)
    assert read.method == 'lora' and read.settings['dropout'] == np.float32(0.1)
    names = [name for group in lora.GROUPS if targets in (group, 'all') for name in lora.TARGET_MODULES[group]]
    assert {path.rpartition('.')[2] for path in read.adapter} == set(names)
    for path, member in read.adapter.items():
        np.testing.assert_array_equal(member['lora_A'], adapter[path]['lora_A'][:, :3])
        np.testing.assert_array_equal(member['lora_B'], adapter[path]['lora_B'][:3])
    want = logits(model, 'lora', adapter, settings)
    np.testing.assert_allclose(logits(model, 'lora', read.adapter, read.settings), want, atol=1e-6)
    assert np.abs(want - cases.logits(model, TOKENS)).max() > 0.1


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_comes_back(model, tmp_path, variant):
    method, how = VARIANTS[variant]
    adapter, settings = save_trained_lora(model, tmp_path, module={'lora': lora, 'dora': dora}[method], **how)
    read = peft.load(tmp_path, CONFIG)
    assert read.method == method
    want = logits(model, method, adapter, settings)
    np.testing.assert_allclose(logits(model, method, read.adapter, read.settings), want, rtol=1e-5, atol=1e-6)


def test_a_soft_prompt_comes_back_as_it_was_in_use(model, tmp_path):
    adapter = prompt.init(model, jax.random.key(0), max_length=8)
    peft.save_prompt(tmp_path, adapter, length=5, base_model='base')
    read = peft.load(tmp_path, CONFIG)
    np.testing.assert_array_equal(read.adapter['prompt_embeddings'], adapter['prompt_embeddings'][-5:])
    want = logits(model, 'prompt', adapter, prompt.settings(length=5))
    np.testing.assert_allclose(logits(model, 'prompt', read.adapter, read.settings), want, atol=1e-5)


def test_the_names_and_shapes_in_the_file_are_pefts(model, tmp_path):
    save_trained_lora(model, tmp_path, 'attention')
    shapes = {key: tensor.shape for key, tensor in load_file(tmp_path / peft.WEIGHTS).items()}
    first = 'base_model.model.model.layers.0.self_attn.qkv_proj.'
    assert shapes[f'{first}lora_A.weight'] == (3, 32) and shapes[f'{first}lora_B.weight'] == (64, 3)
    assert len(shapes) == 2 * 2 * 2
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    assert config['r'] == 3 and config['lora_alpha'] == 4.5 and config['base_model_name_or_path'] == 'base'


# ---------------------------------------------------------------- Hugging Face PEFT


@pytest.fixture(scope='module')
def base(model, tmp_path_factory):
    pytest.importorskip('torch')
    pytest.importorskip('peft')
    directory = tmp_path_factory.mktemp('base')
    save_pretrained(model, directory)
    return directory


def hugging_face(base):
    import torch
    from transformers import Phi3ForCausalLM

    return Phi3ForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def their_logits(theirs):
    import torch

    with torch.no_grad():
        return theirs.eval()(torch.tensor(TOKENS, dtype=torch.int64)).logits.numpy()


@parity
@pytest.mark.parametrize('variant', VARIANTS)
def test_peft_computes_the_same_with_our_adapter_and_has_the_same_gradients(model, base, tmp_path, variant):
    from peft import PeftModel

    method, how = VARIANTS[variant]
    adapter, settings = save_trained_lora(model, tmp_path, module={'lora': lora, 'dora': dora}[method], **how)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*missing adapter keys.*')
        theirs = PeftModel.from_pretrained(hugging_face(base), tmp_path, is_trainable=True)
    want = their_logits(theirs)
    np.testing.assert_allclose(logits(model, method, adapter, settings), want, rtol=TOLERANCE, atol=TOLERANCE)
    assert np.abs(want - cases.logits(model, TOKENS)).max() > 0.05

    wanted = their_gradients(theirs)
    got = our_gradients(model, method, adapter, settings)
    assert wanted and set(wanted) <= set(got)
    for name, gradient in wanted.items():
        mine = (
            got[name][:3].T if name.endswith('lora_B') else got[name][..., :3] if name.endswith('lora_A') else got[name]
        )
        mine = mine.T if name.endswith('lora_A') else mine
        np.testing.assert_allclose(mine, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max(), err_msg=name)


def their_gradients(theirs):
    """Returns the gradients of the mean next-token loss, {'layers.0....lora_A': array as torch has it}."""
    import torch

    ids = torch.tensor(TOKENS, dtype=torch.int64)
    theirs.eval()(ids, labels=ids).loss.backward()  # eval: without dropout
    return {
        name.removeprefix('base_model.model.model.').replace('.default', '').removesuffix('.weight'): p.grad.numpy()
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }


def our_gradients(model, method, adapter, settings):
    graph, state = nnx.split(model)
    settings = jax.tree.map(lambda x: jnp.asarray(x)[None], settings)

    @jax.jit
    def gradient(adapter):
        def loss(adapter):
            one = jax.tree.map(lambda x: x[None], adapter)
            fresh = nnx.merge(graph, state)
            hidden = {'lora': lora.hidden, 'dora': dora.hidden}[method](fresh, one, settings, TOKENS)
            log_p = jax.nn.log_softmax(fresh.logits(hidden)[:, :-1])
            return -jnp.mean(jnp.take_along_axis(log_p, jnp.asarray(TOKENS)[:, 1:, None], axis=-1))

        return jax.grad(loss)(adapter)

    names = {'magnitude': 'lora_magnitude_vector'}
    return {
        f'{path}.{names.get(leaf, leaf)}': np.asarray(value)
        for path, member in gradient(jax.tree.map(jnp.asarray, adapter)).items()
        for leaf, value in member.items()
    }


@parity
def test_peft_computes_the_same_with_our_soft_prompt(model, base, tmp_path):
    from peft import PeftModel

    adapter = prompt.init(model, jax.random.key(0), max_length=8)
    peft.save_prompt(tmp_path, adapter, length=5, base_model='base')
    want = their_logits(PeftModel.from_pretrained(hugging_face(base), tmp_path))[:, 5:]
    got = logits(model, 'prompt', adapter, prompt.settings(length=5))
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


@parity
@pytest.mark.parametrize(
    'options',
    [
        {'r': 4, 'lora_alpha': 6, 'target_modules': 'all-linear'},
        {'r': 4, 'lora_alpha': 6, 'target_modules': ['o_proj', 'gate_up_proj'], 'use_rslora': True},
        {
            'r': 4,
            'lora_alpha': 6,
            'target_modules': r'.*\.(qkv_proj|down_proj)',
            'rank_pattern': {'qkv_proj': 2},
            'alpha_pattern': {'layers.1.mlp.down_proj': 9},
        },
        {'r': 2, 'lora_alpha': 2, 'target_modules': ['qkv_proj'], 'layers_to_transform': [1]},
        {'r': 4, 'lora_alpha': 6, 'target_modules': ['qkv_proj', 'down_proj'], 'use_dora': True, 'use_rslora': True},
    ],
)
def test_a_lora_made_by_peft_computes_the_same_here(model, base, tmp_path, options):
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    theirs = get_peft_model(hugging_face(base), LoraConfig(task_type='CAUSAL_LM', lora_dropout=0.1, **options))
    for name, parameter in theirs.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.2)
        if 'lora_magnitude' in name:
            parameter.data += 0.2
    theirs.save_pretrained(tmp_path)
    read = peft.load(tmp_path, CONFIG)
    got = logits(model, read.method, read.adapter, read.settings)
    np.testing.assert_allclose(got, their_logits(theirs), rtol=TOLERANCE, atol=TOLERANCE)


@parity
def test_a_soft_prompt_made_by_peft_computes_the_same_here(model, base, tmp_path):
    import torch
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    theirs = get_peft_model(hugging_face(base), PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=4))
    theirs.save_pretrained(tmp_path)
    read = peft.load(tmp_path, CONFIG)
    got = logits(model, read.method, read.adapter, read.settings)
    np.testing.assert_allclose(got, their_logits(theirs)[:, 4:], rtol=TOLERANCE, atol=TOLERANCE)


# ---------------------------------------------------------------- what is not accepted


def edit_config(directory, **changes):
    path = directory / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'peft_type': 'IA3'}, "type 'IA3'"),
        ({'use_qalora': True, 'bias': 'all'}, "use_qalora=True, bias='all'"),
        ({'use_dora': True}, 'lora_magnitude_vector is missing'),
        ({'modules_to_save': ['lm_head']}, 'modules_to_save'),
        ({'init_lora_weights': 'pissa'}, "init_lora_weights='pissa'"),
        ({'some_new_thing': 3}, 'some_new_thing=3'),
    ],
)
def test_what_asks_for_more_is_refused_by_name(model, tmp_path, changes, message):
    save_trained_lora(model, tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        peft.load(tmp_path, CONFIG)


def test_every_tensor_that_does_not_fit_is_named_in_one_error(model, tmp_path):
    save_trained_lora(model, tmp_path)
    tensors = load_file(tmp_path / peft.WEIGHTS)
    first = 'base_model.model.model.layers.0.'
    del tensors[f'{first}self_attn.o_proj.lora_B.weight']
    tensors[f'{first}mlp.down_proj.lora_A.weight'] = np.ones((4, 40), np.float32)
    tensors[f'{first}mlp.down_proj.lora_magnitude_vector'] = np.ones(32, np.float32)
    save_file(tensors, tmp_path / peft.WEIGHTS)
    with pytest.raises(ModelError) as caught:
        peft.load(tmp_path, CONFIG)
    for part in (
        f'{first}self_attn.o_proj.lora_B.weight is missing',
        f'{first}mlp.down_proj.lora_A.weight has shape (4, 40) where (3, 40) is needed',
        f'{first}mlp.down_proj.lora_magnitude_vector is unexpected',
    ):
        assert part in str(caught.value)


def test_an_adapter_of_another_base_is_refused(model, tmp_path):
    save_trained_lora(model, tmp_path)
    with pytest.raises(ModelError, match='does not fit the base model'):
        peft.load(tmp_path, cases.CONFIGS['multi_head'])
    peft.save_prompt(tmp_path, prompt.init(model, jax.random.key(0), max_length=2), length=2, base_model='base')
    with pytest.raises(ModelError, match=r'shape \(2, 32\) where \(2, 64\) is needed'):
        peft.load(tmp_path, cases.config(hidden_size=64))


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / 'taken').write_text('')
    with pytest.raises(ModelError, match='taken cannot be written'):
        save_trained_lora(model, tmp_path / 'taken')


def test_directories_that_are_no_adapters(model, tmp_path):
    with pytest.raises(ModelError, match='no adapter directory'):
        peft.load(tmp_path, CONFIG)
    save_trained_lora(model, tmp_path)
    weights = tmp_path / peft.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match='truncated or broken'):
        peft.load(tmp_path, CONFIG)
    for text in ('{', '[]'):
        (tmp_path / peft.CONFIG).write_text(text)
        with pytest.raises(ModelError, match=peft.CONFIG):
            peft.load(tmp_path, CONFIG)
