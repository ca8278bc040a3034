"""A report's data as one file in the workdir, so that the page can be made again without model, surrogate or runs."""

import dataclasses
import io
import json
import os
from typing import Any

import numpy as np
import pandas as pd

from metaft.errors import WorkdirError
from metaft.report.data import Forecast, Outcome, ReportData
from metaft.search.observations import Observations, Suggestion

FORMAT = 2
_OUTCOMES = ('zero_shot', 'incumbent', 'default')
_TABLES = ('ranking', 'portfolio')
_FORECASTS = ('zero_shot_forecast', 'final_forecast')


def save(path: str | os.PathLike, data: ReportData) -> None:
    """Writes the data as one `.npz`: the arrays, and all else as JSON."""
    arrays: dict[str, np.ndarray] = {}
    record: dict[str, Any] = {'format': FORMAT}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if isinstance(value, Observations):
            arrays |= {f'{field.name}.{name}': np.asarray(array) for name, array in dataclasses.asdict(value).items()}
        elif isinstance(value, Forecast):
            arrays |= {f'{field.name}.{name}': array for name, array in value._asdict().items()}
        elif isinstance(value, pd.DataFrame):
            record[field.name] = value.to_csv(index=False)
        elif isinstance(value, Outcome):
            record[field.name] = dataclasses.asdict(value)
        else:
            record[field.name] = value
    arrays['record'] = np.array(json.dumps(record))
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(path: str | os.PathLike) -> ReportData:
    """Reads what `save` wrote; raises WorkdirError if the file holds none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        record = json.loads(str(arrays.pop('record')))
    except (OSError, ValueError, KeyError) as error:
        raise WorkdirError(f'{path} holds no report ({error}); run the job again') from error
    if record.pop('format') != FORMAT:
        raise WorkdirError(f'{path} was written by another metaft, this one reads format {FORMAT}; run the job again')
    record |= {name: None if record[name] is None else Outcome(**record[name]) for name in _OUTCOMES}
    record |= {name: Forecast(*(arrays[f'{name}.{part}'] for part in Forecast._fields)) for name in _FORECASTS}
    record |= {name: None if record[name] is None else pd.read_csv(io.StringIO(record[name])) for name in _TABLES}
    suggestion = record['next_suggestion']
    scalars = ('reference_value', 'measurement_seconds')
    observed: dict[str, Any] = {
        field.name: float(array) if field.name in scalars else array
        for field in dataclasses.fields(Observations)
        for array in (arrays[f'observations.{field.name}'],)
    }
    return ReportData(
        **record
        | {
            'observations': Observations(**observed),
            'next_suggestion': None if suggestion is None else Suggestion(*suggestion),
        }
    )
