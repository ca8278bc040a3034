"""Why a search is over, for its records: live (`results.json`) and replayed.

budget      what remains pays for no further step
patience    what can still be gained is not worth its cost, see `FreezeThawSettings.patience`
exhausted   every run is at its end, or nothing is expected of any
"""

import dataclasses

from metaft.search.freeze_thaw import FreezeThaw
from metaft.search.observations import Observations, Searcher
from metaft.search.units import InUnit

_ANY_BUDGET = 1e30  # seconds or FLOPs


def stopped_by(searcher: Searcher, observations: Observations, remaining_seconds: float) -> str:
    """Returns 'budget', 'patience' or 'exhausted' for a search that ended in this state."""
    if isinstance(searcher, InUnit):
        searcher, observations = searcher.exchanged(observations)
    if searcher.suggest(observations, remaining_seconds):
        return 'budget'  # the step did not fit
    if not isinstance(searcher, FreezeThaw):
        return 'budget' if searcher.suggest(observations, _ANY_BUDGET) else 'exhausted'
    decision = searcher.evaluate(observations, searcher.predict(observations), remaining_seconds)
    if decision.plan < 0:
        is_ended = observations.last_grid_index_C.min() == len(observations.fractions_T) - 1
        return 'exhausted' if is_ended else 'budget'
    patient = dataclasses.replace(searcher, settings=dataclasses.replace(searcher.settings, patience=0.0))
    return 'patience' if patient.suggest(observations, remaining_seconds) else 'exhausted'
