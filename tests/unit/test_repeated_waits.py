"""A wait that is met twice may be registered after it has ended, by an engine that was held up; it must not stay."""

from __future__ import annotations

from ironflow.codec import encode_raw
from ironflow.names import mark
from ironflow.records import EventRecord, RunState, WaitEntry, WaitRecord
from ironflow_engine import event_waits
from ironflow_engine.facts import AppendStep, EventArrived, ForgetWaits, RegisterWait, WaitRecorded

WAIT = WaitRecord(name="w", kind="wait_for_event", token="t", event="go", delay_ms=600_000)
FACT = WaitRecorded(run="r", queue="q", step="w", record=WAIT, sequence=7, time_ms=1_000)
STATE = RunState(
    id="r",
    function="f",
    queue="q",
    status="running",
    started_at=1,
    event_id="e",
    event_name="start",
    event_sequence=1,
    token="t",
    number=0,
)


def after_the_event(state: RunState) -> RunState:
    """The state once an event has ended the wait."""
    entry = WaitEntry(run="r", queue="q", step="w", wait=WAIT, sequence=7, time_ms=1_000)
    event = EventRecord(id="come", name="go", data=encode_raw(WAIT), time="")
    decision = event_waits.arrive(
        state, EventArrived(run="r", queue="q", entry=entry, event=event, sequence=9, time_ms=2_000)
    )
    assert [type(command) for command in decision.commands] == [AppendStep]
    assert decision.state is not None
    return decision.state


def test_a_wait_that_is_met_once_leaves_nothing_to_do_when_its_run_ends() -> None:
    opened = event_waits.open_wait(STATE, FACT)
    assert opened.state is not None
    assert event_waits.leave(after_the_event(opened.state)) == ()


def test_what_a_second_one_may_register_late_is_forgotten_when_the_run_ends() -> None:
    opened = event_waits.open_wait(STATE, FACT)
    assert opened.state is not None
    again = event_waits.open_wait(opened.state, FACT)
    assert again.state is not None
    assert [type(command) for command in again.commands] == [RegisterWait]
    assert event_waits.leave(after_the_event(again.state)) == (ForgetWaits(run="r", queue="q", epoch=0),)


def test_so_it_is_where_the_second_one_comes_when_the_wait_is_over() -> None:
    opened = event_waits.open_wait(STATE, FACT)
    assert opened.state is not None
    again = event_waits.open_wait(after_the_event(opened.state), FACT)
    assert again.state is not None
    assert again.state.event_waits == {mark("w"): mark("come")}
    assert event_waits.leave(again.state) == (ForgetWaits(run="r", queue="q", epoch=0),)
    # A third time changes nothing any more.
    assert event_waits.open_wait(again.state, FACT).state == again.state
