"""What a pass that lingers is told, and what it has to read: hints are small, and so is what a state notes of them."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.records import EventRecord, RunState, WaitEntry, WaitRecord
from ironflow_engine.event_waits import MOST_HINTED, MOST_TOLD_BYTES
from ironflow_engine.facts import AppendStep, Dispatch, EventArrived, TellPass
from ironflow_engine.reducer import decide


def state(*, hinted: int = 0, live: bool = True) -> RunState:
    return RunState(
        id="r",
        function="f",
        queue="q",
        status="waiting",
        started_at=1,
        event_id="e-1",
        event_name="go",
        event_sequence=1,
        hinted=tuple(map(str, range(hinted))),
        live=live,
    )


def arrived(data: bytes = b"1", worker: str = "w", note: str = "") -> EventArrived:
    wait = WaitRecord(name="s", kind="wait_for_event", token="", event="go", worker=worker)
    entry = WaitEntry(run="r", queue="q", step="s", wait=wait, sequence=2, time_ms=2)
    event = EventRecord(id="e-2", name="go", time="", data=msgspec.Raw(data), metadata={"note": note})
    return EventArrived(run="r", queue="q", entry=entry, event=event, sequence=2, time_ms=3)


def test_a_pass_that_lingers_is_told_the_end_and_the_state_notes_it() -> None:
    decision = decide(state(), arrived())
    tell, end = decision.commands
    assert isinstance(tell, TellPass)
    assert isinstance(end, AppendStep)
    assert (tell.worker, tell.number) == ("w", 0)
    assert tell.end is not None
    assert tell.end.record == end.record
    assert decision.state is not None
    assert len(decision.state.hinted) == 1
    assert decision.state.status == "queued"


@pytest.mark.parametrize(
    ("hinted", "data"),
    [(MOST_HINTED, b"1"), (0, b'"%s"' % (b"x" * MOST_TOLD_BYTES))],
    ids=["too many", "too large"],
)
def test_a_pass_has_to_read_what_it_cannot_be_told_and_lingers_no_more(hinted: int, data: bytes) -> None:
    decision = decide(state(hinted=hinted), arrived(data))
    tell, end = decision.commands
    assert isinstance(tell, TellPass)
    assert isinstance(end, AppendStep)
    assert tell.end is None
    assert end.wakes
    assert decision.state is not None
    assert len(decision.state.hinted) == hinted


@pytest.mark.parametrize("live", [True, False], ids=["by a hint", "by a task"])
def test_nobody_is_told_of_an_event_whose_metadata_fills_a_message(live: bool) -> None:  # noqa: FBT001 - two cases
    decision = decide(state(live=live), arrived(note="x" * 1_000_000))
    assert not [command for command in decision.commands if isinstance(command, Dispatch)]
    assert not [command for command in decision.commands if isinstance(command, TellPass) and command.end is not None]
    (end,) = (command for command in decision.commands if isinstance(command, AppendStep))
    assert end.wakes


def test_nobody_is_told_of_a_wait_that_no_pass_lingers_for() -> None:
    decision = decide(state(), arrived(worker=""))
    assert [type(command) for command in decision.commands] == [AppendStep]
    assert decision.state is not None
    assert decision.state.hinted == ()
