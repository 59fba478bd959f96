"""A run that waits for events, its passes, and what can come between them: cut down to what a pass is told.

A pass may know the end of a wait from its task before the journal has it. Engines die between any two things that they
do, workers at any time, and tasks get lost; then what brings the task back does not know the end any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ironflow.names import mark
from ironflow.records import (
    TERMINAL,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    RunState,
    WaitEntry,
    WaitRecord,
)
from ironflow_engine.facts import (
    AppendStep,
    Command,
    Decision,
    Dispatch,
    EventArrived,
    Fact,
    ForgetWait,
    OutcomeRecorded,
    RegisterWait,
    RunStarted,
    StateReviewed,
    WaitRecorded,
    Woken,
)

RUN = "run"
QUEUE = "orders"
TRIGGER = EventRecord(id="e0", name="go", time="")

Decide = Callable[[RunState | None, Fact], Decision]


class Task(NamedTuple):
    """A task: the step of the wait whose end it tells; "" where it tells none."""

    end: str


class Pass(NamedTuple):
    """A pass: what it knows the end of, and what it has still to record."""

    number: int
    knows: frozenset[str]
    left: list[Callable[[], None]]


class World:
    """One run, its waits, its events, its passes, and two engines.

    Args:
        decide: the reducer.
        groups: how many waits the run has open at a time, one number for each time.
        loses: whether tasks get lost; a reconciler brings them back.

    """

    def __init__(self, decide: Decide, groups: Sequence[int], *, loses: bool) -> None:
        self._decide = decide
        self.groups = groups
        self._loses = loses
        function = FunctionRecord(id="f", queue=QUEUE)
        start = decide(None, RunStarted(run=RUN, event=TRIGGER, function=function, sequence=1, time_ms=1)).state
        assert start is not None
        self.state = start
        self.revision = 1
        self.remembered: list[tuple[RunState, int] | None] = [None, None]
        self.journal: dict[str, int] = {}
        self.tasks: dict[int, Task] = {0: Task("")}
        self.passes: list[Pass] = []
        self.inbox: dict[str, Fact | EventRecord] = {}
        self.found: dict[str, WaitEntry] = {}
        self.registered: list[set[str]] = [set(), set()]
        """The waits that each engine has registered itself: an event comes to these before others are asked for."""
        self.events: list[EventRecord] = []
        self.knew: frozenset[str] = frozenset()
        """What the pass knew that has recorded the newest outcome."""
        self.outcomes: dict[int, OutcomeRecorded] = {}
        self._sequences = itertools.count(1)

    @property
    def decided(self) -> frozenset[str]:
        """The waits of which the run's state says how they have ended."""
        ended = {step for step, end in self.state.event_waits.items() if end}
        return frozenset(step for step in self._steps() if mark(step) in ended)

    def _steps(self) -> list[str]:
        return [f"w{group}-{number}" for group, size in enumerate(self.groups) for number in range(size)]

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        which, rest = choice % 6, choice // 6
        if which == 0:
            self.publish()
        elif which == 1 and self.tasks:
            self.worker_takes(list(self.tasks)[rest % len(self.tasks)])
        elif which == 2 and self.passes:
            self.pass_goes_on(rest % len(self.passes))
        elif which == 3 and self.passes and rest % 3 == 0:
            del self.passes[rest // 3 % len(self.passes)]
        elif which == 4 and self._loses and rest % 3 == 0:
            self.tasks.clear()
        elif which == 4 and self._loses:
            self.reconciler_looks()
        elif self.inbox:
            names = list(self.inbox)
            first, second = names[rest % len(names)], names[rest // 8 % len(names)]
            self.engine_takes(rest % 2, list(dict.fromkeys([first, second])), dies_after=rest // 64 % 7)

    def publish(self) -> None:
        """Let an event be published that any wait is content with."""
        event = EventRecord(id=f"e{len(self.events) + 1}", name="x", time="")
        self.events.append(event)
        self.inbox[event.id] = event

    # The journal

    def append(self, subject: str, fact: Callable[[int], Fact | None] = lambda _: None) -> None:
        """Record something, where nothing stands yet."""
        if subject in self.journal:
            return
        sequence = self.journal[subject] = next(self._sequences)
        made = fact(sequence)
        if made is not None:
            self.inbox[subject] = made
        if isinstance(made, OutcomeRecorded):
            self.outcomes[made.record.number] = made

    # Engines

    def engine_takes(self, engine: int, messages: Sequence[str], dies_after: int = 1_000) -> None:
        """Let an engine take messages; it may die after so many things that it does, and then they come again."""
        hasty = [fact for message in messages for fact in self._hasty_facts_of(engine, self.inbox[message])]
        dies_after = self._apply(engine, hasty, dies_after)
        facts = [fact for message in messages for fact in self._facts_of(self.inbox[message])]
        if self._apply(engine, facts, dies_after) < 0:
            return
        for message in messages:
            self.inbox.pop(message)

    def _apply(self, engine: int, facts: Sequence[Fact], dies_after: int) -> int:
        """Apply facts, and what follows; return after how many things more the engine dies, less than 0 if it has."""
        ended: list[str] = []
        while facts and dies_after >= 0:
            commands = self._fold(engine, facts)
            following: list[Fact] = []
            for command in commands:
                dies_after -= 1
                if dies_after < 0:
                    self.remembered[engine] = None
                    self.registered[engine].clear()
                    return dies_after
                following += self._carry_out(engine, command, ended)
            facts = following
        for step in ended:
            self.found.pop(step, None)
            self.registered[engine].discard(step)
        return dies_after

    def _hasty_facts_of(self, engine: int, message: Fact | EventRecord) -> list[Fact]:
        if not isinstance(message, EventRecord):
            return []
        known = [entry for entry in self.found.values() if entry.step in self.registered[engine]]
        return [self._arrival(entry, message, hasty=True) for entry in known]

    def _facts_of(self, message: Fact | EventRecord) -> list[Fact]:
        if not isinstance(message, EventRecord):
            return [message]
        entries = sorted(self.found.values(), key=lambda entry: entry.sequence)
        return [self._arrival(entry, message) for entry in entries]

    def _arrival(
        self, entry: WaitEntry, event: EventRecord, *, looked_back: bool = False, hasty: bool = False
    ) -> EventArrived:
        return EventArrived(
            run=RUN,
            queue=QUEUE,
            entry=entry,
            event=event,
            sequence=self.events.index(event) + 2,
            time_ms=1,
            looked_back=looked_back,
            hasty=hasty,
        )

    def _carry_out(self, engine: int, command: Command, ended: list[str]) -> list[Fact]:
        match command:
            case Dispatch(state=state, end=end):
                if not (command.again and state.number in self.outcomes):
                    self.tasks.setdefault(state.number, Task(end.step if end is not None else ""))
            case RegisterWait():
                self.found[command.entry.step] = command.entry
                self.registered[engine].add(command.entry.step)
                return self._look_back(command)
            case AppendStep():
                subject = f"end.{command.step}"
                self.append(subject)
                ended.append(command.step)
                return [Woken(run=RUN, queue=QUEUE, sequence=self.journal[subject])] if command.wakes else []
            case ForgetWait():
                ended.append(command.step)
            case _:
                pass
        return []

    def _look_back(self, wait: RegisterWait) -> list[Fact]:
        for event in self.events:
            taken = mark(event.id)
            if taken == wait.ended_by if wait.ended_by else taken not in wait.consumed:
                return [self._arrival(wait.entry, event, looked_back=True)]
        return []

    def _fold(self, engine: int, facts: Sequence[Fact]) -> list[Command]:
        version, fresh = self.remembered[engine], False
        if version is None:
            version, fresh = (self.state, self.revision), True
        while True:
            after: RunState | None = version[0]
            commands: list[Command] = []
            for fact in facts:
                decision = self._decide(after, fact)
                self._check_order(after, fact, decision)
                after = decision.state
                commands += decision.commands
            assert after is not None
            if after is version[0]:
                if fresh:
                    return commands
            elif version[1] == self.revision:
                self._check_numbers(after)
                self.state, self.revision = after, self.revision + 1
                self.remembered[engine] = (self.state, self.revision)
                return commands
            version, fresh = (self.state, self.revision), True

    def _check_order(self, before: RunState | None, fact: Fact, decision: Decision) -> None:
        if not isinstance(fact, EventArrived) or fact.looked_back or before is None or decision.state is before:
            return
        earlier = [entry for entry in self.found.values() if entry.sequence < fact.entry.sequence]
        assert not any(before.event_waits.get(mark(entry.step)) == "" for entry in earlier), "T4"

    def _check_numbers(self, after: RunState) -> None:
        for number in range(self.state.number, after.number):
            assert number in self.outcomes, "T2"

    # Workers and the reconciler

    def worker_takes(self, number: int) -> None:
        """Let a worker take a task, also one that another worker has."""
        task = self.tasks[number]
        known = dict(self.journal)
        if any(f"outcome.{later}" in known for later in range(number, number + 10)):
            del self.tasks[number]
            return
        knows = frozenset(step for step in self._steps() if f"end.{step}" in known or step == task.end)
        left: list[Callable[[], None]] = []
        # It sees to it some time, at the latest when it is over.
        record_end = [partial(self.append, f"end.{task.end}")] if task.end else []
        suspends = False
        for group, size in enumerate(self.groups):
            left.append(partial(self.append, f"work.{group}"))
            waiting = [step for step in (f"w{group}-{index}" for index in range(size)) if step not in knows]
            left += [partial(self.append, f"wait.{step}", partial(_wait, step)) for step in waiting]
            if waiting:
                suspends = True
                break
        outcome = OutcomeRecord(
            number=number,
            status="suspended" if suspends else "completed",
            token="",
            seen=max(known.values(), default=0),
            told=bool(task.end),
        )
        left += [*record_end, partial(self._end_pass, outcome, knows)]
        self.passes.append(Pass(number, knows, left))

    def _end_pass(self, outcome: OutcomeRecord, knows: frozenset[str]) -> None:
        def made(sequence: int) -> Fact:
            self.knew = knows
            return OutcomeRecorded(run=RUN, queue=QUEUE, record=outcome, sequence=sequence, time_ms=1)

        self.append(f"outcome.{outcome.number}", made)

    def pass_goes_on(self, index: int) -> None:
        """Let a pass record one thing more, or acknowledge its task in the end."""
        each = self.passes[index]
        if each.left:
            each.left.pop(0)()
        else:
            self.tasks.pop(each.number, None)
            del self.passes[index]

    def reconciler_looks(self) -> None:
        """Let the reconciler make up for a task that is missing."""
        number = self.state.number
        if not self.state.live or number in self.tasks:
            return
        fact = self.outcomes.get(number) or StateReviewed(run=RUN, queue=QUEUE, number=number)
        if number:
            for command in self._fold(0, [fact]):
                self._carry_out(0, command, [])
        else:
            self.tasks[0] = Task("")

    def comes_to_rest(self) -> None:
        """Let everything go its way without trouble."""
        for _ in range(300):
            if self.inbox:
                self.engine_takes(0, [next(iter(self.inbox))])
            elif self.passes:
                self.pass_goes_on(0)
            elif self.tasks:
                self.worker_takes(next(iter(self.tasks)))
            elif self.state.live and self._loses:
                self.reconciler_looks()
            else:
                return
        raise AssertionError("T1: it never comes to rest")

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended."""
        return self.state.status in TERMINAL


def _wait(step: str, sequence: int) -> Fact:
    record = WaitRecord(name=step, kind="wait_for_event", token="", event="x", on_timeout="none")
    return WaitRecorded(run=RUN, queue=QUEUE, step=step, record=record, sequence=sequence, time_ms=1)
