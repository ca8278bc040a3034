"""Laws of single runs, and their agreement with predicted ones: on curves whose constants are known."""

import numpy as np
import pandas as pd
import pytest

from metaft.scaling import agreement

EXAMPLES_T = np.geomspace(64, 4096, 13)


def test_a_run_that_settles_its_constants():
    losses_T = 6.0 * EXAMPLES_T**-0.7 + 0.2
    noisy_T = losses_T * np.exp(0.002 * np.random.default_rng(0).standard_normal(13))
    law = agreement.run_law(noisy_T, EXAMPLES_T, num_draws=40)
    assert law.constants['beta'] == pytest.approx(0.7, rel=0.1) and law.constants['E'] == pytest.approx(0.2, rel=0.05)
    assert all(law.is_settled.values()) and law.log_rmsd < 0.005
    slope = np.log((6.0 * 512**-0.7 + 0.2) / (6.0 * 4096**-0.7 + 0.2)) / np.log(8)
    assert law.constants['slope'] == pytest.approx(slope, abs=0.01)


def test_a_noisy_run_settles_its_slope_alone():
    losses_T = 2.0 * EXAMPLES_T**-0.05 * np.exp(0.05 * np.random.default_rng(0).standard_normal(13))
    law = agreement.run_law(losses_T, EXAMPLES_T, num_draws=40)
    assert law.is_settled['slope'] and not law.is_settled['beta'] and not law.is_settled['E']
    without_draws = agreement.run_law(losses_T, EXAMPLES_T)
    assert [name for name, is_settled in without_draws.is_settled.items() if is_settled] == ['slope']


def table(noise: float, tasks: int = 6) -> pd.DataFrame:
    random = np.random.default_rng(1)
    recorded = random.uniform(0.1, 1.0, (tasks, 8))
    predicted = recorded + noise * random.standard_normal(recorded.shape)
    rows = [(f'task {i}', recorded[i, j], predicted[i, j], 0.5) for i in range(tasks) for j in range(8)]
    return pd.DataFrame(rows, columns=['task', 'recorded', 'predicted', 'guess'])


def test_agreement_falls_with_noise():
    close, far = (agreement.agreement(table(noise), 'beta') for noise in (0.01, 10.0))
    assert close.spearman.value > 0.99 and close.spearman.low > 0.98 and close.runs == 48 and close.tasks == 6
    assert close.difference.high < close.guess_difference.low
    assert far.spearman.low < 0.3 < far.difference.value


def test_coefficients_are_compared_as_logarithms():
    doubled = table(0.0).assign(predicted=lambda t: 2 * t['recorded'])
    assert agreement.agreement(doubled, 'E').difference.value == pytest.approx(np.log(2))
    assert agreement.agreement(table(0.0, tasks=2), 'E') is None
