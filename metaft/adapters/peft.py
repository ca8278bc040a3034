"""Adapters in Hugging Face PEFT's format: `adapter_config.json` and `adapter_model.safetensors`; LoRA (rsLoRA and DoRA
too) and soft prompts.

What is written loads in PEFT over the saved base; what PEFT wrote loads here, if it is one of the two and nothing in
its configuration asks for more. All of it is about one member: no leaf has an axis M.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from metaft.adapters import lora, peft_config, prompt
from metaft.adapters.peft_config import CONFIG
from metaft.errors import ModelError
from metaft.phi3 import Phi3Config

WEIGHTS = 'adapter_model.safetensors'
_PREFIX = f'{peft_config.MODEL}model.'
_PROMPT = 'prompt_embeddings'
_MAGNITUDE = 'lora_magnitude_vector'


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One member's adapter as `metaft.adapters.lora`, `.dora` or `.prompt` takes it (`method` says which)."""

    method: str
    adapter: dict
    settings: dict


def save_lora(
    directory: str | os.PathLike[str],
    adapter: Mapping[str, Mapping[str, Any]],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str,
    base_model: str,
    rslora: bool = False,
    layers: str = 'all',
) -> None:
    """Writes a LoRA, or a DoRA where it has magnitudes.

    Args:
      directory: made if missing.
      adapter: {module path: {'lora_A': [D, R], 'lora_B': [R, F]}} of all modules; the first `rank` of the R columns are
        written. A DoRA has 'magnitude' [F] too.
      rank: r.
      alpha: the scale's numerator.
      dropout: what it was trained with; PEFT applies it in training only.
      targets: 'attention', 'mlp' or 'all'.
      base_model: directory or Hugging Face id of the base, noted in the configuration.
      rslora: the branch is scaled by alpha / sqrt(rank), otherwise by alpha / rank.
      layers: a name of `lora.LAYERS`.
    """
    layer_of = lambda path: int(path.split('.')[1])
    in_use = lora.layers_in_use(layers, 1 + max(map(layer_of, adapter)))
    groups = [group for group in lora.GROUPS if targets in (group, 'all')]
    names = [name for group in groups for name in lora.TARGET_MODULES[group]]
    tensors = {}
    for path, member in adapter.items():
        if path.rpartition('.')[2] in names and layer_of(path) in in_use:
            tensors[f'{_PREFIX}{path}.lora_A.weight'] = member['lora_A'][:, :rank].T
            tensors[f'{_PREFIX}{path}.lora_B.weight'] = member['lora_B'][:rank].T
            if 'magnitude' in member:
                tensors[f'{_PREFIX}{path}.{_MAGNITUDE}'] = member['magnitude']
    config = {
        'peft_type': 'LORA',
        'r': rank,
        'lora_alpha': alpha,
        'lora_dropout': dropout,
        'target_modules': names,
        'bias': 'none',
        'fan_in_fan_out': False,
        'use_rslora': rslora,
        'use_dora': any('magnitude' in member for member in adapter.values()),
        'layers_to_transform': None if layers == 'all' else in_use,
        'rank_pattern': {},
        'alpha_pattern': {},
        'modules_to_save': None,
        'init_lora_weights': True,
    }
    _write(directory, config, tensors, base_model)


def save_prompt(directory: str | os.PathLike[str], adapter: Mapping[str, Any], *, length: int, base_model: str) -> None:
    """Writes the `length` vectors in use of a soft prompt {'prompt_embeddings': [P, D]}."""
    vectors_PD = prompt.in_use(dict(adapter), length)
    config = {
        'peft_type': 'PROMPT_TUNING',
        'num_virtual_tokens': length,
        'token_dim': vectors_PD.shape[1],
        'num_transformer_submodules': 1,
        'prompt_tuning_init': 'RANDOM',  # where it began is history
    }
    _write(directory, config, {_PROMPT: vectors_PD}, base_model)


def load(directory: str | os.PathLike[str], config: Phi3Config) -> Adapter:
    """Reads an adapter that metaft or PEFT wrote for a base of the given shape.

    Ranks and alphas that differ between modules become one rank R, padded with zeros, and one scale: the rest of a
    module's own scale goes into its B.

    Raises:
      ModelError: not a LoRA or soft prompt, attributes that ask for more, or tensors that are missing, unexpected or
        mis-shaped for this base; each kind is listed in one error.
    """
    directory = Path(directory)
    values = peft_config.read(directory)
    peft_config.refuse_more(values, directory)
    try:
        tensors = load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f'{directory / WEIGHTS} is missing, truncated or broken ({error}).') from None
    read, problems = (_read_lora if values['peft_type'] == 'LORA' else _read_prompt)(values, tensors, config)
    if problems:
        raise ModelError(f'{directory} does not fit the base model: {"; ".join(problems[:20])}.')
    return read


