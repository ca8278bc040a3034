"""What a live search keeps on disk, so that the same command goes on after Ctrl-C, kill -9 or a full disk.

measurements.jsonl             every measurement, appended and synced before the next step starts
progress.json                  seconds of the budget spent so far, in all sessions together
frozen/RUN.safetensors         runs that can go on
adapter-RUN-STEP.safetensors   what the best measured checkpoint trained
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from metaft.errors import WorkdirError
from metaft.finetune.search_space import Configuration
from metaft.metadataset import store
from metaft.metadataset.records import Measurement


def score(measurement: Measurement, metric: str) -> tuple[float, float]:
    """Return what is minimised; equal exact matches are told apart by the loss. A diverged run is infinitely bad."""
    if measurement.status == 'diverged':
        return (np.inf, np.inf)
    loss = measurement.validation_loss
    return (loss, loss) if metric == 'loss' else (1.0 - measurement.validation_exact_match, loss)


@dataclasses.dataclass
class Ledger:
    """The records of one live search; `metric` is 'loss' or 'exact_match'."""

    workdir: Path
    metric: str

    def __post_init__(self):
        log = store.read(self.workdir / 'measurements.jsonl')
        # A step repeated after a crash between measuring and freezing counts once, the later one.
        latest = {(m.run_id, m.budget_steps): m for m in log.measurements}
        self.measurements: list[Measurement] = list(latest.values())
        self.num_torn = log.num_torn
        progress = self.workdir / 'progress.json'
        self._spent_before = json.loads(progress.read_text())['spent_seconds'] if progress.exists() else 0.0
        self._started: float | None = None

    # ------------------------------------------------------------ the budget's clock

    def start_clock(self) -> None:
        """Let the budget's clock run from now."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Halt the clock; what was spent is kept."""
        self._spent_before, self._started = self.spent_seconds, None
        self._write_progress()

    @property
    def spent_seconds(self) -> float:
        """Seconds of the budget spent, those of interrupted sessions included."""
        return self._spent_before + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def spent(self, unit: str) -> float:
        """What was spent of a budget: seconds by the clock; FLOPs or tokens that measured runs were trained with."""
        if unit == 'seconds':
            return self.spent_seconds
        by_run: dict[str, float] = {}
        for m in self.measurements:
            cost = {'flops': m.cost_flops, 'tokens': m.cost_tokens}[unit]
            by_run[m.run_id] = max(float(cost), by_run.get(m.run_id, 0.0))
        return sum(by_run.values())

    def _write_progress(self) -> None:
        _write_text(self.workdir / 'progress.json', json.dumps({'spent_seconds': self.spent_seconds}) + '\n')

    # ------------------------------------------------------------ measurements

    def record(self, measurement: Measurement, adapter: Callable[[], dict]) -> None:
        """Keep a measurement, and its adapter where it is the best so far."""
        best = self.incumbent()
        is_best = best is None or score(measurement, self.metric) < score(best, self.metric)
        if is_best and measurement.status != 'diverged':
            self._keep(measurement, adapter())
        store.append(self.workdir / 'measurements.jsonl', measurement)
        self.measurements.append(measurement)
        self._write_progress()
        best = self.incumbent()
        for path in self.workdir.glob('adapter-*.safetensors'):  # the one before is safe to go only now
            if best is not None and path != self._adapter_path(best):
                path.unlink()

    def incumbent(self) -> Measurement | None:
        """Return the best measured checkpoint; None while every run diverged or none was measured."""
        alive = [m for m in self.measurements if m.status != 'diverged']
        return min(alive, key=lambda m: score(m, self.metric), default=None)

    def _adapter_path(self, measurement: Measurement) -> Path:
        return self.workdir / f'adapter-{measurement.run_id}-{measurement.budget_steps}.safetensors'

    def _keep(self, measurement: Measurement, adapter: dict) -> None:
        path = self._adapter_path(measurement)
        partial = path.with_suffix(f'.{os.getpid()}')
        try:
            save_file({key: np.asarray(x, order='C') for key, x in _flat(adapter).items()}, partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise WorkdirError(
                f'{path} cannot be written ({error.strerror}); free some space, then run the same command'
            ) from None

    def incumbent_adapter(self) -> tuple[Configuration, dict]:
        """Return the incumbent's configuration and trained arrays.

        Raises:
          WorkdirError: there is none, or its file was removed.
        """
        best = self.incumbent()
        if best is None:
            raise WorkdirError(
                'no run of this search has a finite loss; give a larger budget or other --restrict bounds'
            )
        path = self._adapter_path(best)
        if not path.exists():
            raise WorkdirError(f'{path} is missing, so the best run cannot be used; start again in a new --workdir')
        return Configuration.from_dict(dict(best.configuration)), _nested(load_file(path))


_SEPARATOR = '|'  # module paths hold dots


def _flat(tree: dict, prefix: str = '') -> dict:
    out: dict = {}
    for key, value in tree.items():
        name = f'{prefix}{_SEPARATOR}{key}' if prefix else key
        out |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return out


def _nested(flat: dict) -> dict:
    out: dict = {}
    for name, value in flat.items():
        *parents, last = name.split(_SEPARATOR)
        at = out
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return out


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise WorkdirError(
            f'{path} cannot be written ({error.strerror}); free some space, then run the same command'
        ) from None
