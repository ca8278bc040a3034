"""What PEFT's `adapter_config.json` says: what it asks for, and a module's own rank and scale."""

import json
import math
import re
from pathlib import Path
from typing import Any

from metaft.errors import ModelError

CONFIG = 'adapter_config.json'
MODEL = 'base_model.model.'  # what PEFT puts before the names that its patterns are written for

# Read here, or of no consequence for what an adapter computes. Any other attribute must be empty.
_KNOWN = frozenset(
    """
    alpha_pattern auto_mapping base_model_name_or_path bias exclude_modules fan_in_fan_out inference_mode
    init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout megatron_core num_attention_heads
    num_layers num_transformer_submodules num_virtual_tokens peft_type peft_version prompt_tuning_init
    prompt_tuning_init_text qalora_group_size r rank_pattern revision runtime_config target_modules task_type token_dim
    tokenizer_kwargs tokenizer_name_or_path use_dora use_rslora
    """.split()
)
# Initialisations that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) subtract from it.
_PLAIN_INITS = (True, False, None, 'gaussian', 'orthogonal', 'eva')


def read(directory: Path) -> dict[str, Any]:
    """Reads the configuration.

    Raises:
      ModelError: there is none, or it is no JSON object.
    """
    path = directory / CONFIG
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ModelError(f'{directory} is no adapter directory: it has no {CONFIG}.') from None
    except (OSError, ValueError) as error:
        raise ModelError(f'{path} cannot be read as JSON: {error}.') from None
    if not isinstance(values, dict):
        raise ModelError(f'{path} holds no JSON object.')
    return values


def refuse_more(values: dict[str, Any], directory: Path) -> None:
    """Raises ModelError where a configuration is of another kind or asks for what is not implemented here."""
    kind = values.get('peft_type')
    if kind not in ('LORA', 'PROMPT_TUNING'):
        raise ModelError(f'{directory} is an adapter of type {kind!r}; metaft reads LORA and PROMPT_TUNING.')
    asked = [f'{name}={value!r}' for name, value in values.items() if name not in _KNOWN and value]
    asked += [f'bias={values["bias"]!r}'] if values.get('bias', 'none') != 'none' else []
    asked += ['fan_in_fan_out=True'] if values.get('fan_in_fan_out') else []
    init = values.get('init_lora_weights')
    asked += [f'init_lora_weights={init!r}'] if init not in _PLAIN_INITS else []
    if asked:
        raise ModelError(f'{directory} asks for what metaft does not implement: {", ".join(asked)}.')


def is_target(values: dict, module: str) -> bool:
    """Tells whether the configuration alone says that a module is adapted; where it selects layers, the tensors say."""
    if values.get('exclude_modules') or values.get('layers_to_transform') is not None:
        return False
    targets = values.get('target_modules') or ()
    if isinstance(targets, str):
        return bool(re.fullmatch(targets, module.removeprefix(MODEL)))
    return any(module == target or module.endswith(f'.{target}') for target in targets)


def of_module(values: dict, name: str, pattern_name: str, module: str) -> Any:
    """Returns a module's own value where a pattern of PEFT's names the module, else the common one."""
    for pattern, value in (values.get(pattern_name) or {}).items():
        if re.match(rf'(.*\.)?({pattern})$', module.removeprefix(MODEL)):
            return value
    return values.get(name, 8)  # PEFT's default of r and lora_alpha


def scale(values: dict, module: str, rank: int) -> float:
    """Returns what a module's branch is multiplied with: alpha / r, or alpha / sqrt(r)."""
    alpha = of_module(values, 'lora_alpha', 'alpha_pattern', module)
    return alpha / (math.sqrt(rank) if values.get('use_rslora') else rank)
