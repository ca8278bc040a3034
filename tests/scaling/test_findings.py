"""Findings on losses with known laws: what is put in comes out, with intervals that hold it."""

import numpy as np
import pandas as pd
import pytest

from metaft.errors import DataError
from metaft.scaling import findings, laws, points, series
from metaft.scaling.advice import Interval
from metaft.scaling.laws import Law

SIZES, EXAMPLES = (1e5, 2e5, 4e5, 8e5), (32, 64, 128, 256, 512, 1024)
TOKENS = (1e6, 4e6, 1.6e7)


def losses(alpha_m: float, alpha_p: float, beta: float, scale: float, noise: float = 0.01, seed: int = 0):
    """Returns a fit of losses with these exponents, both factors varied one at a time."""
    random = np.random.default_rng(seed)
    rows = [(m, TOKENS[-1], d) for m in SIZES for d in EXAMPLES] + [(SIZES[1], t, d) for t in TOKENS for d in EXAMPLES]
    m, t, d = np.array(sorted(set(rows))).T
    true = scale * (m / SIZES[1]) ** -alpha_m * (t / TOKENS[-1]) ** -alpha_p * d**-beta + 0.2
    data = points.make(true * np.exp(noise * random.standard_normal(len(d))), d, [m, t], ('model_size', 'tokens'))
    return series.fit(Law('multiplicative', ('model_size', 'tokens')), data, num_draws=60)


def test_exponents_and_their_differences_hold_what_was_put_in():
    full, prompt = losses(0.4, 0.2, 0.3, 10.0), losses(0.2, 0.25, 0.1, 4.0, seed=1)
    fits = {'task/full': full, 'task/prompt': prompt}
    found = findings.exponents(fits, 'model_size')
    assert found['task/full'].low < 0.4 < found['task/full'].high
    gaps = findings.exponent_differences(fits, 'model_size', 'tokens')
    assert gaps['task/full'].low > 0 and gaps['task/full'].low < 0.2 < gaps['task/full'].high
    assert gaps['task/prompt'].low < -0.05 < gaps['task/prompt'].high
    assert gaps['task/prompt'].value < gaps['task/full'].low
    ((pair, gap),) = findings.beta_differences(fits).items()
    assert pair == ('task/full', 'task/prompt') and 0 < gap.low < 0.2 < gap.high


def test_a_crossing_is_told_by_size():
    full, prompt = losses(0.4, 0.2, 0.3, 10.0), losses(0.2, 0.25, 0.1, 4.0, seed=1)
    found = findings.crossings(full, prompt, 'model_size')
    assert list(found) == list(SIZES)
    at = found[SIZES[1]]  # 10 d^-.3 = 4 d^-.1 at d = 98, the same E
    assert at.data_size == pytest.approx(2.5**5, rel=0.2) and at.better_below == 'second' and at.better_above == 'first'
    assert at.low < 2.5**5 < at.high


def test_a_constant_that_the_law_lacks_is_an_error():
    with pytest.raises(DataError, match='model_size, tokens, not of width'):
        findings.constant(losses(0.4, 0.2, 0.3, 10.0), 'alpha', 'width')
    with pytest.raises(DataError, match='has no B'):
        findings.constant(losses(0.4, 0.2, 0.3, 10.0), 'B', 'tokens')
    assert laws.LOGARITHMIC  # E is told as itself, not as its logarithm:
    assert findings.constant(losses(0.4, 0.2, 0.3, 10.0), 'E')[0].value == pytest.approx(0.2, rel=0.3)


def test_forms_are_compared_by_group():
    one = {'a': {'aicc': 1.0, 'e': 0.01}, 'b': {'aicc': 2.0, 'e': 0.02}, 'c': {'aicc': 9.0, 'e': float('nan')}}
    two = {'a': {'aicc': 2.0, 'e': 0.02}, 'b': {'aicc': 4.0, 'e': 0.04}, 'd': {'aicc': 0.0, 'e': 1.0}}
    ratio = findings.compare_forms(one, two, 'e', as_ratio=True)
    assert ratio == (Interval(np.log(0.5), np.log(0.5), np.log(0.5)), 2, 2)
    gap = findings.compare_forms(one, two, 'aicc', as_ratio=False)
    assert gap.difference.value == -1.5 and gap.difference.low < -1.5 and gap.better == 2
    assert findings.compare_forms({'a': one['a']}, two, 'aicc', as_ratio=False) is None


def runs(gap: float) -> pd.DataFrame:
    """Two methods, three seeds, two data sizes; the second method's loss is exp(gap) times the first's."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {'method': method, 'seed': seed, 'data_size': size, 'loss': np.exp(level + extra + 0.01 * random.normal())}
        for seed, level in enumerate((0.0, 0.5, 1.0))  # seeds differ far more than methods do: they must be paired
        for method, extra in (('full', 0.0), ('lora', gap))
        for size in (32, 64)
    )


@pytest.mark.parametrize(('gap', 'worse'), [(0.1, ('lora',)), (0.003, ())])
def test_the_winner_and_who_is_clearly_worse(gap, worse):
    found = findings.winners(runs(gap), ['data_size'])
    assert [winner.sizes for winner in found] == [{'data_size': 32.0}, {'data_size': 64.0}]
    assert all(winner.clearly_worse == worse for winner in found)
    assert worse == () or all(winner.best == 'full' for winner in found)


def test_changes_are_against_the_same_base():
    table = pd.DataFrame(
        [
            ('s', 0, 0, 1.0),
            ('s', 32, 0, 1.5),
            ('s', 32, 1, 1.7),
            ('t', 0, 0, 4.0),
            ('t', 32, 0, 4.1),
            ('t', 32, 1, 4.1),
        ],
        columns=['base', 'data_size', 'seed', 'known_loss'],
    )
    found = findings.changes(table, 'known_loss', ['base', 'data_size'], ['base'])
    assert set(found) == {('s', 32), ('t', 32)}
    assert found['s', 32].value == pytest.approx(0.6) and found['t', 32].value == pytest.approx(0.1)
    assert found['s', 32].low < 0.5 and found['t', 32].low == pytest.approx(0.1)
