"""The peers' packages, where they are installed (requirements-peers.txt): each searches a table and finds good runs."""

import subprocess
import sys

import numpy as np
import pytest

from metaft.search import regret
from metaft.search.baselines import random_search
from metaft.search.peers import methods, quicktune_shipped
from metaft.search.replay import replay
from metaft.surrogate import evaluation
from tests.surrogate import family

PACKAGED = {name: method for name, method in methods.METHODS.items() if method.packages and method.searcher}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if m.is_slow else name for name, m in PACKAGED.items()]
)
def test_a_package_replays_within_its_budget(name):
    if name not in methods.installed():
        pytest.skip(f'needs {", ".join(PACKAGED[name].packages)}')
    train = [family.task(w, num_runs=16) for w in range(4)]
    problem = methods.Problem(family.task(9, num_runs=40), methods.Fold(train, None))
    budget_seconds = 12 * family.SECONDS
    trajectory = replay(PACKAGED[name].searcher(problem, 1), problem.table, budget_seconds)
    again = replay(PACKAGED[name].searcher(problem, 1), problem.table, budget_seconds)
    assert trajectory.events == again.events, 'a seed fixes it'
    assert 0.5 * budget_seconds < trajectory.events[-1].seconds <= budget_seconds
    chance = [replay(random_search(40, seed), problem.table, budget_seconds) for seed in range(20)]
    found = regret.regret_at(trajectory, problem.table, np.array([budget_seconds]))
    worst = np.max([regret.regret_at(one, problem.table, np.array([budget_seconds])) for one in chance])
    assert found <= worst  # 1 / 21 of the searches that are as random as random search fail: the seed is fixed


def test_importing_the_methods_imports_no_package():
    """So that the comparison runs with those that are installed, and starts quickly."""
    modules = ['methods', 'asha', 'optuna_tpe', 'smac_hyperband', 'dehb_evolution', 'quicktune_shipped', 'lkgp']
    imports = ''.join(f'import metaft.search.peers.{module}\n' for module in modules)
    packages = sorted({package for method in methods.METHODS.values() for package in method.packages})
    code = f'import sys\n{imports}print([name for name in {packages} if name in sys.modules])'
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == '[]'


def test_the_shipped_quick_tune_sees_the_same_columns_on_every_task():
    """Tasks leave out what none of their configurations says, and it refuses a table without a column that it knows."""
    full, bare = family.task(0, num_runs=6), family.task(1, num_runs=6)
    full.configurations[0] |= {'optimizer': 'lion', 'clip_norm': 0.5, 'rslora': True}
    known = quicktune_shipped._hyperparameters([full, bare])
    assert (known['optimizer'], known['rslora'], known['clip_norm']) == (True, True, False)
    frames = [quicktune_shipped._frame(table, known) for table in (full, bare)]
    assert list(frames[0]) == list(frames[1]) and (frames[0].dtypes == frames[1].dtypes).all()
    assert frames[0]['optimizer'].tolist() == ['lion'] + 5 * ['None'] and frames[1]['clip_norm'].isna().all()


@pytest.mark.filterwarnings('ignore')
def test_lkgp_predicts_and_says_what_it_saw_where_its_fit_fails(monkeypatch):
    if 'lkgp' not in methods.installed():
        pytest.skip('needs botorch and torch')
    import botorch.exceptions.errors
    import botorch.fit

    table = family.task(9, num_runs=12)
    problem = methods.Problem(table, methods.Fold([], None))
    values_CT, costs_CT = evaluation.hide(table, 30, seed=0)
    seen_CT = ~np.isnan(values_CT)
    predict = methods.METHODS['lkgp'].predict(problem, 0)
    fitted = predict(values_CT, costs_CT)
    assert np.isfinite(fitted.mean_CT).all() and np.ptp(fitted.mean_CT[~seen_CT]) > 0

    def fail(*_, **__):
        raise botorch.exceptions.errors.ModelFittingError('All attempts to fit the model have failed.')

    monkeypatch.setattr(botorch.fit, 'fit_gpytorch_mll', fail)
    flat = predict(values_CT, costs_CT)
    y_CT = flat.transform(values_CT)
    median_CT = flat.transform(flat.quantile_CT(0.5))
    np.testing.assert_allclose(median_CT[~seen_CT], y_CT[seen_CT].mean(), atol=1e-3)
