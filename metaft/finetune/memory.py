"""How much memory training takes, told before anything is allocated: what fits together, what is refused at the start.

    base          the frozen weights
    state         of each member: weights, accumulated gradients and Adam's two moments, float32
    update        while a member is updated: its fresh gradient, and new weights and moments beside the old ones
    activations   what the forward pass keeps for the backward pass, by rematerialisation policy
    logits        of the answers' tokens: logits, probabilities and their gradient, one chunk of them at most
    evaluation    one layer of the larger batches that are evaluated, while nothing is trained

XLA decides what it keeps and reuses, so this is an estimate: tests hold it within a factor of 2 of XLA's own analysis.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from flax import nnx

from metaft.errors import ModelError
from metaft.finetune.costs import linear_shapes
from metaft.finetune.data import Rows
from metaft.finetune.loss import MAX_LOGITS
from metaft.finetune.methods import padding_of
from metaft.finetune.population import evaluation_batch
from metaft.phi3 import Phi3, Phi3Config, load_config
from metaft.phi3.quantized import is_quantized

RESERVE = 0.9  # of what is available: the rest is left to compilation, the surrogate and fragmentation
_CGROUP = Path('/sys/fs/cgroup')
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one population, by what they are for."""

    base: int
    state: int
    update: int
    activations: int
    logits: int
    evaluation: int

    @property
    def total(self) -> int:
        """What is held at once, training or evaluating."""
        return self.base + self.state + max(self.update + self.activations + self.logits, self.evaluation)

    def __str__(self) -> str:
        parts = ', '.join(f'{name} {_size(value)}' for name, value in dataclasses.asdict(self).items())
        return f'{_size(self.total)} ({parts})'


def estimate(
    model: Phi3, method: str, *, width: int, batch: int, length: int, max_answer: int, flash: bool | None = None
) -> Memory:
    """Return the memory of training `width` members together.

    Args:
      model: the base, or its shape (`nnx.eval_shape`); its dtype, quantisation and `remat` count.
      method: a key of METHODS.
      width: members M.
      batch: rows a member in one micro-batch.
      length: tokens of a row.
      max_answer: answer tokens of a row.
      flash: attention that keeps no probabilities; None where the default backend has one.
    """
    config = model.config
    params = nnx.state(model, nnx.Param)
    base = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    weights = num_trained(config, method)
    size = jax.tree.leaves(params['embed_tokens'])[0].dtype.itemsize
    flash = (jax.default_backend() != 'cpu' and size == 2) if flash is None else flash
    length += padding_of(method) if method.startswith('prompt') else 0
    tokens = width * batch * length
    layer = _layer_bytes(config, method, size, 0 if flash else length)
    kept = {'none': layer, 'dots': size * _dots(config), 'layer': size * config.hidden_size}[model.remat]
    again = 0 if model.remat == 'none' else layer  # the layer that is being computed again
    evaluated = width * length * evaluation_batch(width, length)
    logits = min(width * batch * max_answer * config.vocab_size, MAX_LOGITS)
    cast = weights * size if method == 'full' and size < 4 else 0  # the member's weights as the model takes them
    return Memory(
        base=base,
        state=4 * 4 * weights * width,
        update=(5 * 4 * weights + cast) * width,
        activations=tokens * (config.num_hidden_layers * kept + again + 4 * size * config.hidden_size),
        logits=3 * 4 * logits,
        evaluation=evaluated * layer,
    )


def num_trained(config: Phi3Config, method: str) -> int:
    """Return how many numbers a member trains, paddings of rank and prompt included."""
    if method.startswith('prompt'):
        return padding_of(method) * config.hidden_size
    if method != 'full':
        magnitudes = int(method.startswith('dora'))
        shapes = linear_shapes(config).values()
        return config.num_hidden_layers * sum(padding_of(method) * (i + o) + magnitudes * o for i, o in shapes)
    blocks = config.num_hidden_layers * sum(i * o for i, o in linear_shapes(config).values())
    heads = 1 if config.tie_word_embeddings else 2
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    return blocks + norms + heads * config.vocab_size * config.hidden_size


