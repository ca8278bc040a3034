"""The three finetuning methods as one interface over `metaft.adapters`: what a configuration trains, and how the model sees it."""

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
      init: (model, configuration, key) -> one member's trainable pytree, float32.
      settings: configuration -> one member's untrained arrays.
      hidden: (model, adapter_M, settings_M, tokens [M*B, L], key_M or None) -> [M*B, L, D].
      logits: (model, adapter_M, hidden [M*B, A, D]) -> float32 [M*B, A, V].
    """

    init: Callable[[Phi3, Configuration, Array], dict]
    settings: Callable[[Configuration], dict]
    hidden: Callable[..., Array]
    logits: Callable[..., Array]


def _base_logits(model: Phi3, adapter: dict, x_BLD: Array) -> Array:
    del adapter
    return model.logits(x_BLD)


METHODS = {
    'lora': Method(
        init=lambda model, c, key: lora.init(model, key, rank=c.rank, max_rank=MAX_RANK),
        settings=lambda c: lora.settings(
            rank=c.rank, alpha=c.alpha_ratio * c.rank, dropout=c.dropout, targets=c.targets, max_rank=MAX_RANK
        ),
        hidden=lora.hidden,
        logits=_base_logits,
    ),
    'prompt': Method(
        init=lambda model, c, key: prompt.init(model, key, max_length=MAX_PROMPT_LENGTH),
        settings=lambda c: prompt.settings(length=c.prompt_length),
        hidden=prompt.hidden,
        logits=_base_logits,
    ),
    'full': Method(
        init=lambda model, c, key: full.init(model),
        settings=lambda c: full.settings(),
        hidden=full.hidden,
        logits=full.logits,
    ),
}
