"""metaft/scaling: known constants are recovered, intervals cover, and what is not identified is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from metaft.errors import DataError
from metaft.scaling import comparison, crossovers, fitting, identification, points, series
from metaft.scaling.laws import Law

PUBLISHED = Path(__file__).parents[2] / 'third_party' / 'scaling_paper_table.json'
SIZES = np.geomspace(200.0, 2e6, 14)


def paper_column(task, method):
    rows = json.loads(PUBLISHED.read_text())['fits']
    return next(row for row in rows if (row['task'], row['method']) == (task, method))


def paper_points(column, noise, seed, smallest=1e5, largest=4.5e6):
    """The paper's design for model size: four sizes by eight data sizes."""
    models, sizes = map(np.ravel, np.meshgrid([1e9, 2e9, 4e9, 8e9], np.geomspace(smallest, largest, 8)))
    loss = column['A_m'] * models ** -column['alpha_m'] * sizes ** -column['beta'] + column['E']
    loss *= np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    return points.make(loss, sizes, [models], ['model'])


@pytest.mark.parametrize('objective', fitting.OBJECTIVES)
@pytest.mark.parametrize(
    ('form', 'wanted'),
    [
        ('power', {'A': 8.0, 'beta': 0.21, 'E': 0.9}),
        ('rectified', {'B': 30.0, 'D_l': 12.0, 'beta': 0.31, 'E': 0.7}),
    ],
)
def test_constants_of_a_data_law_are_recovered_exactly_without_noise(form, wanted, objective):
    c = wanted
    reducible = c['A'] * SIZES ** -c['beta'] if form == 'power' else c['B'] / (c['D_l'] + SIZES ** c['beta'])
    fit = fitting.fit(Law(form), points.make(reducible + c['E'], SIZES), objective, num_draws=20)
    assert comparison.constants(fit) == pytest.approx(wanted, rel=2e-3)
    assert fit.fit_log_rmsd < 1e-6


@pytest.mark.parametrize(('task', 'method'), [('EnDe', 'full'), ('EnZh', 'full'), ('EnDe', 'lora')])
def test_the_papers_constants_are_recovered_from_its_design(task, method):
    column = paper_column(task, method)
    fit = fitting.fit(Law('multiplicative', ('model',)), paper_points(column, 0.0, seed=0), num_draws=20)
    found = comparison.constants(fit)
    wanted = {'A': column['A_m'], 'alpha': column['alpha_m'], 'beta': column['beta'], 'E': column['E']}
    assert found == pytest.approx(wanted, rel=1e-3)


def test_the_additive_and_the_all_factor_law_are_recovered():
    models, tokens, sizes = map(np.ravel, np.meshgrid([1.0, 3.0, 9.0], [2.0, 8.0], [100.0, 300.0, 900.0, 2700.0]))
    additive = 2.0 * models**-0.4 + 5.0 * sizes**-0.3 + 0.6
    fit = fitting.fit(Law('additive', ('model',)), points.make(additive, sizes, [models], ['model']), num_draws=20)
    assert comparison.constants(fit) == pytest.approx(
        {'A': 2.0, 'alpha': 0.4, 'B': 5.0, 'beta': 0.3, 'E': 0.6}, rel=1e-2
    )
    rectified = 9.0 * models**-0.4 / (4.0 + sizes**0.35) + 0.3
    law = Law('rectified_multiplicative', ('model',))
    fit = fitting.fit(law, points.make(rectified, sizes, [models], ['model']), num_draws=20)
    wanted = {'A': 9.0, 'alpha': 0.4, 'D_l': 4.0, 'beta': 0.35, 'E': 0.3}
    assert comparison.constants(fit) == pytest.approx(wanted, rel=2e-2)
    product = 7.0 * models**-0.4 * tokens**-0.15 * sizes**-0.3 + 0.6
    both = points.make(product, sizes, [models, tokens], ['model', 'tokens'])
    fit = fitting.fit(Law('all_factors', both.factors), both, num_draws=20)
    wanted = {'A': 7.0, 'alpha_model': 0.4, 'alpha_tokens': 0.15, 'beta': 0.3, 'E': 0.6}
    assert comparison.constants(fit) == pytest.approx(wanted, rel=1e-2)


