"""Configurations and meta-features as numbers, by the ranges seen in training.

An `Encoding` is fitted once, travels with the checkpoint as JSON, and encodes dictionaries with any keys: a numeric
hyperparameter becomes its place in the seen range, [-1, 1], and a bit that says whether it is there (None: its
condition does not hold); a category one bit a level and one for all levels never seen.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from metaft.metadataset.tables import METRICS, said

Configurations = Sequence[Mapping[str, Any]]

_LOG_RATIO = 7.9  # below a ratio of 8 (batch sizes 8 to 64) logarithms change little
_OVERSHOOT = 0.25  # how far beyond [-1, 1] a value outside of the seen range is moved at most
SIZES = ('log_num_train_examples', 'log_num_parameters')  # what a scaling law is in
_SAY_THE_SIZE = ('log_num_distinct_questions',)  # nearly equal to one of them
_IGNORED = ('calibration_seconds_per_example',)  # of the machine, not of the task; costs are relative to it


@dataclasses.dataclass(frozen=True)
class Axis:
    """The seen range of one number, perhaps in logarithms."""

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """Returns where a value lies: -1 at `low`, 1 at `high`, beyond outside."""
        low, high, value = ((math.log(max(v, self._floor())) if self.log else v) for v in (self.low, self.high, value))
        return 2.0 * (value - low) / (high - low) - 1.0 if high > low else value - low

    def _floor(self) -> float:
        return self.low * 1e-3

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Fits the range; logarithmic where the values were evidently chosen so.

        That is, all are positive, they span a ratio of 8 or more, and their median lies nearer to the middle of the
        range in logarithms than as it is: so for learning rates and ranks, but not for momentum or dropout.
        """
        low, high, median = float(min(values)), float(max(values)), float(np.median(values))
        if low <= 0.0 or high / low < _LOG_RATIO:
            return cls(low, high, log=False)
        linear, log = cls(low, high, log=False), cls(low, high, log=True)
        return log if abs(log.place(median)) < abs(linear.place(median)) else linear


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What was seen in training, and how it becomes numbers."""

    numbers: dict[str, Axis]
    categories: dict[str, tuple[str, ...]]
    within: dict[str, tuple[str, dict[str, Axis]]]  # number -> (category, its level -> range there)
    centers: dict[str, float]  # meta-feature -> median
    scales: dict[str, float]  # meta-feature -> robust standard deviation
    ranges: dict[str, tuple[float, float]]  # meta-feature -> smallest and largest
    cost_center: float  # of the log cost rates
    cost_scale: float

    @classmethod
    def fit(
        cls,
        configurations: Configurations,
        meta_features: Iterable[Mapping[str, float]],
        log_rates: np.ndarray,
        within: Mapping[str, str] | None = None,
    ) -> Self:
        """Reads the ranges off training tasks.

        Args:
          configurations: of all tasks.
          meta_features: one dictionary a task.
          log_rates: all observed log cost rates, NaN ignored.
          within: number -> category, for numbers whose useful range depends on a category: they are placed in the range
            of their level too. Default: the learning rate within the method. Names that do not occur are ignored.
        """
        configurations = [said(c) for c in configurations]
        columns = {
            name: [c.get(name) for c in configurations] for name in sorted({k for c in configurations for k in c})
        }
        present = {name: [v for v in column if v is not None] for name, column in columns.items()}
        categories = {
            name: tuple(sorted({level_of(v) for v in values}))
            for name, values in present.items()
            if any(isinstance(v, (str, bool)) for v in values)
        }
        numbers = {name: Axis.of(values) for name, values in present.items() if values and name not in categories}
        ranges_within = {}
        for name, category in ({'learning_rate': 'method'} if within is None else within).items():
            if name in numbers and category in categories:
                pairs = [
                    (v, level_of(k)) for v, k in zip(columns[name], columns[category], strict=True) if v is not None
                ]
                levels = {level: [v for v, other in pairs if other == level] for level in categories[category]}
                ranges_within[name] = (category, {level: Axis.of(vs) for level, vs in levels.items() if vs})
        known = [{k: v for k, v in z.items() if k not in _IGNORED} for z in meta_features]
        columns_Z = {
            name: np.array([number_of(z.get(name)) for z in known]) for name in sorted({k for z in known for k in z})
        }
        columns_Z = {
            name: column[np.isfinite(column)] for name, column in columns_Z.items() if np.isfinite(column).any()
        }
        rates = np.asarray(log_rates)[np.isfinite(log_rates)]
        return cls(
            numbers=numbers,
            categories=categories,
            within=ranges_within,
            centers={name: float(np.median(column)) for name, column in columns_Z.items()},
            scales={name: _robust_scale(column) for name, column in columns_Z.items()},
            ranges={name: (float(column.min()), float(column.max())) for name, column in columns_Z.items()},
            cost_center=float(np.median(rates)) if rates.size else 0.0,
            cost_scale=_robust_scale(rates) if rates.size else 1.0,
        )

    @property
    def num_hyperparameters(self) -> int:
        """The width E of an encoded configuration."""
        return 2 * len(self.numbers) + len(self.within) + sum(len(levels) + 1 for levels in self.categories.values())

    @property
    def num_task_features(self) -> int:
        """The width Z of an encoded task: meta-features, their missing bits, the metric."""
        return 2 * len(self.centers) + len(METRICS)

    def configurations(self, configurations: Configurations) -> np.ndarray:
        """Encodes configurations, float32 [C, E]."""
        encoded_CE = np.zeros((len(configurations), self.num_hyperparameters), np.float32)
        for row_E, configuration in zip(encoded_CE, configurations, strict=True):
            row_E[:] = self._configuration(said(configuration))
        return encoded_CE

    def task(self, meta_features: Mapping[str, float], metric: str) -> np.ndarray:
        """Encodes a task's meta-features and the metric, float32 [Z]; a missing or unknown one becomes its bit."""
        values = np.array([number_of(meta_features.get(name)) for name in self.centers])
        missing = ~np.isfinite(values)
        z = (values - np.array([*self.centers.values()])) / np.array([*self.scales.values()])
        z = np.where(missing, 0.0, 3.0 * np.tanh(z / 3.0))
        return np.concatenate([z, missing, [metric == level for level in METRICS]]).astype(np.float32)

    def sizes(self, meta_features: Mapping[str, float]) -> np.ndarray:
        """Returns the SIZES less their medians in training, unbounded, float32 [2]; 0 where unknown or never seen."""
        sizes = [number_of(meta_features.get(name)) - self.centers.get(name, math.nan) for name in SIZES]
        return np.nan_to_num(np.array(sizes, np.float32), nan=0.0)

    @property
    def size_places(self) -> tuple[int, ...]:
        """The places of `task` that tell a size: what a network must not read where a law is to extrapolate in it."""
        return tuple(z for z, name in enumerate(self.centers) if name in SIZES + _SAY_THE_SIZE)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **record,
                'numbers': {name: Axis(**axis) for name, axis in record['numbers'].items()},
                'categories': {name: tuple(levels) for name, levels in record['categories'].items()},
                'within': {
                    name: (category, {level: Axis(**axis) for level, axis in axes.items()})
                    for name, (category, axes) in record['within'].items()
                },
                'ranges': {name: tuple(bounds) for name, bounds in record['ranges'].items()},
            }
        )

    def _configuration(self, configuration: Mapping[str, Any]) -> list[float]:
        row = []
        for name, axis in self.numbers.items():
            value = configuration.get(name)
            row += [0.0, 0.0] if value is None else [_soft_clip(axis.place(float(value))), 1.0]
        for name, (category, axes) in self.within.items():
            value, axis = configuration.get(name), axes.get(level_of(configuration.get(category)))
            row.append(0.0 if value is None or axis is None else _soft_clip(axis.place(float(value))))
        for name, levels in self.categories.items():
            value = configuration.get(name)
            row += [float(value is not None and level_of(value) == level) for level in levels]
            row.append(float(value is not None and level_of(value) not in levels))
        return row


def _soft_clip(place: float) -> float:
    beyond = max(abs(place) - 1.0, 0.0)
    return math.copysign(min(abs(place), 1.0) + _OVERSHOOT * math.tanh(beyond / _OVERSHOOT), place)


def level_of(value: Any) -> str:
    """Returns the name of a level of a category; truth values have one too."""
    return str(value)


def number_of(value: float | None) -> float:
    """Returns a meta-feature as a number, NaN where it is missing."""
    return math.nan if value is None else float(value)


def _robust_scale(values: np.ndarray) -> float:
    """Returns the interquartile range as a standard deviation, or the plain one where half of the values agree."""
    spread = float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.349
    return max(spread, float(np.std(values)) / 3.0) or 1.0
