"""What was collected of a load and of what went wrong meanwhile: plain data, for the checker and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from ironflow.records import TERMINAL, RunState
from tests.chaos.programs import Expected, Order, child_run, expect
from tests.chaos.timeline import Injected
from tests.chaos.witness import Line


class Submitted(msgspec.Struct, frozen=True):
    """An event whose publication was acknowledged.

    Attributes:
        sequence: where the server said that it stands.
        acknowledged_ms: when, by the machine's clock.
        order: what it starts; None for one that starts no run, or a run that no worker can execute.
        run: the run that it starts.

    """

    event_id: str
    sequence: int
    acknowledged_ms: float
    order: Order | None = None
    run: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """A fact in the journal.

    Attributes:
        rest: the step's token, the attempt, the number of the pass.
        time_ms: when the server stored it, rounded down.
        record: its JSON.
        shard: in which journal it stands.

    """

    run: str
    kind: str
    rest: tuple[str, ...]
    sequence: int
    time_ms: int
    record: Mapping[str, Any]
    shard: int = 0


class TimerLeft(msgspec.Struct, frozen=True):
    """A schedule that is still there in the end.

    Attributes:
        attempt: of a back-off: after which attempt; 0 of a wait.

    """

    run: str
    step: str
    attempt: int
    due_ms: int


class History(msgspec.Struct, frozen=True, dict=True):
    """All that is known.

    Attributes:
        submitted: every event that was acknowledged.
        events: what EVENTS holds: the ids by sequence.
        journal: what JOURNAL holds, in order.
        states: the runs' states.
        lines: what the witness has seen, in order.
        leftovers: what must be used up in the end, and how much of it is left.
        timers: the schedules that are still there; harmless if all that they could end has ended.
        injected: what went wrong.
        metrics: the sum over all workers that were alive in the end.
        refused: how often the harness's publications were refused, by the type of the error.
        in_vain: when each process asked for something in vain, in milliseconds by the machine's clock.

    """

    submitted: Sequence[Submitted]
    events: Mapping[int, str]
    journal: Sequence[Recorded]
    states: Mapping[str, RunState]
    lines: Sequence[Line]
    leftovers: Mapping[str, int]
    timers: Sequence[TimerLeft] = ()
    injected: Sequence[Injected] = ()
    metrics: Mapping[str, float] = {}
    refused: Mapping[str, int] = {}
    in_vain: Mapping[str, Sequence[float]] = {}

    @cached_property
    def orders(self) -> dict[str, Submitted]:
        """The events that start runs, by run."""
        return {each.run: each for each in self.submitted if each.order is not None}

    @cached_property
    def programs(self) -> dict[str, Order]:
        """What each run executes, child runs included."""
        found: dict[str, Order] = {}
        left = [(run, each.order) for run, each in self.orders.items() if each.order is not None]
        while left:
            run, order = left.pop()
            found[run] = order
            left += [(child_run(run, token), child) for token, child in expect(order).children.items()]
        return found

    @cached_property
    def expected(self) -> dict[str, Expected]:
        """What each run must come to."""
        hopeless = [each.run for each in self.submitted if each.run and each.order is None]
        return {run: expect(order) for run, order in self.programs.items()} | {
            run: Expected("failed", {}) for run in hopeless
        }

    @cached_property
    def steps(self) -> dict[tuple[str, str], list[Recorded]]:
        """The results of each step, by run and token."""
        return self._by_token("step")

    @cached_property
    def steps_by_run(self) -> dict[str, dict[str, Recorded]]:
        """The first result of each step, by run and then by token."""
        found: dict[str, dict[str, Recorded]] = {}
        for (run, token), facts in self.steps.items():
            found.setdefault(run, {})[token] = facts[0]
        return found

    @cached_property
    def waits(self) -> dict[tuple[str, str], list[Recorded]]:
        """What each step waits for, by run and token."""
        return self._by_token("wait")

    @cached_property
    def tries(self) -> dict[tuple[str, str], list[Recorded]]:
        """The failed attempts of each step, by run and token."""
        return self._by_token("try")

    @cached_property
    def ends(self) -> dict[str, list[Recorded]]:
        """The outcomes that end each run."""
        found: dict[str, list[Recorded]] = {}
        for fact in self.journal:
            if fact.kind == "outcome" and fact.record["status"] in TERMINAL:
                found.setdefault(fact.run, []).append(fact)
        return found

    @cached_property
    def passes(self) -> dict[str, Pass]:
        """The passes that were seen, by their ids."""
        delivered: dict[tuple[int, str], float] = {}
        begun: dict[str, Line] = {}
        left: dict[str, float] = {}
        for line in self.lines:
            if line.kind == "delivered":
                delivered.setdefault((line.pid, line.run), line.wall_ms)
            elif line.kind == "pass":
                begun[line.pass_id] = line
            elif line.kind == "left":
                left[line.pass_id] = line.wall_ms
        return {
            key: Pass(
                run=line.run,
                pid=line.pid,
                began_ms=line.wall_ms,
                left_ms=left.get(key),
                # A pass that loads nothing claims that nothing was recorded when its task came.
                loaded_ms=line.loaded_ms or delivered.get((line.pid, line.run), line.wall_ms),
            )
            for key, line in begun.items()
        }

    def _by_token(self, kind: str) -> dict[tuple[str, str], list[Recorded]]:
        found: dict[tuple[str, str], list[Recorded]] = {}
        for fact in self.journal:
            if fact.kind == kind:
                found.setdefault((fact.run, fact.rest[0]), []).append(fact)
        return found


class Pass(msgspec.Struct, frozen=True):
    """One time that a handler was entered.

    Attributes:
        left_ms: when it was left; None if its process died before.
        loaded_ms: what was recorded by then, it must know.

    """

    run: str
    pid: int
    began_ms: float
    left_ms: float | None
    loaded_ms: float
