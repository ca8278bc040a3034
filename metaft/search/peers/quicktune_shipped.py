"""quicktunetool 0.0.4 as it is: its optimizer, performance and cost predictors, asked and told.

Fitted on the training tasks, transfer only (its default, `refit=False`), cost-aware, its defaults otherwise. Its own
defects stay: the encoder cuts the one-hot block, and it calls itself finished once each configuration was touched (we
then go on with what is begun). Three things of its surroundings are put right so that it runs beside other packages:
an argument that scikit-learn dropped (1.5 had it), worker processes for batches that fit in memory, and torchvision,
which it imports for images. Of larger meta-datasets it gets a random part of the runs, for each of its steps inverts a
matrix of 2,048 points; of small ones its cost predictor gets the runs several times over, for it divides by zero on
less than ten batches.
"""

import contextlib
import dataclasses
import functools
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaft.metadataset.tables import TaskTable
from metaft.search.observations import Observations, Searcher, Suggestion
from metaft.search.peers import ask_tell, packages
from metaft.search.peers.quicktune import scores

_MAX_POINTS = 16_384  # of training; eight of its batches, each an exact Gaussian process of 2,048
_MIN_COSTS = 400  # runs: with fewer than ten batches its cost predictor divides by zero


@dataclasses.dataclass(frozen=True)
class Learned:
    """Its two predictors, fitted, their hyperparameters (whether each is text), and where they keep their files."""

    hyperparameters: dict[str, bool]
    performance: Any
    cost: Any
    directory: tempfile.TemporaryDirectory


def learn(tables: Sequence[TaskTable], seed: int) -> Learned:
    """Fits both predictors on all runs of all training tasks."""
    predictors = _load()
    directory = tempfile.TemporaryDirectory(prefix='metaft-quicktune-')
    hyperparameters = _hyperparameters(tables)
    frame = pd.concat([_frame(table, hyperparameters) for table in tables], ignore_index=True)
    curves = np.concatenate([scores(table, table.values_CT) for table in tables])
    costs = np.concatenate([table.costs_CT[:, -1:] for table in tables])
    chosen = np.random.default_rng(seed).permutation(len(frame))[: max(_MAX_POINTS // curves.shape[1], 1)]
    frame, curves, costs = frame.iloc[chosen].reset_index(drop=True), curves[chosen], costs[chosen]
    whole = ~np.isnan(costs[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        performance = predictors.PerfPredictor(path=f'{directory.name}/performance', seed=seed, verbosity=0)
        performance.fit(frame.copy(), curves)
        cost = predictors.CostPredictor(path=f'{directory.name}/cost', seed=seed, verbosity=0)
        often = np.resize(np.flatnonzero(whole), max(whole.sum(), _MIN_COSTS))
        cost.fit(frame.iloc[often].reset_index(drop=True), costs[often])
    return Learned(hyperparameters, performance, cost, directory)


def searcher(learned: Learned, table: TaskTable, seed: int) -> Searcher:
    """Returns the tool's optimizer over the rows of a table."""
    _load()
    quick = packages.load('qtt.optimizers.quick')
    configspace = packages.load('ConfigSpace')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        optimizer = quick.QuickOptimizer(
            configspace.ConfigurationSpace(),
            len(table.fractions_T),
            learned.performance,
            learned.cost,
            cost_aware=True,
            path=f'{learned.directory.name}/optimizer-{seed}',
            seed=seed,
            verbosity=0,
        )
        order = np.random.default_rng(seed).permutation(len(table.configurations))
        optimizer.setup_pandas(_frame(table, learned.hyperparameters).iloc[order].reset_index(drop=True))
    return ask_tell.Driven(_QuickTune(optimizer, order), ask_tell.unit(table))


@dataclasses.dataclass
class _QuickTune:
    optimizer: Any
    order: np.ndarray  # rows as the tool numbers them: it begins with its first ones
    asked: dict[str, Any] = dataclasses.field(default_factory=dict)

    def ask(self, observations: Observations) -> Suggestion | None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.optimizer.ante()
            asked = self.optimizer.ask()
        if asked is None:
            return None
        self.asked = asked
        return Suggestion(int(self.order[asked['config-id']]), int(asked['fidelity']) - 1)

    def tell(self, suggestion: Suggestion, loss: float) -> None:
        # A score of 1 would stop the configuration.
        score = min(1.0 - loss, 1.0 - 1e-6)
        self.optimizer.tell({**self.asked, 'score': score, 'cost': 1.0, 'status': True})


def _hyperparameters(tables: Sequence[TaskTable]) -> dict[str, bool]:
    """Returns the hyperparameters of any configuration, and whether they are text to the tool."""
    is_text: dict[str, bool] = {}
    for name, value in (pair for table in tables for c in table.configurations for pair in c.items()):
        is_text[name] = is_text.get(name, False) or isinstance(value, str | bool)
    return is_text


def _frame(table: TaskTable, hyperparameters: Mapping[str, bool]) -> pd.DataFrame:
    """Returns configurations and meta-features as its columns: numbers, or text for categories."""
    column = lambda name: [c.get(name) for c in table.configurations]
    frame = pd.DataFrame(
        {
            name: pd.Series([str(v) for v in column(name)], dtype=object)
            if is_text
            else pd.Series(column(name), dtype=float)
            for name, is_text in hyperparameters.items()
        }
    )
    known = {f'task.{name}': float(value) for name, value in table.meta_features.items()}
    return pd.concat([frame, pd.DataFrame([known] * len(frame))], axis=1)


@functools.cache
def _load() -> Any:
    """Imports the predictors and puts their surroundings right."""
    packages.load('torch').set_num_threads(1)  # its matrices are small: threads spend longer on each other
    with _without_images():
        predictors = packages.load('qtt.predictors')
    data: Any = packages.load('qtt.predictors.data')
    performance: Any = packages.load('qtt.predictors.perf')
    packages.quiet('qtt')
    columns = data.ColumnTransformer
    data.ColumnTransformer = lambda *args, force_int_remainder_cols=None, **kwargs: columns(*args, **kwargs)
    loader = performance.DataLoader
    performance.DataLoader = lambda *args, num_workers=0, **kwargs: loader(*args, num_workers=0, **kwargs)
    return predictors


@contextlib.contextmanager
def _without_images() -> Iterator[None]:
    """Stands in for torchvision: its build must fit torch's, and of CPU builds of torch often none does."""
    datasets: Any = types.ModuleType('torchvision.datasets')
    datasets.ImageFolder = object
    modules = {'torchvision': types.ModuleType('torchvision'), 'torchvision.datasets': datasets}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
