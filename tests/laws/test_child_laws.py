"""The laws of child runs, for every order of starts, ends, time-outs and cancels, and engines that die in between.

C1  A step that waits for a child has one result, which is that child's end or its time-out, and never changes.
C2  A parent that goes on has the end of each of its children, once engines have caught up.
C3  When all has come to rest, no child goes on whose parent has ended, or whose step has timed out or was closed.
C4  A child stands one deeper than its parent, and starts once.
C5  A run that has ended starts no child.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ironflow.names import run_id
from ironflow.records import (
    TERMINAL,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    ParentLink,
    RunState,
    StepRecord,
    WaitRecord,
)
from ironflow_engine import children, reducer
from ironflow_engine.facts import (
    EndChild,
    EndChildren,
    Fact,
    OutcomeRecorded,
    ReportChild,
    RunStarted,
    SetTimer,
    StartChild,
    WaitClosed,
    WaitRecorded,
    Woken,
)

PARENT = "parent"
QUEUE = "orders"
FUNCTIONS = {"f": FunctionRecord(id="f", queue=QUEUE), "g": FunctionRecord(id="g", queue=QUEUE)}
STEPS = ("a", "b", "c")
CHOICES = st.lists(st.integers(0, 0xFFFF), max_size=60)


class World:
    """One parent, the children of its steps, and engines; a message is delivered until one has done all it asks."""

    def __init__(self) -> None:
        self.states: dict[str, RunState] = {}
        self.waits: dict[str, tuple[WaitRecord, int]] = {}
        self.steps: dict[str, StepRecord] = {}
        self.changed: list[str] = []
        self.closed: set[str] = set()
        self.timers: dict[str, WaitRecord] = {}
        self.events: list[EventRecord] = []
        self.inbox: list[tuple[str, Any]] = []
        self.started: list[str] = []
        self._sequence = 10
        first = EventRecord(id="e", name="go", time="", depth=4)
        self._fold(RunStarted(run=PARENT, event=first, function=FUNCTIONS["f"], sequence=1, time_ms=1))

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        which, rest = choice % 8, choice // 8
        match which:
            case 0 if len(self.waits) < len(STEPS):
                self._begin_to_wait(rest)
            case 1 if self.started:
                self._end(self.started[rest % len(self.started)], "completed" if rest % 3 else "failed")
            case 2 if self.timers:
                self.inbox.append(("timer", sorted(self.timers)[rest % len(self.timers)]))
            case 3 if rest % 5 == 0:
                self._end(PARENT, "cancelled" if rest % 2 else "completed")
            case 4 if self.waits and rest % 3 == 0:
                self._close(sorted(self.waits)[rest % len(self.waits)])
            case _:
                self.engine_takes(rest)

    def _begin_to_wait(self, choice: int) -> None:
        step = STEPS[len(self.waits)]
        # Who has to wait for nothing more can still have written this: a worker does not know yet.
        wait = WaitRecord(
            name=step, kind="invoke", token="", function="g", data=msgspec.Raw(b"1"), delay_ms=5 if choice % 2 else None
        )
        self._sequence += 1
        self.waits[step] = wait, self._sequence
        self.inbox.append(("wait", step))

    def _close(self, step: str) -> None:
        if step not in self.closed and self.states[PARENT].status not in TERMINAL:
            self.closed.add(step)
            self.inbox.append(("closed", step))

    def _end(self, run: str, status: Any, *, reason: str = "") -> None:
        """Record the outcome that ends a run, as its worker or a terminator does; the first one stands."""
        state = self.states[run]
        if state.status in TERMINAL or any(kind == "outcome" and what[0] == run for kind, what in self.inbox):
            return
        self._sequence += 1
        number = state.number if state.live else state.number + 1
        record = OutcomeRecord(number=number, status=status, token="", imposed=bool(reason))
        self.inbox.append(("outcome", (run, record, self._sequence)))

    # Engines

    def engine_takes(self, choice: int) -> None:
        """Let an engine take a message, and die half-way or not."""
        if not self.inbox:
            return
        message = self.inbox[choice % len(self.inbox)]
        dies_after = choice % 4 if choice % 7 == 0 else None
        if self._take(*message, dies_after) and message in self.inbox:
            self.inbox.remove(message)

    def _take(self, kind: str, what: Any, dies_after: int | None) -> bool:
        """Do what a message asks; return whether all of it is done."""
        match kind:
            case "wait":
                wait, sequence = self.waits[what]
                fact: Fact = WaitRecorded(
                    run=PARENT, queue=QUEUE, step=what, record=wait, sequence=sequence, time_ms=sequence
                )
            case "closed":
                fact = WaitClosed(run=PARENT, queue=QUEUE, step=what, wait=self.waits[what][0])
            case "outcome":
                run, record, sequence = what
                fact = OutcomeRecorded(run=run, queue=QUEUE, record=record, sequence=sequence, time_ms=sequence)
            case "event":
                return self._start_child(what, dies_after)
            case _:
                return self._time_out(what)
        return self._apply(fact, dies_after)

    def _start_child(self, event: EventRecord, dies_after: int | None) -> bool:
        assert event.parent is not None
        run = run_id(event.target, event.id)
        function = FUNCTIONS[event.target]
        if not self._apply(
            RunStarted(run=run, event=event, function=function, sequence=self._sequence, time_ms=1), dies_after
        ):
            return False
        link = event.parent
        record, closed = self.steps.get(link.step), link.step in self.closed
        if children.is_orphan(self.states[PARENT], link, record, closed=closed):
            self._end(run, "cancelled", reason="orphan")
        return True

    def _time_out(self, step: str) -> bool:
        wait = self.waits[step][0]
        if self.states[PARENT].status not in TERMINAL:
            self._record(step, children.time_out(wait))
            child = children.child_of(PARENT, step, wait)
            if children.has_timed_out(self.steps[step]) and child in self.states:
                self._end(child, "cancelled", reason="time")
        self.timers.pop(step, None)
        return True

    def _record(self, step: str, record: StepRecord) -> None:
        standing = self.steps.setdefault(step, record)
        self._sequence += 1
        if standing is record:
            self._fold(Woken(run=PARENT, queue=QUEUE, sequence=self._sequence))

    def _fold(self, fact: Fact) -> Sequence[object]:
        before = self.states.get(fact.run)
        decision = reducer.decide(before, fact)
        if decision.state is not None:
            self.states[fact.run] = decision.state
            if before is None and fact.run != PARENT:
                self.started.append(fact.run)
        if before is not None and before.status in TERMINAL:
            assert not any(isinstance(each, (StartChild, EndChild)) for each in decision.commands), "C5"
        again = reducer.decide(decision.state, fact)
        about_children = (StartChild, ReportChild, EndChild, EndChildren)
        assert [each for each in again.commands if isinstance(each, about_children)] == [
            each for each in decision.commands if isinstance(each, about_children)
        ], "L1"
        return decision.commands

    def _apply(self, fact: Fact, dies_after: int | None) -> bool:
        for number, command in enumerate(self._fold(fact)):
            if number == dies_after:
                return False
            match command:
                case StartChild():
                    self.inbox.append(("event", command.event))
                case SetTimer() if command.record.wait is not None:
                    self.timers[command.record.step] = command.record.wait
                case ReportChild():
                    self._report(command)
                case EndChild():
                    if command.child in self.states:
                        self._end(command.child, "cancelled", reason="closed")
                case EndChildren():
                    self._end_children()
                case _:
                    pass
        return True

    def _report(self, command: ReportChild) -> None:
        step = command.parent.step
        wait, since = self.waits[step]
        assert children.child_of(PARENT, step, wait) == command.run
        if self.states[PARENT].status not in TERMINAL and step not in self.closed:
            self._record(step, children.result(command, wait, since))

    def _end_children(self) -> None:
        for step, (wait, _) in self.waits.items():
            child = children.child_of(PARENT, step, wait)
            if child in self.states and children.has_no_end(self.steps.get(step)):
                self._end(child, "cancelled", reason="parent")

    # What must hold

    def comes_to_rest(self) -> None:
        """Let everything go its way without trouble, the time-outs last."""
        while self.inbox or self.timers:
            if not self.inbox:
                self.inbox.append(("timer", next(iter(self.timers))))
            message = self.inbox.pop(0)
            assert self._take(*message, None)

    def check(self) -> None:
        """Check what must hold once all has come to rest."""
        parent = self.states[PARENT]
        assert len(self.started) == len(set(self.started)), "C4"
        for step, (wait, _) in self.waits.items():
            child = self.states.get(children.child_of(PARENT, step, wait))
            record = self.steps.get(step)
            if child is None:
                assert parent.status in TERMINAL, "C2"
                continue
            assert child.depth == parent.depth + 1, "C4"
            assert child.parent == ParentLink(run=PARENT, queue=QUEUE, step=step), "C4"
            if parent.status in TERMINAL or step in self.closed or children.has_timed_out(record):
                assert child.status in TERMINAL, "C3"
            elif child.status in TERMINAL:
                assert record is not None, "C2"
                assert (record.status == "completed") == (child.status == "completed"), "C1"
            else:
                assert wait.delay_ms is None, "C2"
                assert record is None, "C1"


def check(choices: Sequence[int]) -> None:
    """Let happen what the choices say, and check all laws."""
    world = World()
    steps: dict[str, StepRecord] = {}
    for choice in choices:
        world.let_happen(choice)
        assert all(world.steps[step] is record for step, record in steps.items()), "C1"
        steps |= world.steps
    world.comes_to_rest()
    world.check()


@given(choices=CHOICES)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_child_runs_keep_their_laws_whatever_happens(choices: list[int]) -> None:
    check(choices)


MISTAKES = {
    "a run does not know that it has children": ("else replace(state, has_children=True)", "else state"),
    "a child is not started again where that may have been lost": (
        "    commands: list[Command] = [\n",
        "    commands: list[Command] = [] if state.has_children else [\n",
    ),
    "the time to wait is not bounded": ("if wait.delay_ms is not None:", "if False:"),
    "children stay when their parent ends": ("if state.has_children else ()", "if False else ()"),
    "the child of a cancelled branch stays": (
        "return Decision(state, (EndChild(run=fact.run, child=child, reason=BRANCH_CANCELLED),))",
        "return Decision(state)",
    ),
    "a parent does not learn of the end": ("    if state.parent is None:\n", "    if True:\n"),
    "a failure is reported as a success": (
        'error=None if state.status == "completed" else _failure(state)',
        "error=None",
    ),
    "a child stands as deep as its parent": ("depth=state.depth + 1", "depth=state.depth"),
    "a child does not know its parent": (
        "        parent=ParentLink(run=state.id, queue=state.queue, step=fact.step),\n",
        '        parent=ParentLink(run=state.id, queue=state.queue, step=""),\n',
    ),
    "a child that starts too late goes on": ("if parent is None or not _goes_on(parent) or", "if parent is None or"),
    "a child goes on that starts after its time": ("or closed or record is not None:", "or closed:"),
    "a child goes on that starts after its branch was cancelled": ("or closed or record", "or record"),
    "a time-out is not known as one": ("error.type == InvokeTimeoutError.__name__\n", 'error.type == ""\n'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = _with_mistake(*MISTAKES[mistake])
    monkeypatch.setattr(reducer, "children", mutant)
    for name in ("is_orphan", "has_timed_out", "has_no_end", "result", "time_out"):
        monkeypatch.setattr(children, name, getattr(mutant, name))

    @given(choices=CHOICES)
    @settings(
        max_examples=5_000,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
        report_multiple_bugs=False,
    )
    def laws(choices: list[int]) -> None:
        check(choices)

    with pytest.raises(Exception):  # noqa: B017, PT011 - a world that is not lawful may not even hold together
        laws()


def _with_mistake(right: str, wrong: str) -> Any:
    source = inspect.getsource(children)
    assert source.count(right) == 1, f"the source no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    return mutant
