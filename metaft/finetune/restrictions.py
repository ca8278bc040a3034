"""What a user allows of an axis of the search space, checked, as a ConfigSpace hyperparameter."""

import difflib
import json
from collections.abc import Mapping, Sequence

import ConfigSpace as cs

from metaft.errors import ConfigurationError

Axis = tuple  # ('float', low, high, log) or ('choice', values in order)


def hyperparameter(name: str, field: str, axis: Axis, restriction):
    """Return an axis as a ConfigSpace hyperparameter, narrowed to a restriction where there is one.

    Args:
      name: of the hyperparameter.
      field: of the configuration, for messages.
      axis: its whole range.
      restriction: None, a value, a list of values, or for what has an order {'min': a, 'max': b}.

    Raises:
      ConfigurationError: the restriction is not within the axis.
    """
    kind, *spec = axis
    if kind == 'choice':
        allowed = list(spec[0])
        chosen = _chosen(field, restriction, allowed)
        if isinstance(allowed[0], str | bool):
            return cs.Categorical(name, chosen)
        return cs.OrdinalHyperparameter(name, sequence=chosen)
    low, high, log = spec
    if restriction is None:
        return cs.Float(name, (low, high), log=log)
    if isinstance(restriction, Mapping):
        refuse_unknown(restriction, ['min', 'max'])
        a, b = float(restriction.get('min', low)), float(restriction.get('max', high))
        if not low <= a < b <= high:
            raise ConfigurationError(
                f'--restrict: {field} from {a} to {b}; allowed: within {low} to {high}, min below max'
            )
        return cs.Float(name, (a, b), log=log)
    values = restriction if isinstance(restriction, list) else [restriction]
    bad = [v for v in values if not isinstance(v, int | float) or isinstance(v, bool) or not low <= v <= high]
    if bad or not values:
        raise ConfigurationError(f'--restrict: {field} is {restriction!r}; allowed: numbers from {low} to {high}')
    return cs.OrdinalHyperparameter(name, sequence=sorted(float(v) for v in values))


def refuse_unknown(values: Mapping, names: Sequence[str]) -> None:
    """Raise ConfigurationError at the first key that is none of `names`, with the nearest one."""
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f'did you mean {near[0]!r}?' if near else f'allowed: {", ".join(names)}'
            raise ConfigurationError(f'unknown configuration key {name!r}; {hint}')


def _chosen(field: str, restriction, allowed: list) -> list:
    if restriction is None:
        return allowed
    if isinstance(restriction, Mapping):
        refuse_unknown(restriction, ['min', 'max'])
        if isinstance(allowed[0], str | bool):
            raise ConfigurationError(f'--restrict: {field} has no order; give a list out of {json.dumps(allowed)}')
        low, high = restriction.get('min', allowed[0]), restriction.get('max', allowed[-1])
        values = [v for v in allowed if low <= v <= high]
    else:
        values = restriction if isinstance(restriction, list) else [restriction]
    if not values or any(v not in allowed for v in values):
        raise ConfigurationError(f'--restrict: {field} is {restriction!r}; allowed: out of {json.dumps(allowed)}')
    return [v for v in allowed if v in values]
