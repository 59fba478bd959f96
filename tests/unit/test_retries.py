"""What a retry leaves of the epoch before: nothing that would be told of the new one."""

from __future__ import annotations

from ironflow.records import ErrorRecord, RunState, WaitRecord
from ironflow_engine import retries, timers
from ironflow_engine.facts import RunRetried, WaitRecorded

FAILED = RunState(
    id="r",
    function="f",
    queue="q",
    status="failed",
    started_at=1,
    event_id="e",
    event_name="n",
    event_sequence=1,
    number=4,
    live=False,
    due_ms=7,
    finished_at=90,
    ended_by=30,
    error=ErrorRecord(type="ValueError", message="no"),
    ending="failed",
    compensation="completed",
)
RETRIED = RunRetried(run="r", queue="q", epoch=1, sequence=40, time_ms=100)


def test_a_new_epoch_says_nothing_of_how_the_last_one_ended() -> None:
    state = retries.reopen(FAILED, RETRIED).state
    assert state is not None
    assert (state.error, state.ending, state.compensation) == (None, None, None)
    assert (state.finished_at, state.ended_by, state.due_ms) == (0, 0, 0)
    assert (state.status, state.attempt, state.number, state.live) == ("queued", 2, 5, True)


def test_the_timer_of_a_wait_says_in_which_epoch_it_was_set() -> None:
    state = retries.reopen(FAILED, RETRIED).state
    assert state is not None
    wait = WaitRecord(name="nap", kind="sleep", token="", delay_ms=5)
    fact = WaitRecorded(run="r", queue="q", step="nap.1", record=wait, sequence=41, time_ms=101)
    assert timers.of_wait(state, fact).record.epoch == 1
