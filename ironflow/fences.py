"""Fences: the records that keep steps from ever getting a result once it is known how their run ends.

A run that is unwound undoes what is recorded. A worker that has lost its lease may still be at a step of it, and
what it recorded afterwards would stand there and not be undone. So the pass that undoes takes the place of each
result that is not there: whoever comes later is refused, and finds in its place that the run has ended.
"""

from __future__ import annotations

from ironflow.names import Scope
from ironflow.records import ErrorRecord, StepKind, StepRecord

_TYPE = "RunEnded"
_MESSAGE = "the step has no result, and gets none any more: its run is being unwound"
_NEVER = 0
"""The attempts of a step that was done are counted from 1."""


def fence(name: str, kind: StepKind, scope: Scope, token: str) -> StepRecord:
    """Return the record that takes the place of a step's result.

    Args:
        name: the step's name.
        kind: what kind of step it is.
        scope: the parallels around it.
        token: the random mark of whoever writes it.

    """
    error = ErrorRecord(type=_TYPE, message=_MESSAGE, step=name)
    return StepRecord(name=name, kind=kind, scope=scope, token=token, status="failed", error=error, attempt=_NEVER)


def is_fence(record: StepRecord) -> bool:
    """Tell whether a record is no result, and takes the place of one."""
    return record.attempt == _NEVER and record.error is not None and record.error.type == _TYPE
