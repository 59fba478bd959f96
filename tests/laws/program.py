"""What the run of the reducer's world does, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ironflow.codec import encode_record
from ironflow.names import Names, parse_step_key, step_key
from ironflow.records import (
    TERMINAL,
    CompensationStatus,
    Ending,
    ErrorRecord,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    OutcomeStatus,
    RunState,
    StepRecord,
    TaskMode,
    TimerRecord,
    TryRecord,
    WaitRecord,
)
from ironflow_engine import epochs
from ironflow_engine.facts import Fact, OutcomeRecorded, TryRecorded, WaitRecorded

Kind = Literal["sleep", "retry"]
UNDO = "undo"

RUN = "run"
QUEUE = "orders"
FUNCTION = FunctionRecord(id="f", queue=QUEUE, timeout_ms=60_000)
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")
_NAMES = Names("laws")


class Program(msgspec.Struct, frozen=True):
    """What the run does: groups of waits, one group after the other; the waits of a group overlap.

    Attributes:
        groups: the kinds of the waits of each group.
        ends: how it ends.
        may_be_ended: whether someone may end it from outside.
        may_be_retried: whether someone may retry it once it has failed.
        undos: how many undos there are, where it fails or is ended from outside; each backs off once.
        may_lose: whether messages may get lost.

    """

    groups: tuple[tuple[Kind, ...], ...]
    ends: Literal["completed", "failed"]
    may_be_ended: bool
    may_be_retried: bool = False
    undos: int = 0
    may_lose: bool = False

    def steps(self, group: int) -> list[tuple[str, Kind]]:
        """Return the waits of a group, each with its name."""
        return [(f"{kind}-{group}-{index}", kind) for index, kind in enumerate(self.groups[group])]


class QueuedTask(msgspec.Struct, frozen=True):
    """A task in the queue.

    Attributes:
        epoch: the epoch that it is of.
        mode: what it is for.
        again: whether it may have been there before.

    """

    epoch: int
    mode: TaskMode
    again: bool


class Pass(msgspec.Struct):
    """A pass that a worker executes now, and what it has still to record."""

    number: int
    left: list[tuple[str, Callable[[int], Fact | None]]]


def wait_fact(step: str, kind: str) -> Callable[[int], Fact]:
    """Return what makes the fact that a step waits, of the sequence at which it is recorded."""

    def make(sequence: int) -> Fact:
        if kind == "sleep":
            wait = WaitRecord(name=step, kind="sleep", token="", delay_ms=1_000)
            return WaitRecorded(run=RUN, queue=QUEUE, step=step, record=wait, sequence=sequence, time_ms=sequence)
        attempt = TryRecord(
            name=step,
            kind="compensate" if kind == UNDO else "run",
            token="",
            attempt=1,
            delay_ms=1_000,
            error=ErrorRecord(type="E", message=""),
        )
        return TryRecorded(run=RUN, queue=QUEUE, step=step, record=attempt, sequence=sequence, time_ms=sequence)

    return make


def outcome_fact(
    number: int,
    status: OutcomeStatus,
    seen: int = 0,
    *,
    imposed: bool = False,
    ending: Ending = "failed",
    compensation: CompensationStatus | None = None,
    token: str = "",
    only_sleeps: bool = False,
) -> Callable[[int], OutcomeRecorded]:
    """Return what makes the fact that a pass has ended, of the sequence at which it is recorded."""
    ends_as = ending if status == "compensating" else status

    def make(sequence: int) -> OutcomeRecorded:
        record = OutcomeRecord(
            number=number,
            status=status,
            token=token,
            seen=seen,
            only_sleeps=only_sleeps,
            error=ErrorRecord(type="E", message="") if ends_as == "failed" else None,
            imposed=imposed,
            ending=ending,
            compensation=compensation,
            due_ms=1 if status == "suspended" else 0,
        )
        return OutcomeRecorded(run=RUN, queue=QUEUE, record=record, sequence=sequence, time_ms=sequence)

    return make


def journal_message(subject: str, fact: Fact | None, slept_out: str | None) -> tuple[str, bytes]:
    """Return under which subject, and with what payload, the journal has what is called *subject* here.

    Args:
        subject: as above.
        fact: what engines are told of it.
        slept_out: of the end of a sleep: the token of the pass that waited for it, where one has.

    """
    kind, _, key = subject.partition(".")
    match fact:
        case WaitRecorded():
            return _NAMES.journal_wait(QUEUE, RUN, key), encode_record(fact.record)
        case TryRecorded():
            return _NAMES.journal_try(QUEUE, RUN, key, 1), encode_record(fact.record)
        case OutcomeRecorded():
            return _NAMES.journal_outcome(QUEUE, RUN, fact.record.number), encode_record(fact.record)
        case _:
            pass
    if kind == "retry":
        return _NAMES.journal_retry(QUEUE, RUN, int(key)), b""
    if kind == "end" and not key.startswith("sleep"):
        return _NAMES.journal_due(QUEUE, RUN, key, 1), b""
    end = StepRecord(name=key, kind="sleep", token=slept_out or "", slept_out=slept_out is not None)
    return _NAMES.journal_step(QUEUE, RUN, key), encode_record(end)


def key_of(prefix: str, name: str, epoch: int, known: dict[str, int], fences: set[int]) -> str:
    """Return under which key a step is done in an epoch: what was open is begun anew, but for sleeps."""
    keys = [step_key(name, earlier) for earlier in range(epoch + 1)]
    newest = [key for key in keys if any(f"{kind}.{key}" in known for kind in (prefix, "wait", "fence"))]
    return newest[-1] if newest and _counts(prefix, newest[-1], known, fences) else keys[-1]


def _counts(prefix: str, key: str, known: dict[str, int], fences: set[int]) -> bool:
    at = known.get(f"{prefix}.{key}")
    if at is None:
        return key.startswith("sleep")
    closed_at = known.get(f"retry.{parse_step_key(key)[1] + 1}", at)
    return at not in fences and f"fence.{key}" not in known and (key.startswith("sleep") or at <= closed_at)


def is_open(state: RunState | None, timer: TimerRecord) -> bool:
    """Tell whether a run is still interested in a timer, as those do who take fired timers."""
    if state is None or state.status in TERMINAL or (state.ending is not None and timer.wait is not None):
        return False
    return timer.wait is not None or timer.epoch >= epochs.current(state)
