"""All methods of the comparison by name: how each is made for a task, and what it needs.

A method is made from a `Problem`: the task's table (its rows are what can be run; its values are for the replay alone,
the oracle excepted) and the fold of training tasks, on which whatever is learned is learned once.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from metaft.errors import InputError
from metaft.metadataset.published import benchmarks
from metaft.metadataset.tables import TaskTable
from metaft.search import baselines
from metaft.search.freeze_thaw import FreezeThaw
from metaft.search.observations import Observations, Searcher
from metaft.search.peers import dre, quicktune
from metaft.search.peers.covariance_gp import CovarianceGP
from metaft.search.peers.dpl import DPL
from metaft.search.peers.dyhpo import DyHPO
from metaft.search.peers.improvement import ByImprovement
from metaft.search.peers.last_value import LastValue
from metaft.search.scores import CurvePrediction
from metaft.search.task_mixture import TaskMixture
from metaft.surrogate import evaluation
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.ensemble import fit_encoding
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.surrogate import Surrogate

AnyPrediction = TypeVar('AnyPrediction', bound=CurvePrediction)
Predict = Callable[[np.ndarray, np.ndarray], CurvePrediction]  # (values_CT, costs_CT) as observed


@dataclasses.dataclass
class Fold:
    """Training tasks, and what was learned from them."""

    train: list[TaskTable]
    make_surrogate: Callable[[], Surrogate]
    seed: int = 0
    learned: dict[str, Any] = dataclasses.field(default_factory=dict)

    def once(self, name: str, learn: Callable[[], Any]) -> Any:
        """Returns what `learn` gives, the same object at every call with this name."""
        if name not in self.learned:
            self.learned[name] = learn()
        return self.learned[name]

    @property
    def surrogate(self) -> Surrogate:
        return self.once('surrogate', self.make_surrogate)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One task to search."""

    table: TaskTable
    fold: Fold

    @property
    def num_configurations(self) -> int:
        return len(self.table.configurations)


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method is made.

    Attributes:
      searcher: from a problem and a seed; None: it only predicts.
      predict: from a problem and a seed to a function of what was observed; None: it only searches.
      packages: import names that must be there.
      transfers: it needs training tasks.
      is_random: seeds matter.
      is_slow: a suggestion takes more than a second, or training a task of its own: fewer seeds.
      plans: it is told what remains of the budget and decides by it.
    """

    searcher: Callable[[Problem, int], Searcher] | None = None
    predict: Callable[[Problem, int], Predict] | None = None
    packages: tuple[str, ...] = ()
    transfers: bool = False
    is_random: bool = True
    is_slow: bool = False
    plans: bool = False


NOT_HAD = {
    'ifbo': 'its package installs, but FT-PFN fetches its weights from a host that could not be reached when this was '
    'written; lkgp stands in for it',
}


def installed() -> list[str]:
    """Returns the names of the methods whose packages are there."""
    return [name for name, method in METHODS.items() if not _missing(method)]


def check(names: Sequence[str]) -> None:
    """Raises InputError where a name is unknown or its package is not installed."""
    for name in names:
        if name in NOT_HAD:
            raise InputError(f'method {name} is not here: {NOT_HAD[name]}')
        if name not in METHODS:
            raise InputError(f'method {name!r} is unknown; allowed are {", ".join(METHODS)}')
        if missing := _missing(METHODS[name]):
            raise InputError(
                f'method {name} needs the package {missing[0]!r}, which is not installed; '
                'install what requirements-peers.txt says, or leave it out of --methods'
            )


def _missing(method: Method) -> list[str]:
    return [package for package in method.packages if importlib.util.find_spec(package) is None]


def following(predict: Callable[[np.ndarray, np.ndarray], AnyPrediction]) -> Callable[[Observations], AnyPrediction]:
    """Returns the prediction as a function of the state of a search."""
    return lambda observations: predict(observations.values_CT, observations.costs_CT)


# ---------------------------------------------------------------- metaft


def _metaft_predict(problem: Problem, seed: int) -> Callable[[np.ndarray, np.ndarray], Prediction]:
    return evaluation.asking(problem.fold.surrogate, problem.table)


def _metaft(problem: Problem, seed: int) -> Searcher:
    mixture = _mixture(problem, _zero_shot(problem, seed))
    return FreezeThaw(following(_metaft_predict(problem, seed)), mixture=mixture)


def _metaft_transfer(problem: Problem, seed: int) -> baselines.InOrder:
    zero_shot = _zero_shot(problem, seed)
    return baselines.transfer(zero_shot, _mixture(problem, zero_shot))


def _mixture(problem: Problem, zero_shot: Prediction) -> TaskMixture | None:
    table, surrogate = problem.table, problem.fold.surrogate
    return TaskMixture.of(surrogate, table.meta_features, evaluation.encoded(surrogate, table), zero_shot)


def _zero_shot(problem: Problem, seed: int) -> Prediction:
    nothing_CT = np.full(problem.table.values_CT.shape, np.nan)
    return _metaft_predict(problem, seed)(nothing_CT, nothing_CT)


# ---------------------------------------------------------------- without a model


def _default(problem: Problem, seed: int) -> Searcher:
    """The default configuration; where none was run, the one nearest to the middle of the searched space."""
    row = benchmarks.default_row(problem.table)
    if row is None:
        point_CE = _encoding(problem).configurations(problem.table.configurations)
        middle_E = np.median(point_CE, axis=0)
        row = int(np.argmin(np.sum((point_CE - middle_E) ** 2, axis=1)))
    return baselines.default_only(row)


def _encoding(problem: Problem) -> Encoding:
    """Returns ranges of the hyperparameters: of the rows that can be run, which are the space."""
    return fit_encoding([problem.table])


def _and_the_rest(searcher: baselines.InOrder, problem: Problem, seed: int) -> baselines.InOrder:
    """Appends what no training task knows, in a random order."""
    rest = [c for c in baselines.random_search(problem.num_configurations, seed).order if c not in searcher.order]
    return baselines.InOrder((*searcher.order, *rest))


def _mean_rank(problem: Problem, seed: int) -> Searcher:
    return _and_the_rest(baselines.mean_rank(problem.fold.train, problem.table.configurations), problem, seed)


def _portfolio(problem: Problem, seed: int) -> Searcher:
    return _and_the_rest(baselines.portfolio(problem.fold.train, problem.table.configurations), problem, seed)


# ---------------------------------------------------------------- models of curves


def _last_value_predict(problem: Problem, seed: int) -> Predict:
    model = problem.fold.once('last_value', lambda: LastValue.fit(problem.fold.train, len(problem.table.fractions_T)))
    return lambda values_CT, costs_CT: model.predict(problem.table, values_CT, costs_CT)


def _covariance_gp_predict(problem: Problem, seed: int) -> Predict:
    model = CovarianceGP.fit(problem.fold.train, problem.table.configurations)
    return lambda values_CT, costs_CT: model.predict(problem.table, values_CT, costs_CT)


def _by_improvement(predict: Callable[[Problem, int], Predict], num_first: int) -> Callable[[Problem, int], Searcher]:
    """Returns the searcher by expected improvement at the end, after `num_first` random runs were begun."""

    def make(problem: Problem, seed: int) -> Searcher:
        order = baselines.random_search(problem.num_configurations, seed).order
        return ByImprovement(following(predict(problem, seed)), order, num_first)

    return make


# ---------------------------------------------------------------- deep kernels


def _quicktune(refit: bool) -> Callable[[Problem, int], Searcher]:
    def make(problem: Problem, seed: int) -> Searcher:
        fold = problem.fold
        learned = fold.once('quicktune', lambda: quicktune.learn(fold.train, fit_encoding(fold.train), fold.seed))
        order = baselines.random_search(problem.num_configurations, seed).order
        return quicktune.QuickTune(learned, problem.table, order, refit, seed)

    return make


def _dyhpo(problem: Problem, seed: int) -> Searcher:
    order = baselines.random_search(problem.num_configurations, seed).order
    return DyHPO(_encoding(problem), problem.table, order, seed)


def _dpl_predict(problem: Problem, seed: int) -> Predict:
    return DPL(_encoding(problem), problem.table, seed).predict


def _dre(problem: Problem, seed: int) -> Searcher:
    fold = problem.fold
    learned = fold.once('dre', lambda: dre.learn(fold.train, fit_encoding(fold.train), fold.seed))
    return dre.DRE(learned, problem.table, seed)


# ---------------------------------------------------------------- packages


def _on_the_table(module: str) -> Callable[[Problem, int], Searcher]:
    """Returns the searcher of a peer that sees the target's rows alone; its module is imported when it is made."""
    return lambda problem, seed: importlib.import_module(f'metaft.search.peers.{module}').searcher(problem.table, seed)


