"""The procedure of arXiv 2402.17193 where several factors were varied, one at a time around a default.

Every factor has a series: the rows that vary it (and the data size) while the others stay at their usual value. The
series of one task and method share beta and E and have each their own A and alpha. The paper fits all of them, then
fixes beta and E and fits A and alpha again; at the joint optimum the second fit changes nothing, except for a factor
that took no part in the first (there: adapter size, called unshared here).
"""

import dataclasses

import numpy as np

from metaft.errors import DataError
from metaft.scaling import fitting
from metaft.scaling.fitting import Fit
from metaft.scaling.laws import Centre, Law
from metaft.scaling.points import Points


def of_factors(points: Points, factors: tuple[str, ...]) -> Points:
    """Returns the rows of the series of `factors`, with `member_IX` saying which; the usual row is in each of them.

    The usual value of a factor is the one of most rows. Rows off every series are left out.
    """
    if points.factors == factors and len(factors) == 1:
        return points
    usual_IX = points.factors_IX == np.array([_mode(column_I) for column_I in points.factors_IX.T])
    chosen = [points.factors.index(name) for name in factors]
    rows = [np.flatnonzero(np.delete(usual_IX, number, axis=1).all(axis=1)) for number in chosen]
    members = [np.tile(np.eye(len(factors))[order], (len(own), 1)) for order, own in enumerate(rows)]
    together = points.where(np.concatenate(rows))
    return dataclasses.replace(
        together, factors_IX=together.factors_IX[:, chosen], member_IX=np.concatenate(members), factors=factors
    )


def fit(law: Law, points: Points, unshared: tuple[str, ...] = (), **options) -> Fit:
    """Fits a law with one series a factor.

    Args:
      law: of `laws.BY_SERIES`.
      points: of one task and method, not yet in series.
      unshared: factors that take no part in beta and E; the draws of their constants hold both as they are.
      **options: of `fitting.fit`.
    """
    everything = of_factors(points, law.factors)
    if not unshared:
        return fitting.fit(law, everything, **options)
    shared = tuple(name for name in law.factors if name not in unshared)
    if not shared:
        raise DataError(f'beta and E need a factor to be fitted with; {", ".join(unshared)} may not all be unshared')
    centre = Centre.of(everything)
    found: dict[
        tuple[str, str | None], tuple[float, np.ndarray, np.ndarray]
    ] = {}  # (symbol, factor): value, draws, limits
    common: dict[str, float] = {}
    for factors in (shared, *((name,) for name in unshared)):
        part = dataclasses.replace(law, factors=factors)
        inside = Centre(centre.d, tuple(centre.x_X[law.factors.index(name)] for name in factors))
        one = fitting.fit(part, of_factors(points, factors), fixed=common, centre=inside, **options)
        for j, (symbol, x) in enumerate(part.symbols):
            found.setdefault(
                (symbol, None if x is None else factors[x]), (one.theta_J[j], one.draws_UJ[:, j], one.limits_J2[j])
            )
        common = {name: found[name, None][0] for name in ('beta', 'E', 'D_l') if (name, None) in found}
    keys = [(symbol, None if x is None else law.factors[x]) for symbol, x in law.symbols]
    theta_J = np.array([found[key][0] for key in keys])
    draws_UJ = np.stack([found[key][1] for key in keys], axis=1)
    limits_J2 = np.stack([found[key][2] for key in keys])
    return fitting.measure(law, centre, everything, theta_J, draws_UJ, limits_J2, len(keys))


def _mode(values: np.ndarray) -> float:
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[np.argmax(counts)])
