"""The epochs of a run: pure. A retry of a run that has failed opens the next one.

A step that was open when the run failed is begun anew, under a key of the new epoch. Whatever is still said of
its old key afterwards (by a timer, an event, or a worker that was left behind) is of the past and does nothing.
A sleep is different: it is due when it was due, and keeps its key.
"""

from __future__ import annotations

from ironflow.names import parse_step_key
from ironflow.records import RunState


def current(state: RunState) -> int:
    """Return the epoch that a run is in; 0 is the first."""
    return state.attempt - 1


def is_past(state: RunState, step: str) -> bool:
    """Tell whether a step's key is of an earlier epoch; of a sleep that means nothing."""
    return parse_step_key(step)[1] < current(state)
