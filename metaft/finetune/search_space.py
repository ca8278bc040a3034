"""The search space and a point of it.

`Configuration` is the record that everything downstream carries; `search_space` is the same thing as a ConfigSpace
object, with its conditions, for sampling. Ranges are set so that the best values of tiny (0.2 M) and of large (3.8 B)
bases lie inside. The space is the one that the shipped meta-dataset was drawn from; `wide=True` adds the axes that
came later.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ConfigSpace as cs

from metaft.errors import ConfigurationError
from metaft.finetune.restrictions import hyperparameter, refuse_unknown

METHODS = ('lora', 'full', 'prompt')
OPTIMIZERS = ('adamw', 'lion', 'adafactor', 'sgd')
SCHEDULES = ('constant', 'linear', 'cosine')
TARGETS = ('attention', 'mlp', 'all')
LAYERS = ('all', 'first_half', 'last_half')
PROMPT_INITS = ('vocabulary', 'random')
BATCH_SIZES = (8, 16, 32, 64)
RANKS = (1, 2, 4, 8, 16, 32)
PROMPT_LENGTHS = (1, 2, 4, 8, 16, 32)
MAX_RANK = MAX_PROMPT_LENGTH = 64  # of a configuration; of the wide space's axes too

# Four decades each. LoRA's best is about ten times full tuning's and nearly independent of rank (LoRA without regret,
# 2025); prompt tuning wants another factor of 10-300 (arXiv 2402.17193: 1e-3 / 1e-2 / 3e-1 for full / LoRA / prompt).
# Lion wants a third to a tenth of AdamW's (arXiv 2302.06675, section 5), which is inside too.
LEARNING_RATES = {'lora': (3e-5, 3e-1), 'full': (3e-6, 3e-2), 'prompt': (3e-4, 3.0)}

# Fields that hold only where another field has one of some values; None elsewhere.
CONDITIONAL = {
    'beta2': ('optimizer', ('adamw', 'lion')),
    'rank': ('method', ('lora',)),
    'alpha_ratio': ('method', ('lora',)),
    'dropout': ('method', ('lora',)),
    'targets': ('method', ('lora',)),
    'rslora': ('method', ('lora',)),
    'dora': ('method', ('lora',)),
    'lora_plus_ratio': ('method', ('lora',)),
    'layers': ('method', ('lora',)),
    'prompt_length': ('method', ('prompt',)),
    'prompt_init': ('method', ('prompt',)),
}

# Fields that are younger than the first runs of the shipped meta-dataset, with what was meant before they were there. A
# record without them means these values, and so does a configuration that is made without them.
LATER = {
    'optimizer': 'adamw',
    'label_smoothing': 0.0,
    'clip_norm': 1.0,  # the default of the Hugging Face Trainer
    'rslora': False,
    'dora': False,
    'lora_plus_ratio': 1.0,
    'layers': 'all',
    'prompt_init': 'vocabulary',
}

_LEVELS: dict[str, tuple] = {
    'method': METHODS,
    'optimizer': OPTIMIZERS,
    'schedule': SCHEDULES,
    'targets': TARGETS,
    'layers': LAYERS,
    'prompt_init': PROMPT_INITS,
    'rslora': (False, True),
    'dora': (False, True),
}
_BOUNDS = {
    'learning_rate': (0.0, math.inf),
    'warmup_fraction': (0.0, 1.0),
    'weight_decay': (0.0, math.inf),
    'beta2': (0.0, 1.0),
    'batch_size': (1, math.inf),
    'rank': (1, MAX_RANK),
    'alpha_ratio': (0.0, math.inf),
    'dropout': (0.0, 0.9),
    'prompt_length': (1, MAX_PROMPT_LENGTH),
    'label_smoothing': (0.0, 1.0),
    'clip_norm': (1e-9, math.inf),
    'lora_plus_ratio': (1e-9, math.inf),
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A finetuning configuration. The field defaults are the *default configuration*, the common practice of the field.

    Attributes:
      method: what is trained: 'lora', 'full' (every weight) or 'prompt' (soft prompt).
      learning_rate: peak learning rate. 1e-3: flat optimum of LoRA from 0.6 B to 32 B (SFT study of 2025, AdamW).
      schedule: shape after warm-up; 'linear' and 'cosine' end at zero at the last step of a full run.
      warmup_fraction: share of a full run with linearly rising learning rate (QLoRA: 0.03).
      weight_decay: decoupled, of the trained parameters.
      beta2: second-moment decay of AdamW, decay of Lion's momentum.
      batch_size: examples an update.
      rank: LoRA rank r (QLoRA and PEFT examples: 16).
      alpha_ratio: alpha / r; 2 is the common alpha = 2 r.
      dropout: on the input of the LoRA branch (QLoRA: 0.05).
      targets: the blocks' linear layers that get a LoRA ('all': QLoRA, LoRA without regret).
      prompt_length: trained vectors in front of the input.
      optimizer: one of OPTIMIZERS.
      label_smoothing: share of the target's probability that is spread over the vocabulary, in training only.
      clip_norm: norm that longer gradients are shortened to.
      rslora: scale the branch by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732).
      dora: train the columns' magnitudes apart from their directions (arXiv 2402.09353).
      lora_plus_ratio: learning rate of B over that of A (LoRA+, arXiv 2402.12354).
      layers: the blocks that get a LoRA; the middle one of an odd number belongs to both halves.
      prompt_init: 'vocabulary', embeddings of random entries, or 'random', normal draws of their standard deviation.
    """

    method: str = 'lora'
    learning_rate: float = 1e-3
    schedule: str = 'cosine'
    warmup_fraction: float = 0.03
    weight_decay: float = 0.0
    beta2: float | None = 0.999
    batch_size: int = 16
    rank: int | None = 16
    alpha_ratio: float | None = 2.0
    dropout: float | None = 0.05
    targets: str | None = 'all'
    prompt_length: int | None = None
    # None becomes the value in LATER where the field's condition holds.
    optimizer: str = None
    label_smoothing: float = None
    clip_norm: float = None
    rslora: bool | None = None
    dora: bool | None = None
    lora_plus_ratio: float | None = None
    layers: str | None = None
    prompt_init: str | None = None

    def __post_init__(self):
        for name, value in LATER.items():
            parent, allowed = CONDITIONAL.get(name, ('method', METHODS))
            if getattr(self, name) is None and getattr(self, parent) in allowed:
                object.__setattr__(self, name, value)
        for name, levels in _LEVELS.items():
            value = getattr(self, name)
            if value not in levels and not (value is None and name in CONDITIONAL):
                raise ConfigurationError(f'{name} is {value!r}; allowed: {", ".join(map(str, levels))}')
        for name, (parent, allowed) in CONDITIONAL.items():
            holds = getattr(self, parent) in allowed
            if (getattr(self, name) is not None) != holds:
                verb = 'must be given' if holds else 'must be left out (None)'
                raise ConfigurationError(
                    f'{name} {verb} with {parent} {getattr(self, parent)!r}; found {getattr(self, name)!r}'
                )
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f'{name} is {value!r}; allowed: from {low} to {high}')

    def to_dict(self) -> dict:
        """Return the fields by name, None where a condition does not hold."""
        return dataclasses.asdict(self)

    def identity(self) -> dict:
        """Return the fields by name, those of LATER only where they say something new: what a run is named by."""
        return said(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping) -> 'Configuration':
        """Build from a dict, perhaps of a record that is older than some fields.

        Raises:
          ConfigurationError: unknown name (the nearest one is offered), value out of range, or a value whose condition
            does not hold.
        """
        refuse_unknown(values, [f.name for f in dataclasses.fields(cls)])
        given = {n: v for n, v in values.items() if n not in LATER or v is not None}
        # A conditional field keeps its default only where its condition holds.
        said = {'method': cls.method, 'optimizer': LATER['optimizer']} | given
        absent = {n: None for n, (parent, allowed) in CONDITIONAL.items() if said[parent] not in allowed}
        return cls(**{**absent, **given})