def test_no_start_of_scipy_finds_a_lower_least_squares_cost():
    rng = np.random.default_rng(1)
    measured = points.make((20.0 / (6.0 + SIZES**0.25) + 0.5) * np.exp(0.01 * rng.normal(size=14)), SIZES)
    fit = fitting.fit(Law('rectified'), measured, num_draws=20)

    def residuals(c):
        b, d_l, e = np.exp(np.clip(c[[0, 1, 3]], -50, 50))
        return np.log(b / (d_l + SIZES ** np.clip(c[2], 0.0, 4.0)) + e) - np.log(measured.loss_I)

    found = [scipy.optimize.least_squares(residuals, rng.uniform([0, 0, 0.05, -3], [5, 5, 1, 1])) for _ in range(30)]
    assert fit.fit_log_rmsd <= 1.0001 * min(np.sqrt(2 * one.cost / 14) for one in found)


def test_huber_is_not_moved_by_one_bad_point():
    loss = 8.0 * SIZES**-0.21 + 0.9
    loss[5] *= 1.3
    huber = fitting.fit(Law('power'), points.make(loss, SIZES), 'huber', num_draws=20)
    assert comparison.constants(huber)['beta'] == pytest.approx(0.21, rel=0.01)
    squares = fitting.fit(Law('power'), points.make(loss, SIZES), num_draws=20)
    assert abs(comparison.constants(squares)['beta'] - 0.21) > 0.01


def test_intervals_and_bands_cover():
    """24 fits, 72 intervals, 96 bands at 95 %: below 85 % of either has a chance under 1e-3 if all were independent."""
    column = paper_column('EnDe', 'lora')
    inside, bands = [], []
    for seed in range(24):
        everything = paper_points(column, 0.005, seed, smallest=8e3, largest=1e5)
        kept, rest = points.split_largest(everything, 1)
        fit = fitting.fit(Law('multiplicative', ('model',)), kept, num_draws=200, seed=seed)
        for name, truth in (('alpha', column['alpha_m']), ('beta', column['beta']), ('E', column['E'])):
            low, high = identification.intervals(fit)[name]
            inside.append(low <= truth <= high)
        low_I, high_I = np.percentile(fitting.predict_draws(fit, rest, seed=seed), [2.5, 97.5], axis=0)
        bands.extend((low_I <= rest.loss_I) & (rest.loss_I <= high_I))
    assert np.mean(inside) > 0.85 and np.mean(bands) > 0.85


def test_limits_cover_where_there_is_no_irreducible_loss():
    """24 fits at E of .0005, where bootstrap percentiles cover E and beta in 65 and 80 %: below 20, p < .006 each."""
    column = paper_column('MLSum', 'prompt')
    inside = []
    for seed in range(24):
        measured = paper_points(column, 0.005, seed, smallest=8e3, largest=1e5)
        found = identification.intervals(fitting.fit(Law('multiplicative', ('model',)), measured, num_draws=40))
        truth = {'alpha': column['alpha_m'], 'beta': column['beta'], 'E': column['E']}
        inside.append([found[name][0] <= value <= found[name][1] for name, value in truth.items()])
    assert np.all(np.sum(inside, axis=0) >= 20)


def test_limits_are_students_where_the_law_is_linear():
    """ln L = ln A - beta ln D: the textbook's interval of a slope."""
    rng = np.random.default_rng(4)
    loss = 5.0 * SIZES**-0.2 * np.exp(0.01 * rng.normal(size=14))
    fit = fitting.fit(Law('power', irreducible=False), points.make(loss, SIZES), num_draws=40)
    line = scipy.stats.linregress(np.log(SIZES), np.log(loss))
    half = scipy.stats.t.ppf(0.975, 12) * line.stderr
    assert identification.intervals(fit)['beta'] == pytest.approx((-line.slope - half, -line.slope + half), rel=1e-3)


