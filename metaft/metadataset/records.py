"""The two rows of the meta-dataset: a `Measurement` of a run, and the `TaskRecord` it belongs to.

A row is a flat dictionary of scalars, so that it is one JSON line and one Parquet row alike: the entries of a
dictionary field become `field.NAME`. How rows are stored is `store`'s business, what they mean together `tables`'.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Self

from metaft.errors import DataError

SCHEMA_VERSION = 1
STATUSES = ('running', 'finished', 'diverged')

Scalar = bool | int | float | str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of one run.

    Costs are cumulative over the run and its own share of the group it trained in. A value that is not finite is None;
    only a diverged run may lack its validation loss.
    """

    run_id: str
    task: str
    dataset: str
    base_model: str
    seed: int
    status: str
    budget_steps: int
    budget_examples: int  # training examples seen by then, budget_steps times the batch size
    train_loss: float | None  # nats per answer token
    validation_loss: float | None  # nats per answer token
    validation_exact_match: float | None  # share in [0, 1]
    test_loss: float | None = None
    test_exact_match: float | None = None
    cost_seconds: float
    cost_flops: float
    cost_tokens: int
    group: str
    slot: int
    host: str
    versions: Mapping[str, str]
    configuration: Mapping[str, Scalar]

    def __post_init__(self):
        for name in ('run_id', 'task', 'dataset', 'base_model'):
            _require(isinstance(getattr(self, name), str) and getattr(self, name), self, name, 'a non-empty string')
        _require(self.status in STATUSES, self, 'status', f'one of {", ".join(STATUSES)}')
        for name in ('budget_steps', 'budget_examples', 'cost_seconds', 'cost_flops', 'cost_tokens'):
            value = getattr(self, name)
            _require(_is_finite(value) and value >= 0, self, name, 'a finite number of at least 0')
        for name in ('train_loss', 'validation_loss', 'validation_exact_match', 'test_loss', 'test_exact_match'):
            if self.status == 'diverged' and not _is_finite(getattr(self, name)):
                object.__setattr__(self, name, None)
            value = getattr(self, name)
            _require(value is None or _is_finite(value), self, name, 'finite or None (unless the run diverged)')
            if name.endswith('exact_match'):
                _require(value is None or 0.0 <= value <= 1.0, self, name, 'a share in [0, 1]')
        _require(self.status == 'diverged' or self.validation_loss is not None, self, 'validation_loss', 'finite')
        for name in ('versions', 'configuration'):
            _freeze_scalars(self, name)

    def to_row(self) -> dict[str, Scalar]:
        """Returns the flat dictionary that is stored."""
        return _to_row(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Builds the measurement a stored row holds; raises DataError if it holds none."""
        return _from_row(cls, row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is known of a task before anything is trained on it."""

    task: str
    dataset: str
    base_model: str
    max_examples: int  # training examples of a full run, repeats included
    reference_loss: float  # validation loss of the base model as it is, nats per answer token
    reference_exact_match: float  # likewise, share in [0, 1]
    reference_seconds: float  # measured seconds of one forward example on this machine: the unit of transferable cost
    meta_features: Mapping[str, float | None]  # None: could not be computed
    meta_features_seconds: float | None = None  # wall time of computing them, compilation included; None: not recorded

    def __post_init__(self):
        for name in ('task', 'dataset', 'base_model'):
            _require(isinstance(getattr(self, name), str) and getattr(self, name), self, name, 'a non-empty string')
        for name in ('max_examples', 'reference_seconds'):
            value = getattr(self, name)
            _require(_is_finite(value) and value > 0, self, name, 'a finite number above 0')
        _require(_is_finite(self.reference_loss), self, 'reference_loss', 'finite')
        _require(0.0 <= self.reference_exact_match <= 1.0, self, 'reference_exact_match', 'a share in [0, 1]')
        _freeze_scalars(self, 'meta_features')

    def to_row(self) -> dict[str, Scalar]:
        """Returns the flat dictionary that is stored."""
        return _to_row(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Builds the task a stored row holds; raises DataError if it holds none."""
        return _from_row(cls, row)


def _to_row(record: Measurement | TaskRecord) -> dict[str, Scalar]:
    row: dict[str, Scalar] = {'schema_version': SCHEMA_VERSION}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Mapping):
            row |= {f'{field.name}.{key}': entry for key, entry in value.items()}
        else:
            row[field.name] = value
    return row


def _from_row(cls, row: Mapping[str, Any]):
    if row.get('schema_version') != SCHEMA_VERSION:
        raise DataError(
            f'a row has schema_version {row.get("schema_version")!r}, this metaft reads {SCHEMA_VERSION}; '
            'read it with the version that wrote it'
        )
    kwargs: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if 'Mapping' in str(field.type):
            prefix = f'{field.name}.'
            kwargs[field.name] = {key[len(prefix) :]: value for key, value in row.items() if key.startswith(prefix)}
        elif field.name in row:
            kwargs[field.name] = row[field.name]
        elif field.default is dataclasses.MISSING:
            raise DataError(f'a {cls.__name__} row misses {field.name!r}; it has {", ".join(sorted(row))}')
    return cls(**kwargs)


def _freeze_scalars(record, name: str) -> None:
    for key, value in getattr(record, name).items():
        allowed = value is None or isinstance(value, (bool, str)) or _is_finite(value)
        _require(allowed, record, f'{name}[{key!r}]', 'None, a bool, a finite number or a string', value)
    object.__setattr__(record, name, types.MappingProxyType(dict(getattr(record, name))))


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition, record, name: str, wanted: str, found=None) -> None:
    if not condition:
        found = getattr(record, name) if hasattr(record, name) else found
        raise DataError(f'{type(record).__name__}.{name} is {found!r}; it must be {wanted}')
