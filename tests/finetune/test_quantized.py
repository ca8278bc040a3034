"""Adapters over a base in 8 bits: what is trained is float32, and the loss is that of the bfloat16 base's run."""

from pathlib import Path

import jax
import numpy as np
import pytest

from metaft.adapters import lora
from metaft.errors import ModelError
from metaft.finetune.population import Population
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.finetune.task import prepare
from metaft.phi3 import load_pretrained
from metaft.tasks import catalogue
from metaft.tasks.tokenizer import load_tokenizer

BASE = Path(__file__).resolve().parents[2] / 'metaft' / 'assets' / 'phi3_tiny'


@pytest.mark.slow
def test_a_finetuning_run_over_int8_comes_within_two_percent():
    losses = {}
    dataset = catalogue.make(catalogue.DEMONSTRATION)
    for kind in (None, 'int8'):
        model = load_pretrained(BASE, 'bfloat16', quantize=kind)
        task = prepare(dataset, model, load_tokenizer(BASE), base_model='phi3_tiny')
        configuration = Configuration(learning_rate=3e-3, batch_size=8, rank=8, dropout=0.0)
        population = Population(model, 'lora', task.train)
        population.put(0, population.new_member(configuration, 0), configuration, seed=0, total_steps=40)
        before = population.evaluate(task.validation)[0].loss
        population.advance([40])
        losses[kind] = population.evaluate(task.validation)[0].loss
        assert losses[kind] < 0.8 * before
        assert {x.dtype for x in jax.tree.leaves(population.take(0).trainable)} == {np.dtype('float32')}
    assert losses['int8'] == pytest.approx(losses[None], rel=0.02)


def test_what_eight_bits_cannot_do_is_refused():
    model = load_pretrained(BASE, quantize='int8')
    task = prepare(catalogue.make('recall_food_48'), model, load_tokenizer(BASE), base_model='phi3_tiny')
    with pytest.raises(ModelError, match='full tuning trains every weight'):
        Population(model, 'full', task.train).new_member(default_configuration('full'), 0)
    with pytest.raises(ModelError, match='cannot be merged'):
        lora.merge(model, {}, lora.settings(rank=1, alpha=1.0, dropout=0.0, targets='all', max_rank=1))
