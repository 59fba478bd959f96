"""Tasks that do more harm than good: when to hand one back, and when to give its run up.

A body that ends its process takes the worker with it, and the next one that gets the task too. So what comes a
second time is noted in the journal before it is begun. Workers that then hand it back in an orderly way excuse
themselves; the others count as lost.
"""

from __future__ import annotations

import zlib

from msgspec.structs import replace

from ironflow.records import ErrorRecord, EventRecord, OutcomeRecord, TaskMode
from ironflow_worker.memo import Losses

MOST_LOSSES = 10
"""So many workers a pass may cost before its run fails."""
_MORE_LOSSES_OF_UNDOS = 2
"""So many more a pass that undoes may cost. Rather than begin the undo that is next it gives that one up then; to learn
which one that is takes a replay of the handler, which may be what workers are lost by."""
MOST_DELIVERIES = 20
"""So often a task is handed out that no worker can make anything of, before its run fails: over eight minutes or so,
in which a deployment that is under way should bring a worker that can."""

_SUSPICIOUS_LOSSES = 2
"""One may have died of anything."""
_FIRST_PAUSE_MS = 500
_DOUBLINGS = 2
"""With each loss. The start of a worker in place of the lost one costs half a second of CPU, which the others lack."""
_LONGEST_PAUSE_MS = 30_000
_TRIAL_MS = 1_000
"""So long a worker has served for each loss but the first, before it risks its life for such a pass. Otherwise those
that are due together end each new worker before it has done anything for others: its start may take seconds."""
_FIRST_DELAY_SECONDS = 5.0
_LONGEST_DELAY_SECONDS = 30.0


def is_suspect(losses: Losses) -> bool:
    """Tell whether a pass may well be what its workers were lost by."""
    return losses.lost >= _SUSPICIOUS_LOSSES


def gives_up_undo(mode: TaskMode, losses: Losses) -> bool:
    """Tell whether a pass that undoes is to give up the undo that is next, rather than begin it once more."""
    return mode == "compensate" and losses.lost >= MOST_LOSSES


def is_given_up(mode: TaskMode, losses: Losses) -> bool:
    """Tell whether a pass has cost too many workers to be begun again."""
    return losses.lost >= MOST_LOSSES + (_MORE_LOSSES_OF_UNDOS if mode == "compensate" else 0)


def last_outcome(
    number: int,
    error: ErrorRecord,
    event: EventRecord | None,
    token: str,
    *,
    cause: OutcomeRecord | None,
    undoable: bool,
) -> OutcomeRecord:
    """Return the outcome of a pass that is given up.

    Args:
        number: which one it is.
        error: why it is given up.
        event: what started the run, unless that is recorded already.
        token: the mark of the record.
        cause: of a pass that undoes: after which outcome. It has settled how the run ends, and why.
        undoable: whether there may be something to undo, and somebody who can.

    """
    outcome = OutcomeRecord(number=number, status="failed", token=token, error=error, event=event)
    if cause is not None:
        return replace(outcome, status=cause.ending, error=cause.error, compensation="failed")
    return replace(outcome, status="compensating", ending="failed") if undoable else outcome


def pause_ms(run: str, losses: Losses, now_ms: int, served_ms: int) -> int:
    """Return how long a pass is to be left alone, so that a worker can do something else between two that it costs.

    It differs by run, up to twofold: a pass that was lost together with a harmful one, and would come back together
    with it, would be lost each time again.

    Args:
        run: whose pass it is.
        losses: what it has cost.
        now_ms: what the server's clock says.
        served_ms: for how long the worker that asks has been at work.

    """
    if not is_suspect(losses):
        return 0
    doublings = _DOUBLINGS * (losses.lost - _SUSPICIOUS_LOSSES)
    wait_ms = min(_FIRST_PAUSE_MS << doublings, _LONGEST_PAUSE_MS)
    spread = zlib.crc32(run.encode()) / 2**32
    rest_ms = losses.newest_ms + round(wait_ms * (1 + spread)) - now_ms
    # The whole rest, though an older worker may be there: each time that it is handed back counts as a delivery, and
    # MOST_DELIVERIES must not be used up by that.
    trial_ms = _TRIAL_MS * (losses.lost - 1) - served_ms
    return max(0, rest_ms, trial_ms)


def delay_seconds(delivered: int) -> float:
    """Return after how long a task is handed out again that this worker can make nothing of.

    Args:
        delivered: how often it was handed out so far.

    """
    return min(_FIRST_DELAY_SECONDS * 1.5 ** min(delivered - 1, 10), _LONGEST_DELAY_SECONDS)


def worker_lost(losses: Losses) -> ErrorRecord:
    """Return why a run is given up whose pass costs one worker after the other."""
    return ErrorRecord(
        type="WorkerLost",
        message=(
            f"{losses.lost} workers that had taken up this run were gone before they could record anything more: look "
            "for a step that ends the process, or needs more memory than there is; then retry the run"
        ),
    )


def undo_lost(losses: Losses) -> ErrorRecord:
    """Return why an undo is given up whose pass costs one worker after the other."""
    return ErrorRecord(
        type="WorkerLost",
        message=(
            f"{losses.lost} workers that had taken up this undo were gone before they could record anything more: it "
            "may end the process, or need more memory than there is"
        ),
    )


def unreadable(reason: str, delivered: int) -> ErrorRecord:
    """Return why a run is given up whose task no worker can read."""
    return ErrorRecord(type="TaskUnreadable", message=f"its task was handed out {delivered} times: {reason}")


def unknown_function(function: str, queue: str, delivered: int) -> ErrorRecord:
    """Return why a run is given up whose function no worker has."""
    return ErrorRecord(
        type="FunctionNotFound",
        message=(
            f"its task was handed out {delivered} times, and none of the workers of queue {queue!r} that got it has "
            f"the function {function!r}; start one that has it, then retry the run"
        ),
    )
