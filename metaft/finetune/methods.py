"""The three finetuning methods as one interface over `metaft.adapters`: what is trained, and how the model sees it."""

import dataclasses
from collections.abc import Callable

from jax import Array

from metaft.adapters import full, lora, prompt
from metaft.finetune.search_space import PROMPT_LENGTHS, RANKS, Configuration
from metaft.phi3 import Phi3

MAX_RANK = max(RANKS)
MAX_PROMPT_LENGTH = max(PROMPT_LENGTHS)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a population needs to know of a method.

    Attributes:
      settings: configuration -> one member's untrained arrays.
      init: (model, settings, key) -> one member's trainable pytree, float32.
      hidden: (model, adapter_M, settings_M, tokens [M*B, L], key_M or None) -> [M*B, L, D].
      logits: (model, adapter_M, hidden [M*B, A, D]) -> float32 [M*B, A, V].
    """

    settings: Callable[[Configuration], dict]
    init: Callable[[Phi3, dict, Array], dict]
    hidden: Callable[..., Array]
    logits: Callable[..., Array]


def _base_logits(model: Phi3, adapter: dict, x_BLD: Array) -> Array:
    del adapter
    return model.logits(x_BLD)


METHODS = {
    'lora': Method(
        settings=lambda c: lora.settings(
            rank=c.rank, alpha=c.alpha_ratio * c.rank, dropout=c.dropout, targets=c.targets, max_rank=MAX_RANK
        ),
        init=lambda model, settings, key: lora.init(model, key, settings['rank_mask']),
        hidden=lora.hidden,
        logits=_base_logits,
    ),
    'prompt': Method(
        settings=lambda c: prompt.settings(length=c.prompt_length),
        init=lambda model, settings, key: prompt.init(model, key, max_length=MAX_PROMPT_LENGTH),
        hidden=prompt.hidden,
        logits=_base_logits,
    ),
    'full': Method(
        settings=lambda c: full.settings(),
        init=lambda model, settings, key: full.init(model),
        hidden=full.hidden,
        logits=full.logits,
    ),
}
