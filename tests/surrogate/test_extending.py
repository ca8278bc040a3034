"""docs/extending.md does what it says: its code runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from metaft.surrogate import architectures
from metaft.surrogate.network import Architecture
from tests.surrogate import networks
from tests.surrogate.networks import C, E, Z, assert_close, predict

DOCUMENT = Path(__file__).resolve().parents[2] / 'docs' / 'extending.md'
BLOCKS = re.findall(r'^```python\n(.*?)^```', DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def namespace():
    """The names that the first two blocks make; the registered name is taken back."""
    names: dict = {'__name__': 'mean_pool'}
    known = dict(architectures.ARCHITECTURES)
    for block in BLOCKS[:2]:
        exec(compile(block, str(DOCUMENT), 'exec'), names)
    yield names
    architectures.ARCHITECTURES.clear()
    architectures.ARCHITECTURES.update(known)


def test_the_walk_through_is_under_60_lines():
    assert len(BLOCKS) == 3 and sum(len(block.strip().splitlines()) for block in BLOCKS[:2]) < 60


def test_the_example_keeps_to_order_and_padding(namespace):
    network = networks.caller(Architecture(E, Z, **networks.SIZES, name='mean_pool'))
    runs = networks.draw_runs()
    wanted = predict(network, runs, np.arange(C))
    assert_close(predict(network, runs, np.arange(C)[::-1]), wanted)
    assert_close(predict(network, runs, np.concatenate([np.arange(C), [-1, -1]])), wanted)


@pytest.mark.slow
def test_the_example_trains_and_predicts(namespace, capsys):
    exec(compile(BLOCKS[2], str(DOCUMENT), 'exec'), namespace)
    assert namespace['surrogate'].architecture.name == 'mean_pool'
    prediction = namespace['prediction']
    assert prediction.mean_CT.shape == namespace['values_CT'].shape and np.isfinite(prediction.mean_CT).all()
    assert capsys.readouterr().out