def said(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without those of LATER that say what an older record means by leaving them out.

    So an older and a younger record of the same configuration are one.
    """
    return {n: v for n, v in configuration.items() if n not in LATER or v not in (None, LATER[n])}


def default_configuration(method: str = 'lora') -> Configuration:
    """Return the common practice for `method`.

    Full tuning: a tenth of LoRA's learning rate (LoRA without regret). Prompt tuning: 20 vectors are customary (PEFT's
    examples); 16 is the nearest length here; learning rate 0.3 (Lester et al., arXiv 2104.08691; 2402.17193).
    """
    if method == 'lora':
        return Configuration()
    if method == 'full':
        return Configuration.from_dict({'method': 'full', 'learning_rate': 1e-4})
    if method == 'prompt':
        return Configuration.from_dict({'method': 'prompt', 'learning_rate': 0.3, 'prompt_length': 16})
    raise ConfigurationError(f'method is {method!r}; allowed: {", ".join(METHODS)}')


# name -> ('float', low, high, log) or ('choice', values); one place for every range.
_AXES = {
    'schedule': ('choice', SCHEDULES),
    'warmup_fraction': ('float', 0.0, 0.2, False),
    'weight_decay': ('choice', (0.0, 1e-3, 1e-2, 1e-1)),
    'beta2': ('choice', (0.95, 0.99, 0.999)),
    'batch_size': ('choice', BATCH_SIZES),
    'rank': ('choice', RANKS),
    'alpha_ratio': ('choice', (0.5, 1.0, 2.0, 4.0)),
    'dropout': ('choice', (0.0, 0.05, 0.1, 0.2)),
    'targets': ('choice', TARGETS),
    'prompt_length': ('choice', PROMPT_LENGTHS),
}
_WIDE_AXES = {
    'optimizer': ('choice', OPTIMIZERS),
    'label_smoothing': ('choice', (0.0, 0.05, 0.1, 0.2)),
    'clip_norm': ('choice', (0.1, 0.3, 1.0, 3.0, 10.0)),
    'rank': ('choice', (*RANKS, MAX_RANK)),
    'rslora': ('choice', (False, True)),
    'dora': ('choice', (False, True)),
    'lora_plus_ratio': ('choice', (1.0, 2.0, 4.0, 8.0, 16.0)),  # the paper recommends 16, with a smaller rate of A
    'layers': ('choice', LAYERS),
    'prompt_length': ('choice', (*PROMPT_LENGTHS, MAX_PROMPT_LENGTH)),
    'prompt_init': ('choice', PROMPT_INITS),
}
# In the order in which they are drawn: before the methods' own, and each after what its condition reads.
_SHARED = ('optimizer', 'schedule', 'warmup_fraction', 'weight_decay', 'beta2', 'batch_size', 'label_smoothing',
           'clip_norm')  # fmt: skip
# SGD's best learning rates lie decades above the others': it is searched only where a restriction names it.
_WIDE_OPTIMIZERS = ('adamw', 'lion', 'adafactor')


def search_space(
    methods: Sequence[str] = METHODS, restrict: Mapping | None = None, *, wide: bool = False
) -> cs.ConfigurationSpace:
    """Return the space as a ConfigSpace object.

    Args:
      methods: subset of METHODS to search.
      restrict: hyperparameter name -> a value, a list of values, or for numeric ranges {'min': a, 'max': b}. A field of
        LATER that is named here is an axis also where the space is not wide.
      wide: with every axis of LATER, ranks and prompt lengths up to 64.

    Raises:
      ConfigurationError: unknown method or name, or a restriction outside of the space.
    """
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ConfigurationError(f'methods is {",".join(methods) or "empty"}; allowed: {", ".join(METHODS)}')
    restrict = dict(restrict or {})
    refuse_unknown(restrict, [f.name for f in dataclasses.fields(Configuration) if f.name != 'method'])
    axes = _AXES | {n: axis for n, axis in _WIDE_AXES.items() if wide or (n in LATER and n in restrict)}
    if wide:
        restrict.setdefault('optimizer', list(_WIDE_OPTIMIZERS))

    space = cs.ConfigurationSpace(name='finetuning')
    space.add(cs.Categorical('method', list(methods)))
    for name in _SHARED:
        _add(space, name, axes, restrict)
    for m in methods:
        axis = ('float', *LEARNING_RATES[m], True)
        rate = hyperparameter(f'learning_rate_{m}', 'learning_rate', axis, restrict.get('learning_rate'))
        space.add(rate, cs.EqualsCondition(rate, space['method'], m))
    for name in CONDITIONAL:
        if name not in _SHARED:
            _add(space, name, axes, restrict)
    return space


def _add(space: cs.ConfigurationSpace, name: str, axes: Mapping, restrict: Mapping) -> None:
    """Add an axis, if it is one, under its condition; nothing where the condition can never hold."""
    if name not in axes:
        return
    parent, values = CONDITIONAL.get(name, ('', ()))
    if parent not in space:
        space.add(hyperparameter(name, name, axes[name], restrict.get(name)))
        return
    possible = [v for v in values if space[parent].legal_value(v)]
    if possible:
        parameter = hyperparameter(name, name, axes[name], restrict.get(name))
        kind, value = (cs.EqualsCondition, possible[0]) if len(possible) == 1 else (cs.InCondition, possible)
        space.add(parameter, kind(parameter, space[parent], value))


def sample(space: cs.ConfigurationSpace, num: int, seed: int) -> list[Configuration]:
    """Draw `num` different configurations, uniformly in the space's own (log) axes; the same seed gives the same."""
    space.seed(seed)
    found: dict[Configuration, None] = {}
    for _ in range(20):
        drawn = space.sample_configuration(num if num > 1 else None)  # ConfigSpace warns of a size of 1
        for values in drawn if isinstance(drawn, list) else [drawn]:
            found.setdefault(_from_config_space(dict(values)))
        if len(found) >= num:
            break
    return list(found)[:num]


def contains(space: cs.ConfigurationSpace, configuration: Configuration) -> bool:
    """Return whether a configuration lies inside of a (restricted) space; what is no axis must be as in LATER."""
    for name, value in configuration.to_dict().items():
        axis = f'learning_rate_{configuration.method}' if name == 'learning_rate' else name
        if axis in space:
            if value is not None and not space[axis].legal_value(value):
                return False
        elif value is not None and (name not in LATER or value != LATER[name]):
            return False
    return True


def _from_config_space(values: dict) -> Configuration:
    method = str(values['method'])
    plain = {k: v for k, v in values.items() if not k.startswith('learning_rate_')}
    plain['learning_rate'] = values[f'learning_rate_{method}']
    integers = ('batch_size', 'rank', 'prompt_length')
    levels = {name: {str(level): level for level in found} for name, found in _LEVELS.items()}
    cast = lambda k, v: int(v) if k in integers else levels[k][str(v)] if k in levels else float(v)
    return Configuration.from_dict({k: cast(k, v) for k, v in plain.items()})
