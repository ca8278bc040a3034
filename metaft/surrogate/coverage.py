"""How far a question lies outside of what the surrogate has seen, in plain words."""

import dataclasses
from collections.abc import Mapping

from metaft.surrogate.encoding import Configurations, Encoding, level_of, number_of

_FAR = 3.5  # robust standard deviations beyond the seen range that make a meta-feature strange

_MARGIN = 0.04  # of half a seen range: two random draws from one space differ by this much at their ends


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What is new about a task and configurations; all empty: nothing."""

    distances: dict[str, float]  # meta-feature -> robust standard deviations beyond the seen range, where above 0
    meta_features: dict[str, str]  # those that are far -> what is new, the farthest first
    hyperparameters: dict[str, str]  # name -> what is new

    @property
    def is_inside(self) -> bool:
        return not self.meta_features and not self.hyperparameters

    def sentences(self) -> list[str]:
        """Says what is outside; an empty list when nothing is."""
        return [f'{name} {what}' for name, what in (self.meta_features | self.hyperparameters).items()]


def coverage(encoding: Encoding, meta_features: Mapping[str, float], configurations: Configurations = ()) -> Coverage:
    """Compares a task and configurations with what the encoding was fitted on."""
    distances, far = {}, {}
    for name, (low, high) in encoding.ranges.items():
        value = number_of(meta_features.get(name))
        if value < low or value > high:
            distances[name] = max(low - value, value - high) / encoding.scales[name]
    for name in sorted(distances, key=distances.get, reverse=True):
        if distances[name] >= _FAR:
            low, high = encoding.ranges[name]
            seen = f'{low:.4g} to {high:.4g}' if low < high else f'{low:.4g}'
            far[name] = f'is {meta_features[name]:.4g}; the training tasks have {seen}'
    new: dict[str, str] = {}
    for configuration in configurations:
        for name, value in configuration.items():
            what = None if value is None or name in new else _what_is_new(encoding, name, value)
            if what is not None:
                new[name] = what
    return Coverage(distances, far, new)


def _what_is_new(encoding: Encoding, name: str, value) -> str | None:
    if name in encoding.numbers:
        axis = encoding.numbers[name]
        if abs(axis.place(float(value))) <= 1.0 + _MARGIN:
            return None
        return f'reaches {value:.4g}; the training runs have {axis.low:.4g} to {axis.high:.4g}'
    if name in encoding.categories:
        levels = encoding.categories[name]
        return (
            None if level_of(value) in levels else f'is {value!r} somewhere; the training runs have {", ".join(levels)}'
        )
    return 'was never varied in training'
