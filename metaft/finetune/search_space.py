"""The search space and a point of it.

`Configuration` is the record that everything downstream carries; `search_space` is the same thing as a ConfigSpace
object, with its conditions, for sampling. Ranges are set so that the best values of tiny (0.2 M) and of large (3.8 B)
bases lie inside.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence

import ConfigSpace as cs

from metaft.errors import ConfigurationError

METHODS = ('lora', 'full', 'prompt')
SCHEDULES = ('constant', 'linear', 'cosine')
TARGETS = ('attention', 'mlp', 'all')
BATCH_SIZES = (8, 16, 32, 64)
RANKS = (1, 2, 4, 8, 16, 32)
PROMPT_LENGTHS = (1, 2, 4, 8, 16, 32)

# Four decades each. LoRA's best is about ten times full tuning's and nearly independent of rank (LoRA without regret,
# 2025); prompt tuning wants another factor of 10-300 (arXiv 2402.17193: 1e-3 / 1e-2 / 3e-1 for full / LoRA / prompt).
LEARNING_RATES = {'lora': (3e-5, 3e-1), 'full': (3e-6, 3e-2), 'prompt': (3e-4, 3.0)}

# Fields that only one method has; None elsewhere.
CONDITIONAL = {
    'rank': 'lora',
    'alpha_ratio': 'lora',
    'dropout': 'lora',
    'targets': 'lora',
    'prompt_length': 'prompt',
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A finetuning configuration. The field defaults are the *default configuration*, the common practice of the field.

    Attributes:
      method: what is trained: 'lora', 'full' (every weight) or 'prompt' (soft prompt).
      learning_rate: peak learning rate of AdamW. 1e-3: flat optimum of LoRA from 0.6 B to 32 B (SFT study of 2025).
      schedule: shape after warm-up; 'linear' and 'cosine' end at zero at the last step of a full run.
      warmup_fraction: share of a full run with linearly rising learning rate (QLoRA: 0.03).
      weight_decay: decoupled, of the trained parameters.
      beta2: AdamW's second-moment decay.
      batch_size: examples an update.
      rank: LoRA rank r (QLoRA and PEFT examples: 16).
      alpha_ratio: alpha / r; 2 is the common alpha = 2 r.
      dropout: on the input of the LoRA branch (QLoRA: 0.05).
      targets: the blocks' linear layers that get a LoRA ('all': QLoRA, LoRA without regret).
      prompt_length: trained vectors in front of the input.
    """

    method: str = 'lora'
    learning_rate: float = 1e-3
    schedule: str = 'cosine'
    warmup_fraction: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.999
    batch_size: int = 16
    rank: int | None = 16
    alpha_ratio: float | None = 2.0
    dropout: float | None = 0.05
    targets: str | None = 'all'
    prompt_length: int | None = None

    def __post_init__(self):
        for name, allowed in (('method', METHODS), ('schedule', SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f'{name} is {getattr(self, name)!r}; allowed: {", ".join(allowed)}')
        for name, method in CONDITIONAL.items():
            present = getattr(self, name) is not None
            if present != (self.method == method):
                verb = 'must be given' if self.method == method else 'must be left out (None)'
                raise ConfigurationError(f'{name} {verb} with method {self.method!r}; found {getattr(self, name)!r}')
        if self.targets is not None and self.targets not in TARGETS:
            raise ConfigurationError(f'targets is {self.targets!r}; allowed: {", ".join(TARGETS)}')
        for name, low, high in (
            ('learning_rate', 0.0, math.inf),
            ('warmup_fraction', 0.0, 1.0),
            ('weight_decay', 0.0, math.inf),
            ('beta2', 0.0, 1.0),
            ('batch_size', 1, math.inf),
            ('rank', 1, max(RANKS)),
            ('alpha_ratio', 0.0, math.inf),
            ('dropout', 0.0, 0.9),
            ('prompt_length', 1, max(PROMPT_LENGTHS)),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f'{name} is {value!r}; allowed: from {low} to {high}')

    def to_dict(self) -> dict:
        """Return the fields by name, None where a condition does not hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> 'Configuration':
        """Build from a dict; names not in the record are refused with the nearest one offered.

        Raises:
          ConfigurationError: unknown name, value out of range, or a value whose condition does not hold.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        _refuse_unknown(values, names)
        method = values.get('method', cls.method)
        # A conditional field keeps its default only under its own method.
        absent = {n: None for n, m in CONDITIONAL.items() if m != method}
        return cls(**{**absent, **dict(values)})


def default_configuration(method: str = 'lora') -> Configuration:
    """Return the common practice for `method`.

    Full tuning: a tenth of LoRA's learning rate (LoRA without regret). Prompt tuning: 20 vectors are customary (PEFT's
    examples); 16 is the nearest length here; learning rate 0.3 (Lester et al., arXiv 2104.08691; 2402.17193).
    """
    if method == 'lora':
        return Configuration()
    no_lora = {'rank': None, 'alpha_ratio': None, 'dropout': None, 'targets': None}
    if method == 'full':
        return Configuration(method='full', learning_rate=1e-4, **no_lora)
    if method == 'prompt':
        return Configuration(method='prompt', learning_rate=0.3, prompt_length=16, **no_lora)
    raise ConfigurationError(f'method is {method!r}; allowed: {", ".join(METHODS)}')


def search_space(methods: Sequence[str] = METHODS, restrict: Mapping | None = None) -> cs.ConfigurationSpace:
    """Return the space as a ConfigSpace object.

    Args:
      methods: subset of METHODS to search.
      restrict: hyperparameter name -> a value, a list of values, or for numeric ranges {'min': a, 'max': b}.

    Raises:
      ConfigurationError: unknown method or name, or a restriction outside of the space.
    """
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ConfigurationError(f'methods is {",".join(methods) or "empty"}; allowed: {", ".join(METHODS)}')
    restrict = dict(restrict or {})
    _refuse_unknown(restrict, [f.name for f in dataclasses.fields(Configuration) if f.name != 'method'])

    space = cs.ConfigurationSpace(name='finetuning')
    method = cs.Categorical('method', list(methods))
    space.add(method)
    for name in ('schedule', 'warmup_fraction', 'weight_decay', 'beta2', 'batch_size'):
        space.add(_hyperparameter(name, name, restrict.get(name)))
    for m in methods:
        rate = _hyperparameter(f'learning_rate_{m}', 'learning_rate', restrict.get('learning_rate'), LEARNING_RATES[m])
        space.add(rate, cs.EqualsCondition(rate, method, m))
    for name, m in CONDITIONAL.items():
        if m in methods:
            parameter = _hyperparameter(name, name, restrict.get(name))
            space.add(parameter, cs.EqualsCondition(parameter, method, m))
    return space


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
    """Return whether a configuration lies inside of a (restricted) space."""
    for name, value in configuration.to_dict().items():
        axis = f'learning_rate_{configuration.method}' if name == 'learning_rate' else name
        if value is not None and (axis not in space or not space[axis].legal_value(value)):
            return False
    return True


def _from_config_space(values: dict) -> Configuration:
    method = str(values['method'])
    plain = {k: v for k, v in values.items() if not k.startswith('learning_rate_')}
    plain['learning_rate'] = values[f'learning_rate_{method}']
    integers = ('batch_size', 'rank', 'prompt_length')
    texts = ('method', 'schedule', 'targets')
    cast = lambda k, v: int(v) if k in integers else str(v) if k in texts else float(v)
    return Configuration.from_dict({k: cast(k, v) for k, v in plain.items()})


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


def _hyperparameter(name: str, axis: str, restriction, bounds: tuple[float, float] | None = None):
    kind, *spec = _AXES.get(axis, ('float', *(bounds or ()), True))
    if kind == 'choice':
        allowed = list(spec[0])
        chosen = _chosen(axis, restriction, allowed)
        if isinstance(allowed[0], str):
            return cs.Categorical(name, chosen)
        return cs.OrdinalHyperparameter(name, sequence=chosen)
    low, high, log = spec
    if restriction is None:
        return cs.Float(name, (low, high), log=log)
    if isinstance(restriction, Mapping):
        _refuse_unknown(restriction, ['min', 'max'])
        a, b = float(restriction.get('min', low)), float(restriction.get('max', high))
        if not low <= a < b <= high:
            raise ConfigurationError(
                f'--restrict: {axis} from {a} to {b}; allowed: within {low} to {high}, min below max'
            )
        return cs.Float(name, (a, b), log=log)
    values = restriction if isinstance(restriction, list) else [restriction]
    bad = [v for v in values if not isinstance(v, int | float) or isinstance(v, bool) or not low <= v <= high]
    if bad or not values:
        raise ConfigurationError(f'--restrict: {axis} is {restriction!r}; allowed: numbers from {low} to {high}')
    return cs.OrdinalHyperparameter(name, sequence=sorted(float(v) for v in values))


def _chosen(axis: str, restriction, allowed: list) -> list:
    if restriction is None:
        return allowed
    if isinstance(restriction, Mapping):
        _refuse_unknown(restriction, ['min', 'max'])
        if isinstance(allowed[0], str):
            raise ConfigurationError(f'--restrict: {axis} has no order; give a list out of {json.dumps(allowed)}')
        low, high = restriction.get('min', allowed[0]), restriction.get('max', allowed[-1])
        values = [v for v in allowed if low <= v <= high]
    else:
        values = restriction if isinstance(restriction, list) else [restriction]
    if not values or any(v not in allowed for v in values):
        raise ConfigurationError(f'--restrict: {axis} is {restriction!r}; allowed: out of {json.dumps(allowed)}')
    return [v for v in allowed if v in values]


def _refuse_unknown(values: Mapping, names: Sequence[str]) -> None:
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f'did you mean {near[0]!r}?' if near else f'allowed: {", ".join(names)}'
            raise ConfigurationError(f'unknown configuration key {name!r}; {hint}')
