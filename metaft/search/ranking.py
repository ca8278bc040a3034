"""All configurations in the order of one prediction: `ranking.csv`, and what the terminal and the report show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaft.search.acquisition import Prediction


def rank(configurations: Sequence[Mapping[str, Any]], prediction: Prediction, interval: float = 0.8) -> pd.DataFrame:
    """Ranks configurations by their predicted value at the end of a full run, its median.

    Args:
      configurations: hyperparameter dictionaries, in the order of the prediction's rows.
      prediction: of all of them; zero-shot, or conditioned on what was observed.
      interval: probability that the interval holds.

    Returns:
      A frame, the best first: `place` (1, ...), `configuration_index`, `predicted_value`, `predicted_low`,
      `predicted_high`, `predicted_seconds` of a full run, then one column a hyperparameter in the order of their first
      occurrence; None where a hyperparameter does not apply.
    """
    final_C = np.asarray(prediction.quantile_CT(0.5), np.float64)[:, -1]
    if len(configurations) != len(final_C):
        raise ValueError(f'{len(configurations)} configurations, but predictions of {len(final_C)}')
    tail = (1.0 - interval) / 2.0
    names = list(dict.fromkeys(name for configuration in configurations for name in configuration))
    order_C = np.argsort(final_C, kind='stable')
    frame = pd.DataFrame(
        {
            'configuration_index': order_C,
            'predicted_value': final_C[order_C],
            'predicted_low': np.asarray(prediction.quantile_CT(tail))[order_C, -1],
            'predicted_high': np.asarray(prediction.quantile_CT(1.0 - tail))[order_C, -1],
            'predicted_seconds': np.asarray(prediction.cost_seconds_CT)[order_C, -1],
            **{name: _column([configurations[c].get(name) for c in order_C]) for name in names},
        }
    )
    frame.insert(0, 'place', np.arange(1, len(frame) + 1))
    return frame


def _column(values: list) -> pd.Series:
    """Keeps whole numbers whole beside missing ones."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return pd.Series(pd.array(values, dtype='Int64'))
    return pd.Series(values)
