"""A run that waits for events, its passes, and what can come between them: cut down to what a pass is told.

A pass may know the end of a wait from its task before the journal has it. Engines die, or are held up,
between any two things that they do, workers die at any time, and tasks get lost; then what brings the task back does
not know the end any more. A pass that has recorded a wait may linger for its end, which a hint tells it; hints come
late, to passes that are over, or never.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from ironflow.names import mark
from ironflow.records import (
    NULL,
    TERMINAL,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    RunState,
    WaitEntry,
    WaitRecord,
)
from ironflow_engine.event_waits import MOST_TOLD_BYTES
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
    TellPass,
    WaitRecorded,
    Woken,
)

RUN = "run"
QUEUE = "orders"
TRIGGER = EventRecord(id="e0", name="go", time="")

_LARGE = msgspec.Raw(b'"%s"' % (b"x" * MOST_TOLD_BYTES))

Decide = Callable[[RunState | None, Fact], Decision]


class Task(NamedTuple):
    """A task: the step of the wait whose end it tells; "" where it tells none."""

    end: str


class Pass:
    """A pass.

    Attributes:
        number: which one.
        worker: who executes it.
        knows: the waits whose ends it knows.
        seen: what it has read of the journal.
        told: whether its task told it the end of a wait.
        heard: the waits whose ends hints have told it.
        left: what it has still to record.
        lingers_for: the wait that it stays open for; empty where it does not.

    """

    def __init__(self, number: int, worker: str, knows: frozenset[str], seen: int, *, told: bool) -> None:
        self.number = number
        self.worker = worker
        self.knows = knows
        self.seen = seen
        self.told = told
        self.heard: tuple[str, ...] = ()
        self.left: list[Callable[[], None]] = []
        self.lingers_for = ""


class UnderWay(NamedTuple):
    """What an engine is about to do with some messages.

    Attributes:
        names: of the messages.
        lost: those that are delivered to others, too, since it has held them for too long.
        work: the rest of it.

    """

    names: Sequence[str]
    lost: set[str]
    work: Iterator[None]


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
        self.records: dict[str, Fact] = {}
        self.tasks: dict[int, Task] = {0: Task("")}
        self.passes: list[Pass] = []
        self.hints: list[TellPass] = []
        self.held: dict[int, UnderWay] = {}
        """Engines that are held up in the middle of what they do."""
        self.late: set[int] = set()
        """Engines that go on with what they were held up in for long."""
        self.inbox: dict[str, Fact | EventRecord] = {}
        self.found: dict[str, WaitEntry] = {}
        self.registered: list[set[str]] = [set(), set()]
        """The waits that each engine has registered itself: an event comes to these before others are asked for."""
        self.events: list[EventRecord] = []
        self.knew: frozenset[str] = frozenset()
        """What the pass knew that has recorded the newest outcome."""
        self.outcomes: dict[int, OutcomeRecorded] = {}
        self._sequences = itertools.count(1)
        self._workers = itertools.count(1)

    @property
    def decided(self) -> frozenset[str]:
        """The waits of which the run's state says how they have ended."""
        ended = {step for step, end in self.state.event_waits.items() if end}
        return frozenset(step for step in self._steps() if mark(step) in ended)

    def _steps(self) -> list[str]:
        return [f"w{group}-{number}" for group, size in enumerate(self.groups) for number in range(size)]

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        which, rest = choice % 7, choice // 7
        if which == 0:
            self.publish(large=rest % 8 == 0)
        elif which == 1 and self.tasks:
            self.worker_takes(list(self.tasks)[rest % len(self.tasks)])
        elif which == 2 and self.passes:
            self.pass_goes_on(rest % len(self.passes))
        elif which == 3 and self.passes and rest % 3 == 0:
            del self.passes[rest // 3 % len(self.passes)]
        elif which == 6 and self.hints:
            hint = self.hints.pop(rest % len(self.hints))
            if rest // 8 % 4:  # else it is lost
                self.pass_hears(hint)
        elif which == 4 and self._loses and rest % 3 == 0:
            self.tasks.clear()
        elif which == 4 and self._loses:
            self.reconciler_looks()
        elif self.inbox:
            names = list(self.inbox)
            first, second = names[rest % len(names)], names[rest // 8 % len(names)]
            self.engine_takes(
                rest % 2, list(dict.fromkeys([first, second])), rest // 64 % 7, dies=bool(rest // 448 % 2)
            )

    def publish(self, *, large: bool = False) -> None:
        """Let an event be published that any wait is content with; no pass is told of one that is *large*."""
        event = EventRecord(id=f"e{len(self.events) + 1}", name="x", time="", data=_LARGE if large else NULL)
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
            self.inbox[subject] = self.records[subject] = made
        if isinstance(made, OutcomeRecorded):
            self.outcomes[made.record.number] = made

    # Engines

    def engine_takes(self, engine: int, names: Sequence[str], stops_after: int = 1_000, *, dies: bool = True) -> None:
        """Let an engine take messages, or go on where it was held up.

        Args:
            engine: which one.
            names: of the messages.
            stops_after: how many things it does; by default all.
            dies: it dies then, and the messages come again; otherwise it is held up.

        """
        under_way = self.held.pop(engine, None)
        self.late.discard(engine)
        if under_way is not None and under_way.lost:
            self.late.add(engine)
        if under_way is None:
            for other in self.held.values():
                other.lost.update(name for name in names if name in other.names)
            lost: set[str] = set()
            messages = {name: self.inbox[name] for name in names}
            under_way = UnderWay(names, lost, self._work(engine, messages, lost))
        for _ in range(stops_after):
            if next(under_way.work, under_way) is under_way:
                return
        if dies:
            self.remembered[engine] = None
            self.registered[engine].clear()
        else:
            self.held[engine] = under_way

    def _work(self, engine: int, messages: Mapping[str, Fact | EventRecord], lost: Collection[str]) -> Iterator[None]:
        hasty = [fact for message in messages.values() for fact in self._hasty_facts_of(engine, message)]
        yield from self._apply(engine, hasty)
        yield from self._apply(engine, [fact for message in messages.values() for fact in self._facts_of(message)])
        for name in messages:
            if name not in lost:
                self.inbox.pop(name, None)

    def _apply(self, engine: int, facts: Sequence[Fact]) -> Iterator[None]:
        """Apply facts, and what follows; stop in front of each thing that is done."""
        ended: list[str] = []
        while facts:
            following: list[Fact] = []
            for command in self._fold(engine, facts):
                yield
                following += self._carry_out(engine, command, ended)
            facts = following
            if facts:
                yield
        for step in ended:
            self.found.pop(step, None)
            self.registered[engine].discard(step)

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
                woken = Woken(run=RUN, queue=QUEUE, sequence=self.journal[subject], wait=mark(command.step))
                return [woken] if command.wakes or engine in self.late else []
            case TellPass():
                self.hints.append(command)
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
        seen = max(known.values(), default=0)
        begun = Pass(number, f"worker-{next(self._workers)}", knows, seen, told=bool(task.end))
        self.passes.append(begun)
        self._replay(begun, 0)
        if task.end:  # it sees to it some time, at the latest when it is over
            begun.left.append(partial(self.append, f"end.{task.end}"))

    def _replay(self, each: Pass, first: int) -> None:
        """Have a pass do what the handler does from a group of waits on, as far as it comes by what is known."""
        for group in range(first, len(self.groups)):
            each.left.append(partial(self.append, f"work.{group}"))
            steps = [f"w{group}-{index}" for index in range(self.groups[group])]
            waiting = [step for step in steps if step not in each.knows]
            if waiting:
                worker = each.worker if len(steps) == 1 else ""
                each.left += [partial(self.append, f"wait.{step}", partial(_wait, step, worker)) for step in waiting]
                each.left.append(partial(self._stay, each, waiting[0] if worker else ""))
                return

    def _stay(self, each: Pass, step: str) -> None:
        """Let a pass linger for a wait that it has recorded itself."""
        record = self.records.get(f"wait.{step}")
        if step and isinstance(record, WaitRecorded) and record.record.worker == each.worker:
            each.lingers_for = step

    def pass_hears(self, hint: TellPass) -> None:
        """Let a hint come to its worker: the pass that lingers for it goes on."""
        for each in self.passes:
            if (each.worker, each.number) != (hint.worker, hint.number) or not each.lingers_for:
                continue
            if hint.end is None:
                each.lingers_for = ""
            elif each.lingers_for == hint.end.step:
                step, each.lingers_for = hint.end.step, ""
                each.knows |= {step}
                each.heard += (mark(step),)
                each.left.append(partial(self.append, f"end.{step}"))
                self._replay(each, int(step[1:].split("-")[0]) + 1)

    def _end_pass(self, each: Pass) -> None:
        completed = all(step in each.knows for step in self._steps())
        outcome = OutcomeRecord(
            number=each.number,
            status="completed" if completed else "suspended",
            token="",
            seen=each.seen,
            told=each.told,
            heard=each.heard,
        )

        def made(sequence: int) -> Fact:
            self.knew = each.knows
            return OutcomeRecorded(run=RUN, queue=QUEUE, record=outcome, sequence=sequence, time_ms=1)

        self.append(f"outcome.{outcome.number}", made)

    def pass_goes_on(self, index: int) -> None:
        """Let a pass record one thing more, its outcome in the end, or acknowledge its task.

        One that lingers is tired of it.
        """
        each = self.passes[index]
        each.lingers_for = ""
        if each.left:
            each.left.pop(0)()
        elif f"outcome.{each.number}" not in self.journal:
            self._end_pass(each)
        else:
            self.tasks.pop(each.number, None)
            del self.passes[index]

    def reconciler_looks(self) -> None:
        """Let the reconciler make up for a task that is missing."""
        number = self.state.number
        if not self.state.live or number in self.tasks:
            return
        # It looks so late that engines have lost what they were held up with.
        for under_way in self.held.values():
            under_way.lost.update(under_way.names)
        fact = self.outcomes.get(number) or StateReviewed(run=RUN, queue=QUEUE, number=number)
        if number:
            for command in self._fold(0, [fact]):
                self._carry_out(0, command, [])
        else:
            self.tasks[0] = Task("")

    def take_all(self) -> None:
        """Let engines take all that there is."""
        for engine in tuple(self.held):
            self.engine_takes(engine, [])
        while self.inbox:
            self.engine_takes(0, [next(iter(self.inbox))])

    def comes_to_rest(self, *, but: str = "") -> None:
        """Let everything go its way; where *but* names a message, that and who has it stay as they are."""
        for _ in range(300):
            ready = [name for name in self.inbox if name != but]
            if self.held and not but:
                self.engine_takes(next(iter(self.held)), [])
            elif ready:
                self.engine_takes(1 if but else 0, ready[:1])
            elif self.passes:
                self.pass_goes_on(0)
            elif self.tasks:
                self.worker_takes(next(iter(self.tasks)))
            elif self.state.live and self._loses:
                self.reconciler_looks()
            else:
                return
        raise AssertionError("T1: it never comes to rest")

    def lingers(self) -> None:
        """Let the only pass go on until it lingers, and engines take what it has recorded."""
        while not self.passes[0].lingers_for:
            self.pass_goes_on(0)
        self.take_all()

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended."""
        return self.state.status in TERMINAL


def _wait(step: str, worker: str, sequence: int) -> Fact:
    record = WaitRecord(name=step, kind="wait_for_event", token="", event="x", on_timeout="none", worker=worker)
    return WaitRecorded(run=RUN, queue=QUEUE, step=step, record=record, sequence=sequence, time_ms=1)
