"""On a mesh the same step: 8 virtual devices of this process, and two processes that know each other's devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from metaft.errors import InputError
from metaft.finetune.methods import variant
from metaft.finetune.population import Population
from metaft.phi3.sharding import make_mesh, shard, spec
from tests.finetune.test_population import DORA, FULL, LORA, PROMPT
from tests.finetune.tiny import tiny_model, tiny_rows

ROOT = Path(__file__).parents[2]
ALL = (LORA[:2], DORA, FULL, PROMPT)
METHODS = pytest.mark.parametrize('configurations', ALL, ids=['lora', 'dora', 'full', 'prompt'])
STEPS = [2, 1]  # the second member accumulates two micro-batches an update


def stepped(configurations, mesh=None):
    """Returns the population after a step or two, and its scores."""
    model = tiny_model()
    if mesh is not None:
        graphdef, params = nnx.split(model)
        model = nnx.merge(graphdef, shard(params, mesh))
    population = Population(model, variant(configurations[0]), tiny_rows(), width=2, mesh=mesh)
    for slot, configuration in enumerate(configurations):
        population.put(slot, population.new_member(configuration, slot), configuration, seed=slot, total_steps=30)
    population.advance(STEPS)
    return population, population.evaluate(tiny_rows(seed=1))


@METHODS
@pytest.mark.parametrize(
    'sizes',
    [
        pytest.param({'data': 2, 'fsdp': 2, 'tensor': 2}, id='2x2x2'),
        pytest.param({'fsdp': 8}, id='fsdp', marks=pytest.mark.slow),
    ],
)
def test_a_step_on_eight_devices_is_that_on_one(configurations, sizes):
    alone, scores = stepped(configurations)
    divided, same_scores = stepped(configurations, make_mesh(sizes))
    for slot in range(2):
        assert same_scores[slot].loss == pytest.approx(scores[slot].loss, rel=1e-5)
        for one, two in zip(
            jax.tree.leaves(divided.take(slot).gradients) + jax.tree.leaves(divided.take(slot).opt_state),
            jax.tree.leaves(alone.take(slot).gradients) + jax.tree.leaves(alone.take(slot).opt_state),
            strict=True,
        ):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * max(1e-3, np.abs(two).max()))


def test_parameters_and_what_is_trained_really_are_divided():
    divided, _ = stepped(FULL, make_mesh({'fsdp': 4, 'tensor': 2}))
    for tree in (divided._params, divided._members.trainable, divided._members.opt_state):
        leaves = [x for x in jax.tree.leaves(tree) if x.size > 1000]
        held = sum(x.addressable_shards[0].data.nbytes for x in leaves)
        assert leaves and held == sum(x.nbytes for x in leaves) / 8


def test_rules():
    mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
    P = jax.sharding.PartitionSpec
    assert spec('layers.0.self_attn.qkv_proj.kernel.value', (8, 6), mesh) == P('fsdp', 'tensor')
    assert spec('trainable.layers.0.mlp.down_proj.kernel', (3, 8, 8), mesh) == P(None, 'tensor', 'fsdp')
    assert spec('opt_state.1.mu.layers.0.mlp.down_proj.lora_A', (3, 8, 5), mesh) == P(None, 'fsdp', None)
    assert spec('layers.0.mlp.down_proj.kernel', (7, 7), mesh) == P(None, None)  # nothing divides 7
    assert spec('layers.0.mlp.down_proj.kernel', (7,), mesh) == P()  # a factored moment
    assert spec('layers.0.mlp.down_proj.kernel_scale', (8,), mesh) == spec('norm.scale', (8,), mesh) == P()
    for sizes, words in (({'expert': 2}, 'data, fsdp, tensor'), ({'fsdp': 99}, 'there are 8'), ({'data': 0}, '1 or')):
        with pytest.raises(InputError, match=words):
            make_mesh(sizes)


PROGRAM = """
import json, sys
import jax
jax.distributed.initialize(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
from metaft.phi3.sharding import make_mesh
from tests.finetune.test_mesh import ALL, stepped
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
found = []
for configurations in ALL:
    population, scores = stepped(configurations, make_mesh({'data': 2, 'fsdp': 2}))
    weights = [float(np.abs(x).sum()) for x in jax.tree.leaves(population.take(1).trainable)]
    found.append([scores[0].loss, scores[1].loss, *weights])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_take_the_step_of_one():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
    both = [
        subprocess.Popen([sys.executable, '-c', PROGRAM, address, str(process)], cwd=ROOT, env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for process in range(2)
    ]  # fmt: skip
    answers = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], answers[0][1][-2000:] + answers[1][1][-2000:]
    found = [json.loads(out.splitlines()[-1]) for out, _ in answers]
    assert found[0] == found[1]
    for numbers, configurations in zip(found[0], ALL, strict=True):
        population, scores = stepped(configurations)
        weights = [float(np.abs(x).sum()) for x in jax.tree.leaves(population.take(1).trainable)]
        np.testing.assert_allclose(numbers, [scores[0].loss, scores[1].loss, *weights], rtol=1e-5)
