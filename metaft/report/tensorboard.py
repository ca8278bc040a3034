"""Measurements as TensorBoard scalars, one run a directory; the library is an extra, `metaft[tensorboard]`."""

import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from metaft.errors import InputError
from metaft.metadataset.records import Measurement

SCALARS = ('train_loss', 'validation_loss', 'validation_exact_match', 'test_loss', 'test_exact_match', 'cost_seconds')


class TensorboardWriter:
    """Writes what was measured, each measurement once; the axis is the number of training examples.

    Args:
      directory: `tensorboard --logdir` takes it.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise InputError('TensorBoard files need tensorboardX: pip install tensorboardX') from None
        self._open = lambda run_id: tensorboardX.SummaryWriter(str(directory / run_id), flush_secs=5)
        self._writers: dict = {}
        self._written: set[tuple[str, int]] = set()

    def write(self, measurements: Iterable[Measurement]) -> None:
        """Add the measurements that were not written yet."""
        for measurement in measurements:
            key = (measurement.run_id, measurement.budget_steps)
            if key in self._written:
                continue
            self._written.add(key)
            if measurement.run_id not in self._writers:
                self._writers[measurement.run_id] = self._open(measurement.run_id)
            writer = self._writers[measurement.run_id]
            for name in SCALARS:
                value = getattr(measurement, name)
                if value is not None and math.isfinite(value):
                    writer.add_scalar(name, value, measurement.budget_examples)

    def __enter__(self) -> 'TensorboardWriter':
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()
