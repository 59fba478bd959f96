"""What the retry of a run that has failed makes of it: pure."""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.records import TERMINAL, RunState
from ironflow_engine import event_waits, timers
from ironflow_engine.facts import Command, Decision, Dispatch, RunRetried


def reopen(state: RunState, fact: RunRetried) -> Decision:
    """Return what becomes of a run that somebody has retried."""
    if state.status == "failed" and fact.epoch == state.attempt:
        opened = _next_epoch(state, fact)
        return Decision(opened, (Dispatch(state=opened), *_timers(opened, fact)))
    if state.status in TERMINAL or state.epoch_sequence != fact.sequence:
        return Decision(state)
    # Whoever opened it may have died before it carried out what follows.
    dispatch = (Dispatch(state=state, again=True),) if state.live and state.dispatched_for == fact.sequence else ()
    return Decision(state, (*dispatch, *_timers(state, fact)))


def _next_epoch(state: RunState, fact: RunRetried) -> RunState:
    return replace(
        state,
        status="queued",
        number=state.number + 1,
        live=True,
        dispatched_for=fact.sequence,
        woken_by=fact.sequence,
        told="",
        hinted=(),
        attempt=state.attempt + 1,
        epoch_sequence=fact.sequence,
        epoch_started_at=fact.time_ms,
        due_ms=0,
        only_sleeps=False,
        finished_at=0,
        ended_by=0,
        error=None,
        ending=None,
        compensation=None,
        event_waits=event_waits.taken(state, fact.ended_waits),
    )


def _timers(state: RunState, fact: RunRetried) -> tuple[Command, ...]:
    return (*timers.of_run(state), *(timers.of_wait(state, sleep) for sleep in fact.sleeps))