def _read_prompt(values: dict, tensors: dict[str, np.ndarray], config: Phi3Config) -> tuple[Adapter | None, list[str]]:
    shape = (values.get('num_virtual_tokens'), config.hidden_size)
    problems = [f'{key} is unexpected' for key in tensors if key != _PROMPT]
    if _PROMPT not in tensors:
        return None, [*problems, f'{_PROMPT} is missing']
    vectors_PD = tensors[_PROMPT]
    if vectors_PD.shape != shape:
        return None, [*problems, f'{_PROMPT} has shape {vectors_PD.shape} where {shape} is needed']
    adapter = {_PROMPT: jnp.asarray(vectors_PD, jnp.float32)}
    return Adapter('prompt', adapter, prompt.settings(length=len(vectors_PD))), problems


def _read_lora(values: dict, tensors: dict[str, np.ndarray], config: Phi3Config) -> tuple[Adapter | None, list[str]]:
    shapes = {f'{_PREFIX}{path}': (path, _shape(name, config)) for path, _, _, name in _paths(config)}
    found = {key.removesuffix('.weight').rpartition('.')[0] for key in tensors if key.endswith('.weight')}
    problems = list(_lora_problems(values, tensors, shapes))
    if problems or not tensors:
        return None, problems or ['there is no tensor in it']
    ranks = {module: peft_config.of_module(values, 'r', 'rank_pattern', module) for module in found}
    scales = {module: peft_config.scale(values, module, ranks[module]) for module in found}
    scale, max_rank = max(scales.values()), max(ranks.values())
    adapter = {}
    for module, (path, _) in shapes.items():
        if module in found:
            a_DR, b_RF = (np.float32(tensors[f'{module}.lora_{part}.weight']).T for part in 'AB')
            room = max_rank - ranks[module]
            own = b_RF if scales[module] == scale else b_RF * np.float32(scales[module] / scale)
            adapter[path] = {
                'lora_A': jnp.asarray(np.pad(a_DR, ((0, 0), (0, room)))),
                'lora_B': jnp.asarray(np.pad(own, ((0, room), (0, 0)))),
            }
            if values.get('use_dora'):
                adapter[path]['magnitude'] = jnp.asarray(np.float32(tensors[f'{module}.{_MAGNITUDE}']))
    dropout = values.get('lora_dropout') or 0.0
    settings = lora.settings(rank=max_rank, alpha=scale * max_rank, dropout=dropout, targets='all', max_rank=max_rank)
    return Adapter('dora' if values.get('use_dora') else 'lora', adapter, settings), []


def _lora_problems(
    values: dict, tensors: dict[str, np.ndarray], shapes: Mapping[str, tuple[str, tuple[int, int]]]
) -> Iterator[str]:
    wanted: dict[str, tuple[int, ...]] = {}
    for module, (_, (d, f)) in shapes.items():
        rank = peft_config.of_module(values, 'r', 'rank_pattern', module)
        wanted |= {f'{module}.lora_A.weight': (rank, d), f'{module}.lora_B.weight': (f, rank)}
        wanted |= {f'{module}.{_MAGNITUDE}': (f,)} if values.get('use_dora') else {}
    for key, tensor in tensors.items():
        if key not in wanted:
            yield f'{key} is unexpected'
        elif tensor.shape != wanted[key]:
            yield f'{key} has shape {tensor.shape} where {wanted[key]} is needed'
    for key in wanted.keys() - tensors.keys():
        module, _, part = key.removesuffix('.weight').rpartition('.')
        other = f'{module}.lora_{"B" if part == "lora_A" else "A"}.weight'
        if other in tensors or peft_config.is_target(values, module):
            yield f'{key} is missing'


def _paths(config: Phi3Config) -> list[tuple[str, int, str, str]]:
    return lora.module_paths(config.num_hidden_layers)


def _shape(name: str, config: Phi3Config) -> tuple[int, int]:
    """Returns (in, out) of a block's linear layer."""
    width = config.num_attention_heads * config.head_dim
    return {
        'qkv_proj': (config.hidden_size, width + 2 * config.kv_heads * config.head_dim),
        'o_proj': (width, config.hidden_size),
        'gate_up_proj': (config.hidden_size, 2 * config.intermediate_size),
        'down_proj': (config.intermediate_size, config.hidden_size),
    }[name]


def _write(directory: str | os.PathLike[str], config: dict, tensors: Mapping[str, Any], base_model: str) -> None:
    """Writes both files under temporary names, then puts them in place; a crash leaves no mixture of two adapters."""
    directory = Path(directory)
    common = {'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base_model, 'inference_mode': True}
    # safetensors copies the buffer as it lies: a transposed view would be written untransposed.
    plain = {key: np.ascontiguousarray(np.asarray(value, np.float32)) for key, value in tensors.items()}
    partial = {name: directory / f'.{name}.writing' for name in (CONFIG, WEIGHTS)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial[CONFIG].write_text(json.dumps(config | common, indent=2) + '\n', encoding='utf-8')
        save_file(plain, partial[WEIGHTS], {'format': 'pt'})
        (directory / CONFIG).unlink(missing_ok=True)
        for name in (WEIGHTS, CONFIG):
            os.replace(partial[name], directory / name)
    except (OSError, SafetensorError) as error:
        raise ModelError(f'{directory} cannot be written ({error}); free some space or give another place.') from error
    finally:
        for left in directory.glob('.*.writing'):
            left.unlink(missing_ok=True)