def test_the_same_seed_gives_the_same_draws():
    measured = paper_points(paper_column('EnDe', 'full'), 0.005, seed=3)
    one, same, other = (fitting.fit(Law('power'), measured, num_draws=20, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.draws_UJ, same.draws_UJ) and not np.array_equal(one.draws_UJ, other.draws_UJ)


def test_repeats_are_averaged_and_weigh_by_their_number():
    measured = points.make([2.0, 4.0, 5.0], [10.0, 10.0, 100.0])
    assert measured.loss_I.tolist() == [3.0, 5.0] and measured.repeats_I.tolist() == [2.0, 1.0]


def test_a_small_exponent_over_one_decade_is_not_identified():
    """beta = .015 over 8K-100K examples at one model size, as the paper has for EnZh with prompts."""
    sizes = np.geomspace(8e3, 1e5, 10)
    loss = (1.2 * sizes**-0.015 + 0.77) * np.exp(0.005 * np.random.default_rng(0).normal(size=10))
    fit = fitting.fit(Law('power'), points.make(loss, sizes), num_draws=200)
    assert {'beta', 'E'} <= set(identification.open_constants(fit))
    variants = [comparison.fit_form('power', e, {'g': fit.points}, num_draws=50) for e in (True, False)]
    said = comparison.describe(*variants)
    assert said['constants']['g']['beta'] is None and 'fit alike' in said['not_identified']['g']['beta']


def test_a_well_measured_law_is_identified():
    measured = paper_points(paper_column('EnDe', 'full'), 0.003, seed=0)
    assert not identification.open_constants(fitting.fit(Law('multiplicative', ('model',)), measured, num_draws=100))


@pytest.mark.parametrize(
    ('law', 'measured', 'reason'),
    [
        (Law('power'), points.make([2.0], [10.0]), '1 data size, at least 3'),
        (Law('power'), points.make([2.0, 1.9, 1.8], [10.0, 20.0, 40.0]), '3 points for 3 constants'),
        (Law('power'), points.make([2.0] * 5, np.arange(1.0, 6.0)), 'nothing that falls'),
        (
            Law('multiplicative', ('model',)),
            points.make(np.arange(6.0, 1.0, -1), np.arange(1.0, 6.0), [[7.0] * 5], ['model']),
            'model has 1 value in it',
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_its_reason(law, measured, reason):
    assert reason in identification.refusal(law, measured)
    assert identification.refusal(Law('power'), points.make(9.0 * SIZES**-0.1, SIZES)) is None


def factor_series(noise=0.0):
    """Model size, pretraining tokens and adapter size, one varied at a time around a default; beta and E in common."""
    default = {'model': 4.0, 'tokens': 8.0, 'adapter': 16.0}
    varied = {'model': [1.0, 2.0, 4.0, 8.0], 'tokens': [2.0, 4.0, 8.0, 16.0], 'adapter': [4.0, 16.0, 64.0]}
    truth = {'model': (6.0, 0.4), 'tokens': (6.0 * 4**-0.4 * 8**0.2, 0.2), 'adapter': (6.0 * 4**-0.4 * 16**0.02, 0.02)}
    rows = {}
    for name, values in varied.items():
        for value in values:
            for size in np.geomspace(1e3, 1e6, 6):
                a, alpha = truth[name]
                rows[tuple({**default, name: value}.values()), size] = a * value**-alpha * size**-0.15 + 0.7
    loss = np.array(list(rows.values())) * np.exp(noise * np.random.default_rng(0).normal(size=len(rows)))
    factors = np.array([key[0] for key in rows]).T
    return points.make(loss, [key[1] for key in rows], factors, list(default)), truth


@pytest.mark.parametrize('unshared', [(), ('adapter',)])
def test_series_share_beta_and_e_and_have_their_own_a_and_alpha(unshared):
    measured, truth = factor_series()
    fit = series.fit(Law('multiplicative', measured.factors), measured, unshared, num_draws=20)
    wanted = {'beta': 0.15, 'E': 0.7}
    for name, (a, alpha) in truth.items():
        wanted |= {f'A_{name}': a, f'alpha_{name}': alpha}
    assert comparison.constants(fit) == pytest.approx(wanted, rel=1e-3)
    assert fit.fit_log_rmsd < 1e-5


def test_an_unshared_factor_takes_no_part_in_beta_and_e():
    measured, _ = factor_series(noise=0.01)
    adapter = (
        (measured.factors_IX[:, 0] == 4.0) & (measured.factors_IX[:, 1] == 8.0) & (measured.factors_IX[:, 2] != 16.0)
    )
    bent = np.where(adapter, measured.loss_I * measured.data_size_I**-0.1, measured.loss_I)
    law = Law('multiplicative', measured.factors)
    names = ('beta', 'E', 'alpha_model')
    for unshared, moves in ((('adapter',), False), ((), True)):
        one, two = (
            comparison.constants(series.fit(law, dataclasses.replace(measured, loss_I=loss_I), unshared, num_draws=20))
            for loss_I in (measured.loss_I, bent)
        )
        assert any(abs(one[name] - two[name]) > 1e-3 for name in names) == moves
    with pytest.raises(DataError, match='need a factor to be fitted with'):
        series.fit(Law('multiplicative', ('model',)), measured, ('model',), num_draws=20)


def power_fit(a, beta, e=0.3, noise=0.002, seed=0):
    loss = (a * SIZES**-beta + e) * np.exp(noise * np.random.default_rng(seed).normal(size=len(SIZES)))
    return fitting.fit(Law('power'), points.make(loss, SIZES), num_draws=100, seed=seed)


def test_a_crossover_is_where_the_closed_form_says():
    lora, full = power_fit(2.0, 0.05), power_fit(6.0, 0.2, seed=1)
    wanted = (6.0 / 2.0) ** (1 / (0.2 - 0.05))  # both E are equal, so they cancel
    found = crossovers.crossover(lora, full, {}, 200.0, 2e6)
    assert found.data_size == pytest.approx(wanted, rel=0.1) and found.low < wanted < found.high
    assert (found.better_below, found.better_above, found.probability) == ('first', 'second', 1.0)
    swapped = crossovers.crossover(full, lora, {}, 200.0, 2e6)
    assert swapped.data_size == pytest.approx(found.data_size) and swapped.better_below == 'second'


def test_no_crossover_in_range_is_an_answer():
    found = crossovers.crossover(power_fit(2.0, 0.05), power_fit(6.0, 0.2, seed=1), {}, 2e4, 2e6)
    assert found.data_size is None and found.low is None and found.probability < 0.05
    assert found.better_below == found.better_above == 'second'


def test_a_crossover_needs_the_other_sizes():
    fit = fitting.fit(
        Law('multiplicative', ('model',)), paper_points(paper_column('EnDe', 'full'), 0.0, 0), num_draws=20
    )
    with pytest.raises(DataError, match='at a value of model'):
        crossovers.crossover(fit, fit, {}, 10.0, 100.0)
    with pytest.raises(DataError, match='nothing in it'):
        crossovers.crossover(fit, fit, {'model': 1e9}, 100.0, 10.0)


def test_a_held_coefficient_leaves_the_interval_of_another_as_wide_as_the_noise():
    rows = [(m, 8.0, d) for m in (1.0, 2.0, 4.0, 8.0) for d in SIZES[::2]]
    rows += [(4.0, a, d) for a in (1.0, 2.0, 4.0, 16.0) for d in SIZES[::2]]
    m, a, d = np.array(sorted(rows)).T
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=len(d)))
    loss = (30.0 * m**-0.4 * (a / 8) ** -0.05 / (20.0 + d**0.6) + 0.1) * noise
    measured = points.make(loss, d, [m, a], ('model', 'adapter'))
    fit = series.fit(Law('rectified_multiplicative', measured.factors), measured, ('adapter',), num_draws=40)
    low, high = identification.intervals(fit)['alpha_adapter']  # D_l is held, at another value where sizes are centred
    assert low < 0.05 < high and 0.003 < high - low < 0.05
