"""config.json is read strictly and written so that it is read back the same."""

import pytest

from metaft.errors import ModelError
from metaft.phi3 import LongRope, Phi3Config
from tests.phi3 import cases

BASE = cases.config().to_dict()


@pytest.mark.parametrize('name', cases.CONFIGS)
def test_written_and_read_back_it_is_the_same(name):
    config = cases.CONFIGS[name]
    assert Phi3Config.from_dict(config.to_dict()) == config
    assert hash(config) == hash(Phi3Config.from_dict(config.to_dict()))


def test_rope_parameters_of_transformers_5_mean_the_same_as_the_old_attributes():
    old = {**BASE, 'rope_theta': 500.0, 'partial_rotary_factor': 0.5}
    new = {key: value for key, value in old.items() if not key.startswith(('rope', 'partial'))}
    new['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 500.0, 'partial_rotary_factor': 0.5}
    assert Phi3Config.from_dict(new) == Phi3Config.from_dict(old)


@pytest.mark.parametrize('kind', ['su', 'longrope'])
def test_longrope_under_both_of_its_names(kind):
    factors = {'short_factor': [1.0] * 4, 'long_factor': [2.0] * 4}
    read = Phi3Config.from_dict({**BASE, 'rope_scaling': {'type': kind, **factors}})
    assert read.rope_scaling == LongRope((1.0,) * 4, (2.0,) * 4)
    same = {'rope_parameters': {'rope_type': kind, 'factor': 1.0, **factors}}  # 64 positions, originally 64
    assert Phi3Config.from_dict({**BASE, 'rope_scaling': None, **same}) == read


def test_bookkeeping_is_accepted():
    extra = {'transformers_version': '4.40', 'torch_dtype': 'bfloat16', 'use_cache': True, 'auto_map': {'a': 'b'}}
    extra |= {'attention_bias': False, 'head_dim': 8, 'quantization_config': None, 'lm_head_bias': False}
    assert Phi3Config.from_dict({**BASE, **extra}) == cases.config()


def test_everything_that_would_change_the_computation_is_listed():
    odd = {
        'attention_bias': True,
        'mup_width': 8.0,
        'head_dim': 16,
        'resid_pdrop': 0.1,
        'quantization_config': {'b': 4},
    }
    odd['rope_scaling'] = {'type': 'yarn', 'factor': 4.0}
    with pytest.raises(ModelError) as caught:
        Phi3Config.from_dict({**BASE, **odd})
    for part in (
        'attention_bias=True',
        'mup_width',
        'head_dim=16',
        'resid_pdrop',
        'quantization',
        'yarn',
        'factor=4.0',
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model_type': 'phi3small'}, 'Phi-3-small'),
        ({'model_type': 'phi3', 'architectures': ['Phi3SmallForCausalLM']}, 'Phi-3-small'),
        ({'model_type': 'llama'}, "'llama'"),
        ({'num_attention_heads': 5}, 'no multiple of 5'),
        ({'num_key_value_heads': 3}, 'no multiple of 3'),
        ({'hidden_size': 0}, 'hidden_size is 0'),
        ({'hidden_size': '32'}, "hidden_size is '32'"),
        ({'partial_rotary_factor': 0.4}, 'an even number is needed'),
        ({'pad_token_id': 61}, 'token id 61'),
        ({'eos_token_id': [2, 99]}, 'token id 99'),
        ({'rope_scaling': {'type': 'su', 'short_factor': [1.0], 'long_factor': [1.0] * 4}}, 'short_factor has 1'),
        ({'rope_scaling': {'type': 'longrope'}}, 'without short_factor'),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(changes, message):
    with pytest.raises(ModelError, match=message):
        Phi3Config.from_dict({**BASE, **changes})


def test_a_missing_size_is_named():
    with pytest.raises(ModelError, match='lacks hidden_size, num_hidden_layers'):
        Phi3Config.from_dict({k: v for k, v in BASE.items() if k not in ('hidden_size', 'num_hidden_layers')})


def test_several_end_tokens():
    config = cases.config(eos_token_id=(2, 3))
    assert config.to_dict()['eos_token_id'] == [2, 3] and Phi3Config.from_dict(config.to_dict()) == config
