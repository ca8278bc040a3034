"""Which constants of a fit the data settle, and which they leave open.

A law may describe the points well while its constants trade off against each other: over one decade of data, a small
exponent with no irreducible loss and a large one with much look alike. Their intervals show it, and a constant that
they leave open is named with its interval instead of being printed as a number.
"""

import numpy as np

from metaft.scaling import laws
from metaft.scaling.fitting import Fit
from metaft.scaling.laws import Law
from metaft.scaling.points import Points

# What counts as settled. An exponent: to half of itself, or to .02, a factor 1.05 over a decade. The irreducible loss:
# to a quarter of the smallest loss seen. A coefficient: to a factor ten either way (those of both papers vary by more).
EXPONENT_RELATIVE, EXPONENT_ABSOLUTE = 0.5, 0.02
IRREDUCIBLE_SHARE = 0.25
COEFFICIENT_FACTOR = 10.0
MIN_RELATIVE_SPREAD = 1e-6  # losses closer together than this carry no law


def intervals(fit: Fit) -> dict[str, tuple[float, float]]:
    """Returns the 95 % interval of every constant, in the units of the data."""
    is_log_J = np.array([symbol in laws.LOGARITHMIC for symbol, _ in fit.law.symbols])
    with np.errstate(over='ignore'):
        limits_J2 = np.where(is_log_J[:, None], np.exp(fit.limits_J2), fit.limits_J2)
    return {name: (float(low), float(high)) for name, (low, high) in zip(fit.law.names, limits_J2)}


def open_constants(fit: Fit) -> dict[str, str]:
    """Returns a sentence for every constant that the data leave open; none is missing where all are settled."""
    low_J, high_J = fit.limits_J2.T
    value_J = laws.constants(fit.law, fit.theta_J[None], fit.centre, logarithms=True)[0]
    found = {}
    for name, (symbol, _), low, high, value in zip(fit.law.names, fit.law.symbols, low_J, high_J, value_J):
        half = (high - low) / 2
        if symbol in ('alpha', 'beta'):
            is_open = half > max(EXPONENT_RELATIVE * abs(value), EXPONENT_ABSOLUTE)
            found[name] = f'{low:.3g} to {high:.3g} fit alike' if is_open else ''
        elif symbol == 'E':
            is_open = (np.exp(high) - np.exp(low)) / 2 > IRREDUCIBLE_SHARE * fit.points.loss_I.min()
            found[name] = f'{np.exp(low):.3g} to {np.exp(high):.3g} fit alike' if is_open else ''
        else:
            is_open = half > np.log(COEFFICIENT_FACTOR)
            found[name] = f'10^{low / np.log(10):.1f} to 10^{high / np.log(10):.1f} fit alike' if is_open else ''
    return {name: sentence for name, sentence in found.items() if sentence}


def refusal(law: Law, points: Points) -> str | None:
    """Returns why a law cannot be fitted to these points at all, or None."""
    num_sizes = len(np.unique(points.data_size_I))
    wanted = 3 if law.irreducible else 2
    if num_sizes < wanted:
        return f'{num_sizes} data size{"s"[: num_sizes > 1]}, at least {wanted} are needed'
    if law.form not in laws.WITHOUT_FACTORS:
        for number, factor in enumerate(law.factors):
            own_I = points.member_IX[:, number] > 0 if law.form != 'all_factors' else np.ones(len(points), bool)
            distinct = len(np.unique(points.factors_IX[own_I, number]))
            if distinct < 2:
                return f'{factor} has {distinct} value{"s"[: distinct > 1]} in it, at least 2 are needed'
    if len(points) <= len(law.symbols):
        return f'{len(points)} points for {len(law.symbols)} constants, at least {len(law.symbols) + 1} are needed'
    if np.ptp(points.loss_I) < MIN_RELATIVE_SPREAD * points.loss_I.mean():
        return f'all losses are {points.loss_I.mean():.6g}, so there is nothing that falls'
    return None
