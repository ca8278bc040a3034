"""What is written at the end of a job: a merged model that others load, and what casting it did."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaft.adapters import lora
from metaft.errors import ConfigurationError
from metaft.finetune.data import Rows
from metaft.finetune.methods import METHODS, variant
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.phi3 import load_pretrained, stored_dtype
from metaft.tuning import outcome
from tests.phi3 import cases

CONFIG = cases.CONFIGS['grouped']
TOKENS = cases.tokens(CONFIG)


class NoTokenizer:
    """Stands where the tokenizer is saved beside the model."""

    def save_pretrained(self, directory):
        (directory / 'tokenizer.json').write_text('{}')


def problem(model, workdir):
    full = np.full(len(TOKENS), TOKENS.shape[1], np.int32)
    task = types.SimpleNamespace(model=model, validation=Rows(TOKENS, full - 2, full, 8))
    return types.SimpleNamespace(workdir=workdir, tokenizer=NoTokenizer(), executor=types.SimpleNamespace(task=task))


def trained(configuration, model):
    method = METHODS[variant(configuration)]
    settings = method.settings(configuration)
    start = method.init(model, settings, jax.random.key(0))
    generator = np.random.default_rng(0)
    noise = lambda x: jnp.float32(0.1 * generator.standard_normal(x.shape))
    return jax.tree.map(lambda x: x + noise(x), start), settings


@pytest.mark.parametrize('dora', [False, True])
def test_a_merged_model_is_a_model_and_says_what_casting_changed(tmp_path, dora):
    configuration, model = Configuration(rank=4, dora=dora, layers='first_half'), cases.model(CONFIG)
    adapter, _ = trained(configuration, model)
    export = lambda dtype: outcome.export_merged(problem(model, tmp_path / dtype), configuration, adapter, dtype)
    directory, change = export('float32')
    assert change == 0.0 and stored_dtype(directory) == jnp.float32
    assert {'config.json', 'model.safetensors', 'tokenizer.json'} <= {path.name for path in directory.iterdir()}
    want = cases.logits(load_pretrained(directory), TOKENS)

    directory, change = export('bfloat16')
    assert stored_dtype(directory) == jnp.bfloat16
    difference = np.abs(cases.logits(load_pretrained(directory), TOKENS) - want).max()
    assert 0.0 < change == pytest.approx(difference, rel=1e-3)


def test_merged_lora_is_the_adapted_model(tmp_path):
    configuration, model = Configuration(rank=4, targets='mlp'), cases.model(CONFIG)
    adapter, settings = trained(configuration, model)
    directory, _ = outcome.export_merged(problem(model, tmp_path), configuration, adapter, 'float32')
    one = jax.tree.map(lambda x: x[None], (adapter, settings))
    want = model.logits(lora.hidden(cases.model(CONFIG), *one, TOKENS))
    np.testing.assert_allclose(cases.logits(load_pretrained(directory), TOKENS), want, rtol=1e-5, atol=1e-5)


def test_a_soft_prompt_cannot_be_merged(tmp_path):
    configuration, model = default_configuration('prompt'), cases.model(CONFIG)
    with pytest.raises(ConfigurationError, match='--export=adapter'):
        outcome.export_merged(problem(model, tmp_path), configuration, trained(configuration, model)[0], 'float32')
