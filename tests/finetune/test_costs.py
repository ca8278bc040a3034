"""FLOPs of the variants: what a LoRA adds follows its layers, DoRA pays for its norms once an update."""

import dataclasses

import numpy as np
import pytest

from metaft.finetune.costs import linear_shapes, training_flops
from metaft.finetune.search_space import Configuration
from tests.phi3 import cases

CONFIG = cases.CONFIGS['grouped']  # 2 layers
LENGTH, ANSWER = np.array([12, 20]), np.array([3, 5])


def flops(**changes):
    return training_flops(CONFIG, dataclasses.replace(Configuration(rank=4), **changes), LENGTH, ANSWER)


def test_half_of_the_layers_cost_half_of_the_branches():
    whole, half = flops(), flops(layers='first_half')
    branch = 3 * 2 * 4 * sum(d + f for d, f in linear_shapes(CONFIG).values()) * LENGTH
    np.testing.assert_allclose(whole - half, branch)
    np.testing.assert_array_equal(half, flops(layers='last_half'))


def test_dora_pays_for_its_norms_by_update_and_not_by_token():
    extra = flops(dora=True, batch_size=8) - flops(batch_size=8)
    assert extra[0] == pytest.approx(extra[1])
    assert extra[0] == pytest.approx(2 * sum(2 * 5 * d * f for d, f in linear_shapes(CONFIG).values()) / 8)
    np.testing.assert_allclose(flops(dora=True, batch_size=16) - flops(batch_size=16), extra / 2)
