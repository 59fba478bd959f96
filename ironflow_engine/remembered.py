"""What may be decided on a remembered state of a run, which may be out of date: pure."""

from __future__ import annotations

from collections.abc import Sequence

from ironflow.names import parse_step_key
from ironflow.records import RunState
from ironflow_engine import epochs
from ironflow_engine.event_waits import has_ending
from ironflow_engine.facts import Fact, TryRecorded, WaitRecorded


def will_do(state: RunState | None, facts: Sequence[Fact]) -> bool:
    """Tell whether a remembered state that facts do not change will do for them, out of date or not.

    A decision that writes nothing is not refused by the compare-and-set. It must be right all the same: a wait
    needs a timer, of the epoch that it is of, or that timer has nothing to end when it fires.

    Args:
        state: the run, as it is remembered.
        facts: what happened.

    """
    # A run whose end is known may have been retried meanwhile.
    if state is None or has_ending(state):
        return False
    current = epochs.current(state)
    return all(
        isinstance(fact, (WaitRecorded, TryRecorded)) and parse_step_key(fact.step)[1] <= current for fact in facts
    ) and not any(map(_may_have_ended, facts))


def _may_have_ended(fact: Fact) -> bool:
    """Tell whether a fact is a wait for an event: one that changes nothing has come again, and may be over by now."""
    return isinstance(fact, WaitRecorded) and fact.record.kind == "wait_for_event"
