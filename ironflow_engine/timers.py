"""Which timers a run needs, and when they are due: pure."""

from __future__ import annotations

from ironflow.names import run_timer, try_timer, wait_timer
from ironflow.records import RunState, TimerRecord
from ironflow_engine import epochs
from ironflow_engine.facts import SetTimer, TryRecorded, WaitRecorded
from ironflow_engine.sleeps import is_waited_for


def of_run(state: RunState) -> tuple[SetTimer, ...]:
    """Return the timer that ends a run which takes too long; none where it may take for ever.

    The time counts anew in each epoch.
    """
    if not state.timeout_ms:
        return ()
    epoch = epochs.current(state)
    timer = TimerRecord(
        run=state.id,
        queue=state.queue,
        step="",
        due_ms=_after(state.epoch_started_at or state.started_at, state.timeout_ms),
        run_timeout_ms=state.timeout_ms,
        epoch=epoch,
    )
    return (SetTimer(timer=run_timer(epoch), record=timer),)


def of_wait(state: RunState, fact: WaitRecorded) -> SetTimer:
    """Return the timer that ends a wait."""
    record = fact.record
    timer = TimerRecord(
        run=state.id,
        queue=state.queue,
        step=fact.step,
        due_ms=due_at(fact),
        wait=record,
        waiting_since_ms=fact.time_ms,
        epoch=epochs.current(state),
        sequence=fact.sequence,
        is_behind=fact.record.kind == "sleep" and is_waited_for(state),
    )
    return SetTimer(timer=wait_timer(fact.step), record=timer)


def of_back_off(state: RunState, fact: TryRecorded) -> SetTimer:
    """Return the timer behind which a failed attempt is made again."""
    attempt = fact.record.attempt
    timer = TimerRecord(
        run=state.id,
        queue=state.queue,
        step=fact.step,
        due_ms=due_at(fact),
        attempt=attempt,
        epoch=epochs.current(state),
    )
    return SetTimer(timer=try_timer(fact.step, attempt), record=timer)


def due_at(fact: WaitRecorded | TryRecorded) -> int:
    """Return when a wait or a back-off is over, in server time."""
    if isinstance(fact, WaitRecorded) and fact.record.until_ms is not None:
        return fact.record.until_ms
    return _after(fact.time_ms, fact.record.delay_ms or 0)


def _after(stored_ms: int, delay_ms: int) -> int:
    # The time at which a record was stored comes rounded down to whole milliseconds.
    return stored_ms + 1 + delay_ms
