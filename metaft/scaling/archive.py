"""Fits as JSON records and back, so that what was fitted once can be asked again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaft.errors import DataError
from metaft.scaling import comparison, fitting
from metaft.scaling.fitting import Fit
from metaft.scaling.laws import Centre, Law
from metaft.scaling.points import Points

_ARRAYS = [field.name for field in dataclasses.fields(Points) if field.name != 'factors']


def to_record(group: str, fit: Fit) -> dict[str, Any]:
    """Returns all that is needed to predict from a fit again, with its constants in the units of the data to read."""
    return {
        'group': group,
        **dataclasses.asdict(fit.law),
        'constants': comparison.constants(fit),
        'noise': fit.noise,
        'dof': fit.dof,
        'centre': dataclasses.asdict(fit.centre),
        'theta': fit.theta_J,
        'limits': fit.limits_J2,
        'draws': fit.draws_UJ,
        'points': {name: getattr(fit.points, name) for name in _ARRAYS} | {'factors': fit.points.factors},
    }


def from_record(record: Mapping[str, Any]) -> Fit:
    """Returns the fit that `to_record` wrote."""
    law = Law(record['form'], tuple(record['factors']), record['irreducible'])
    arrays = {name: np.array(record['points'][name], np.float64) for name in _ARRAYS}
    factors = tuple(record['points']['factors'])
    for name in ('factors_IX', 'member_IX'):  # a list of empty rows has forgotten how many columns it has
        arrays[name] = arrays[name].reshape(len(arrays['loss_I']), len(factors))
    points = Points(**arrays, factors=factors)
    theta_J, draws_UJ, limits_J2 = (np.array(record[name], np.float64) for name in ('theta', 'draws', 'limits'))
    centre = Centre(record['centre']['d'], tuple(record['centre']['x_X']))
    return fitting.measure(law, centre, points, theta_J, draws_UJ, limits_J2, len(points) - record['dof'])


def read(directory: Path) -> list[tuple[str, Fit]]:
    """Returns (group, fit) of every fit that `scaling_fit` left in `directory`.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    path = directory / 'laws.json'
    try:
        records = json.loads(path.read_text())
        return [(record['group'], from_record(record)) for record in records]
    except OSError:
        raise DataError(f'{directory} holds no laws.json; make it with scaling_fit --workdir={directory}') from None
    except (ValueError, KeyError, TypeError) as error:
        what = f'{type(error).__name__}: {" ".join(str(error).split())[:100]}'
        raise DataError(f'{path} cannot be read ({what}); run scaling_fit again in a new --workdir') from None