def _quicktune_shipped(problem: Problem, seed: int) -> Searcher:
    from metaft.search.peers import quicktune_shipped

    fold = problem.fold
    learned = fold.once('quicktune_shipped', lambda: quicktune_shipped.learn(fold.train, fold.seed))
    return quicktune_shipped.searcher(learned, problem.table, seed)


def _lkgp_predict(problem: Problem, seed: int) -> Predict:
    from metaft.search.peers import lkgp

    return lambda values_CT, costs_CT: lkgp.predict(problem.table, _encoding(problem), seed, values_CT, costs_CT)


METHODS: dict[str, Method] = {
    'random': Method(lambda problem, seed: baselines.random_search(problem.num_configurations, seed)),
    'default': Method(_default, is_random=False),
    'mean_rank': Method(_mean_rank, transfers=True, is_random=False),
    'portfolio': Method(_portfolio, transfers=True, is_random=False),
    'last_value': Method(_by_improvement(_last_value_predict, 3), _last_value_predict),
    'asha': Method(_on_the_table('asha'), packages=('syne_tune',)),
    'tpe_hyperband': Method(_on_the_table('optuna_tpe'), packages=('optuna',)),
    'smac': Method(_on_the_table('smac_hyperband'), packages=('smac',), is_slow=True),
    'dehb': Method(_on_the_table('dehb_evolution'), packages=('dehb', 'distributed', 'loguru')),
    'quicktune_shipped': Method(
        _quicktune_shipped, packages=('qtt', 'torch', 'gpytorch'), transfers=True, is_slow=True
    ),
    'quicktune': Method(_quicktune(refit=False), transfers=True),
    'quicktune_refit': Method(_quicktune(refit=True), transfers=True, is_slow=True),
    'dyhpo': Method(_dyhpo, is_slow=True),
    'dpl': Method(_by_improvement(_dpl_predict, 1), _dpl_predict, is_slow=True),
    'dre': Method(_dre, transfers=True, is_slow=True),
    'lkgp': Method(None, _lkgp_predict, packages=('botorch', 'torch')),
    'covariance_gp': Method(
        _by_improvement(_covariance_gp_predict, 0), _covariance_gp_predict, transfers=True, is_random=False
    ),
    'metaft_transfer': Method(_metaft_transfer, is_random=False),
    'metaft': Method(_metaft, _metaft_predict, is_random=False, plans=True),
    'oracle': Method(lambda problem, seed: baselines.oracle(problem.table), is_random=False),
}