def available_bytes() -> float:
    """Return the memory that is free: of the device, or of this machine and its control group where that is the CPU."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != 'cpu' else None
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    return min(psutil.virtual_memory().available, _left_in_control_group(_CGROUP))


def _left_in_control_group(directory: Path) -> float:
    """Return what a container may still take; infinite where there is no limit. Cached files do not count as taken."""
    try:
        limit, taken = (int((directory / name).read_text()) for name in ('memory.max', 'memory.current'))
        cached = next(line for line in (directory / 'memory.stat').read_text().splitlines() if line.startswith('file '))
    except (OSError, ValueError, StopIteration):  # version 1, another place, or 'max'
        return float('inf')
    return max(0, limit - taken + int(cached.split()[1]))


def affordable_width(model: Phi3, method: str, rows: Rows, *, width: int, batch: int, num_devices: int = 1) -> int:
    """Return how many members train together: `width`, or as many as fit into the memory that is free now.

    Args:
      model, method, batch: as in `estimate`.
      rows: what is trained on.
      width: wanted.
      num_devices: that everything is divided over.

    Raises:
      ModelError: not one member fits, or the method trains a base that is in 8 bits.
    """
    if method == 'full' and is_quantized(model):
        raise ModelError('full tuning trains every weight and this base is in 8 bits: leave full out of --methods')
    length = rows.tokens_NL.shape[1]
    memory_of = lambda m: estimate(model, method, width=m, batch=batch, length=length, max_answer=rows.max_answer)
    available = available_bytes() * num_devices
    # The base is in memory already.
    fitting = [m for m in range(1, width + 1) if memory_of(m).total - memory_of(m).base <= RESERVE * available]
    if not fitting:
        raise ModelError(
            f'training with method {method} on rows of {length} tokens needs about {memory_of(1)}, and '
            f'{_size(available)} are free beside the base: shorten the examples, give --remat=layer, leave {method} '
            'out of --methods, or take a larger machine'
        )
    return fitting[-1]


@contextlib.contextmanager
def loading(
    directory: Path, *, dtype: Any = jnp.float32, quantize: str | None = None, num_devices: int = 1
) -> Iterator[None]:
    """Load a model directory inside of this context.

    Raises:
      ModelError: not even its weights would fit, told before anything is read; or they did not fit after all.
    """
    needed = num_trained(load_config(directory), 'full') * (jnp.dtype(dtype).itemsize if quantize is None else 1)
    available = available_bytes() * num_devices
    told = f'{directory} needs about {_size(needed)} for its weights alone and {_size(available)} are free: take a '
    told += 'smaller model or a larger machine' + (', or give --quantize=int8' if quantize is None else '')
    if needed > RESERVE * available:
        raise ModelError(told)
    with exhaustion_told(lambda: told):
        yield


@contextlib.contextmanager
def exhaustion_told(sentence: Callable[[], str]) -> Iterator[None]:
    """Raise ModelError with `sentence` where XLA runs out of memory: estimates err. Other errors pass through."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise ModelError(f'{sentence()} (XLA: {str(error).splitlines()[0]})') from None


def _layer_bytes(config: Phi3Config, method: str, size: int, keys: int) -> int:
    """Return what one layer keeps of one token: inputs of every product, norms in float32, attention over `keys`."""
    d, f = config.hidden_size, config.intermediate_size
    heads, rotated = config.num_attention_heads, config.num_attention_heads + config.kv_heads
    norms = 2 * d * (4 + size)
    attention = size * config.head_dim * (rotated + config.kv_heads + rotated + heads) + 4 * heads * keys
    mlp = size * 4 * f
    branches = (
        4 * (2 * d + heads * config.head_dim + f) if method.startswith(('lora', 'dora')) else 0
    )  # the LoRA inputs, float32
    return norms + attention + mlp + branches + size * d


def _dots(config: Phi3Config) -> int:
    return sum(out for _, out in linear_shapes(config).values())


def _size(number: float) -> str:
    return f'{number / _GIB:.1f} GiB' if number >= _GIB / 10 else f'{number / 2**20:.1f} MiB'
