"""The finetuning methods as one interface over `metaft.adapters`: what is trained, and how the model sees it."""

import dataclasses
from collections.abc import Callable

from jax import Array

from metaft.adapters import dora, full, lora, prompt
from metaft.finetune.search_space import Configuration
from metaft.phi3 import Phi3

# Ranks and soft prompts are padded to one of these, each a program of its own: padding costs time.
PADDED = (32, 64)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a population needs to know of a method.

    Attributes:
      settings: configuration -> one member's untrained arrays.
      init: (model, settings, key) -> one member's trainable pytree, float32.
      hidden: (model, adapter_M, settings_M, tokens [M*B, L], key_M or None, layout of packed rows) -> [M*B, L, D].
      logits: (model, adapter_M, hidden [M*B, A, D]) -> float32 [M*B, A, V].
    """

    settings: Callable[[Configuration], dict]
    init: Callable[[Phi3, dict, Array], dict]
    hidden: Callable[..., Array]
    logits: Callable[..., Array]


def variant(configuration: Configuration) -> str:
    """Return the key of METHODS: what is trained, and how far it is padded."""
    if configuration.method == 'full':
        return 'full'
    name = 'dora' if configuration.dora else configuration.method
    small, large = PADDED
    return name if padded(configuration) == small else f'{name}_{large}'


def padded(configuration: Configuration) -> int:
    """Return what the rank or the number of prompt vectors is padded to; 0 for full tuning."""
    size = configuration.rank or configuration.prompt_length or 0
    return next(p for p in (0, *PADDED) if size <= p)


def padding_of(name: str) -> int:
    """Return what the ranks or prompt vectors of a variant, a key of METHODS, are padded to; 0 for full tuning."""
    if name == 'full':
        return 0
    small, large = PADDED
    return large if name.endswith(f'_{large}') else small


def program(configuration: Configuration) -> tuple[str, str]:
    """Return (variant, optimizer): configurations that agree in both train in one compiled step."""
    return variant(configuration), configuration.optimizer


def _base_logits(model: Phi3, adapter: dict, x_BLD: Array) -> Array:
    del adapter
    return model.logits(x_BLD)


def _low_rank(module, max_rank: int) -> Method:
    """Returns LoRA or DoRA, each with the same settings."""
    return Method(
        settings=lambda c: lora.settings(
            rank=c.rank,
            alpha=c.alpha_ratio * c.rank,
            dropout=c.dropout,
            targets=c.targets,
            max_rank=max_rank,
            rslora=c.rslora,
            layers=c.layers,
        ),
        init=lambda model, settings, key: module.init(model, key, settings['rank_mask']),
        hidden=module.hidden,
        logits=_base_logits,
    )


def _prompt(max_length: int) -> Method:
    return Method(
        settings=lambda c: prompt.settings(length=c.prompt_length, init=c.prompt_init),
        init=lambda model, settings, key: prompt.init(
            model, key, max_length=max_length, from_vocabulary=settings['from_vocabulary']
        ),
        hidden=prompt.hidden,
        logits=_base_logits,
    )


_SMALL, _LARGE = PADDED
METHODS = {
    'lora': _low_rank(lora, _SMALL),
    'lora_64': _low_rank(lora, _LARGE),
    'dora': _low_rank(dora, _SMALL),
    'dora_64': _low_rank(dora, _LARGE),
    'prompt': _prompt(_SMALL),
    'prompt_64': _prompt(_LARGE),
    'full': Method(
        settings=lambda c: full.settings(),
        init=lambda model, settings, key: full.init(model),
        hidden=full.hidden,
        logits=full.logits,
    ),
}
