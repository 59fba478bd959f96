"""A run that only sleeps has its next pass a little before the sleep ends: pure.

To wake a run takes writes, and where many sleeps end together they queue. So the pass is dispatched early, and
whoever executes it waits for the end itself, by the server's clock, and records it. The timer stays: it ends the
sleep where nobody does.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.names import mark
from ironflow.records import TERMINAL, RunState
from ironflow_engine.facts import Decision, Dispatch, SleepNearsEnd, SleptOut, Woken


def may_begin_early(state: RunState) -> bool:
    """Tell whether a run rests and waits for nothing but the ends of sleeps."""
    return not state.live and state.only_sleeps and state.ending is None and state.status not in TERMINAL


def is_waited_for(state: RunState) -> bool:
    """Tell whether a live run's newest pass waits for the ends of its sleeps, all of them, as far as is known."""
    return state.live and state.only_sleeps


def is_for(state: RunState, sequence: int) -> bool:
    """Tell whether a run's newest pass goes on and was begun for the end of the sleep that is recorded there."""
    return state.live and sequence > 0 and state.dispatched_for == sequence


def near_end(state: RunState, fact: SleepNearsEnd) -> Decision:
    """Return what becomes of a run of which a sleep is over in a moment. To those who ask, it sleeps until then."""
    if is_for(state, fact.sequence):
        return Decision(state, (Dispatch(state=state, again=True),))
    if not may_begin_early(state):
        return Decision(state)
    following = replace(
        state,
        number=state.number + 1,
        live=True,
        dispatched_for=fact.sequence,
        woken_by=max(state.woken_by, fact.sequence),
        told="",
        hinted=(),
    )
    return Decision(following, (Dispatch(state=following),))


def begun_again(state: RunState, fact: Woken) -> tuple[Dispatch, ...]:
    """Return the task of a pass that was begun for the end of a sleep, and has not recorded it in time.

    Whoever began it may have died before the task was published.
    """
    return (Dispatch(state=state, again=True),) if is_for(state, fact.sleep) else ()


def slept_out(state: RunState, fact: SleptOut) -> RunState | None:
    """Return a run of which a pass has recorded the end of a sleep; None where it has to be woken for that, or was.

    That pass knows the end. If it was left behind, the one that took its place may have rested without.
    """
    if fact.sequence <= state.woken_by:
        return None
    if not state.live:
        return state if fact.by == state.rested_by else None
    if state.slept_out.get(fact.by, 0) >= fact.sequence:
        return state
    return awake(replace(state, slept_out={**state.slept_out, fact.by: fact.sequence}))


def unknown_to(state: RunState, token: str) -> int:
    """Return the newest journal sequence of an end of a sleep that another pass than that of the token has recorded."""
    return max((sequence for by, sequence in state.slept_out.items() if by != mark(token)), default=0)


def awake(state: RunState) -> RunState:
    """Return a live run as one that sleeps no more; the very same where it does not look as if it did."""
    return replace(state, status="queued", due_ms=0) if state.status == "waiting" else state
