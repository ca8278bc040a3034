"""Monotone maps from a metric's own unit to the space the surrogate works in, and back; and costs likewise.

A loss is measured against the loss of the base model before finetuning, in logarithms, so that halving it is the same
step on every task; a share through its logit. Values that are worse than `WORST` are as bad as a diverged run: how bad
is no information, and would dominate every fit.
"""

import numpy as np
from scipy.special import expit, logit

from metaft.errors import InputError

LOSS_OFFSET_NATS = (
    0.02  # below this a loss is as good as nothing: a run with .001 is not ten times better than one with .01
)
SHARE_MARGIN = 0.01  # 0 and 1 are finite; about the resolution of a validation set of 100
WORST = {'loss': 0.75, 'exact_match': 2.5}  # transformed; e^1.5 = 4.5 times the base's loss, beyond any share
NUM_METRICS = len(WORST)
_SCALE = 2.0  # brings both metrics to a spread of about one


def transform(values: np.ndarray, metric: str, reference_value: float) -> np.ndarray:
    """Maps values (lower is better) to the surrogate's space, NaN to NaN, +inf and all that is worse to `WORST`.

    loss: log((value + o) / (reference + o)) / 2;  exact_match (as an error): logit(m + (1 - 2 m) value) / 2.
    """
    values = np.asarray(values, np.float64)
    if _check(metric) == 'loss':
        y = np.log((np.maximum(values, 0.0) + LOSS_OFFSET_NATS) / (reference_value + LOSS_OFFSET_NATS))
    else:
        y = logit(SHARE_MARGIN + (1.0 - 2.0 * SHARE_MARGIN) * np.clip(values, 0.0, 1.0))
        y = np.where(np.isposinf(values), np.inf, y)
    return np.minimum(y / _SCALE, WORST[metric]).astype(np.float32)


def inverse(y: np.ndarray, metric: str, reference_value: float) -> np.ndarray:
    """Maps back to the metric's own unit; what lies outside of its range is brought to the edge."""
    y = np.minimum(np.asarray(y, np.float64), WORST[_check(metric)]) * _SCALE
    if metric == 'loss':
        return np.maximum(np.exp(y) * (reference_value + LOSS_OFFSET_NATS) - LOSS_OFFSET_NATS, 0.0)
    return np.clip((expit(y) - SHARE_MARGIN) / (1.0 - 2.0 * SHARE_MARGIN), 0.0, 1.0)


def log_slope(values: np.ndarray, metric: str, reference_value: float) -> np.ndarray:
    """Returns log |dy / dvalue|: what a log density in the surrogate's space gains in the metric's own unit.

    Of values that are clipped, it is that of the clip: there y does not change, and no density says anything.
    """
    values = np.asarray(values, np.float64)
    if _check(metric) == 'loss':
        return -np.log(_SCALE * (np.maximum(values, 0.0) + LOSS_OFFSET_NATS))
    share = SHARE_MARGIN + (1.0 - 2.0 * SHARE_MARGIN) * np.clip(values, 0.0, 1.0)
    return np.log((1.0 - 2.0 * SHARE_MARGIN) / (_SCALE * share * (1.0 - share)))


def log_rates(costs_CT: np.ndarray, fractions_T: np.ndarray, unit_seconds: float) -> np.ndarray:
    """Returns log(seconds so far / (fraction of a full run * unit)), NaN where no cost is known.

    The unit, the seconds of a forward pass over the examples of a full run, takes machine, model and length out of it.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        rates = np.log(np.asarray(costs_CT, np.float64) / (np.asarray(fractions_T)[None, :] * unit_seconds))
    return np.where(np.isfinite(rates), rates, np.nan).astype(np.float32)


def _check(metric: str) -> str:
    if metric not in WORST:
        raise InputError(f'unknown metric {metric!r}; one of {", ".join(WORST)}')
    return metric
