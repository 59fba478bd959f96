"""A tiny world around the reducer: two engines, workers, and everything that can come between them.

There is one run of one program. All that the real parts do about it is here, cut down to what decides: who
writes what first, what is delivered again, what is remembered and out of date, and who dies in between. Each
method is one thing that may happen; a law's test lets them happen in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import msgspec

from ironflow.names import RUN_TIMER
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
    TimerRecord,
    TryRecord,
    WaitRecord,
)
from ironflow_engine.facts import (
    Command,
    Decision,
    Dispatch,
    Fact,
    OutcomeRecorded,
    RunStarted,
    SetTimer,
    StopRun,
    TryRecorded,
    WaitRecorded,
    Woken,
)

Decide = Callable[[RunState | None, Fact], Decision]
Fate = Literal["goes well", "dies before it stores", "dies after it stored", "dies half-way", "does not acknowledge"]
Kind = Literal["sleep", "retry"]

FATES: tuple[Fate, ...] = get_args(Fate)
_RARELY = 13
RUN = "run"
QUEUE = "orders"
FUNCTION = FunctionRecord(id="f", queue=QUEUE, timeout_ms=60_000)
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")


class Program(msgspec.Struct, frozen=True):
    """What the run does: groups of waits, one group after the other; the waits of a group overlap.

    Attributes:
        groups: the kinds of the waits of each group.
        ends: how it ends.
        may_be_ended: whether someone may end it from outside.
        undos: how many undos there are, where it fails or is ended from outside; each backs off once.

    """

    groups: tuple[tuple[Kind, ...], ...]
    ends: Literal["completed", "failed"]
    may_be_ended: bool
    undos: int = 0

    def steps(self, group: int) -> list[tuple[str, Kind]]:
        """Return the waits of a group, each with its name."""
        return [(f"{kind}-{group}-{index}", kind) for index, kind in enumerate(self.groups[group])]


class Pass(msgspec.Struct):
    """A pass that a worker executes now: what it knew when it began, and what it has still to record."""

    number: int
    seen: int
    left: list[tuple[str, Callable[[int], Fact | None]]]


class World:
    """Everything.

    Args:
        decide: the reducer.
        program: what the run does.

    Attributes:
        journal: the sequence of each record, by its subject; the first writer of one wins.
        fences: the sequences of those that keep a wait from ever having an end.
        inbox: facts that no engine has acknowledged yet, by the name of what carries them.
        fired: timers that have fired and that no engine has acknowledged yet.
        tasks: the numbers of the tasks in the queue, and whether each may have been there before.
        timers: those that have not fired.
        endings: the passes in whose place someone, who has looked, is about to end the run.
        history: every state that was stored, and the outcomes that were recorded by then.

    """

    def __init__(self, decide: Decide, program: Program) -> None:
        self.decide = decide
        self.program = program
        self.journal: dict[str, int] = {}
        self.outcomes: dict[int, OutcomeRecord] = {}
        self.fences: set[int] = set()
        self.inbox: dict[str, Fact] = {}
        self.fired: dict[str, TimerRecord] = {}
        self.tasks: dict[int, bool] = {}
        self.timers: dict[str, TimerRecord] = {}
        self.passes: list[Pass] = []
        self.endings: list[int] = []
        self.stored: tuple[RunState | None, int] = (None, 0)
        self.remembered: list[tuple[RunState | None, int] | None] = [None, None]
        self.history: list[RunState] = []
        self._delivered: set[int] = set()
        self._sequence = 0
        start = RunStarted(run=RUN, event=EVENT, function=FUNCTION, sequence=1, time_ms=1)
        self.inbox["event"] = start

    @property
    def state(self) -> RunState | None:
        """The run's state as it is stored."""
        return self.stored[0]

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state is not None and self.state.status in TERMINAL

    def last_seen(self) -> int:
        """Return what the newest pass with an outcome had seen."""
        return self.outcomes[max(self.outcomes)].seen if self.outcomes else 0

    def wake_ups(self) -> list[int]:
        """Return the sequences of the records that may wake the run.

        A fence need not. It does where an engine that knows an old state finds it in the place of a wait's end.
        """
        return [sequence for subject, sequence in self.journal.items() if subject.startswith("end.")]

    def ends_of_waits(self) -> list[int]:
        """Return the sequences of the records that end waits, and so must wake the run."""
        return [sequence for sequence in self.wake_ups() if sequence not in self.fences]

    def ended_by(self) -> list[OutcomeRecord]:
        """Return the outcomes that end the run."""
        return [outcome for outcome in self.outcomes.values() if outcome.status in TERMINAL]

    def unwound_by(self) -> list[OutcomeRecord]:
        """Return the outcomes after which the run is unwound."""
        return [outcome for outcome in self.outcomes.values() if outcome.status == "compensating"]

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        messages = [*self.inbox, *self.fired]
        # Two that come together may be folded in either order.
        batches = [*itertools.permutations(messages, 1), *itertools.permutations(messages, 2)]
        # What ends the run leaves nothing more to be tried.
        rarely = self.program.may_be_ended and choice % _RARELY == _RARELY - 1
        kinds: list[list[Callable[[], None]]] = [
            [partial(self.worker_takes, number) for number in self.tasks],
            [partial(self.pass_goes_on, index) for index in range(len(self.passes))],
            [partial(self.pass_finishes, index) for index in range(len(self.passes))],
            [partial(self.pass_dies, index) for index in range(len(self.passes))],
            [partial(self.timer_fires, timer) for timer in self.timers if timer != RUN_TIMER or rarely],
            [partial(self.engine_takes, engine, batch, FATES[0]) for batch in batches for engine in (0, 1)],
            [
                partial(self.engine_takes, engine, batch, fate)
                for batch in batches
                for fate in FATES[1:]
                for engine in (0, 1)
            ],
            [self.terminator_looks] if rarely else [],
            [partial(self.terminator_writes, index) for index in range(len(self.endings))],
        ]
        kinds = [kind for kind in kinds if kind]
        if not kinds:
            return
        which, index = choice % len(kinds), choice // len(kinds)
        kinds[which][index % len(kinds[which])]()

    # The journal

    def append(self, subject: str, fact: Callable[[int], Fact | None]) -> None:
        """Record something, where nothing stands yet."""
        if subject in self.journal:
            return
        self._sequence += 1
        self.journal[subject] = self._sequence
        made = fact(self._sequence)
        if made is not None:
            self.inbox[subject] = made

    # Engines

    def engine_takes(self, engine: int, messages: Sequence[str], fate: Fate) -> None:
        """Let an engine take a batch and do with it as the conductor and the intakes do."""
        facts = [self.inbox[message] for message in messages if message in self.inbox]
        facts += [fact for message in messages if (fact := self._end_wait(engine, message)) is not None]
        if fate == "dies before it stores":
            self.remembered[engine] = None
            return
        commands = self._fold(engine, facts) if facts else []
        if fate == "dies after it stored":
            self.remembered[engine] = None
            return
        self._carry_out(commands[: len(commands) // 2] if fate == "dies half-way" else commands)
        if fate == "goes well":
            for message in messages:
                self.inbox.pop(message, None)
                self.fired.pop(message, None)
        elif fate == "dies half-way":
            self.remembered[engine] = None

    def _end_wait(self, engine: int, message: str) -> Fact | None:
        timer = self.fired.get(message)
        if timer is None:
            return None
        state = (self.remembered[engine] or self.stored)[0]
        if state is None or state.status in TERMINAL:
            return None
        if timer.run_timeout_ms:
            self._end_in_any_case(engine)
            return None
        if timer.wait is not None and state.ending is not None:
            return None
        subject = f"end.{timer.step}"
        self.append(subject, lambda _: None)
        return Woken(run=RUN, queue=QUEUE, sequence=self.journal[subject])

    def _fold(self, engine: int, facts: Sequence[Fact]) -> list[Command]:
        """Fold facts into the stored state by compare-and-set, as the conductor does, and return what to do."""
        version, fresh = self.remembered[engine], False
        if version is None:
            version, fresh = self.stored, True
        while True:
            state, commands = version[0], list[Command]()
            for fact in facts:
                decision = self.decide(state, fact)
                state = decision.state
                commands += decision.commands
            if state is version[0]:
                if fresh or all(isinstance(fact, (WaitRecorded, TryRecorded)) for fact in facts):
                    self.remembered[engine] = version if version[0] is not None else None
                    return commands
            elif version[1] == self.stored[1]:
                assert state is not None
                self.stored = (state, version[1] + 1)
                self.remembered[engine] = self.stored
                self.history.append(state)
                return commands
            version, fresh = self.stored, True

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                self.tasks.setdefault(command.state.number, command.again)
            elif isinstance(command, SetTimer):
                self.timers[command.timer] = command.record
            elif isinstance(command, StopRun) and command.number is not None:
                self.tasks.pop(command.number, None)
            elif isinstance(command, StopRun):
                self.tasks.clear()
                self.timers.clear()

    # Those who end runs from outside

    def terminator_looks(self) -> None:
        """Let someone who wants to end the run look where it stands."""
        state = self.state
        if state is not None and state.status not in TERMINAL and state.ending is None:
            self.endings.append(state.number if state.live else state.number + 1)

    def terminator_writes(self, index: int) -> None:
        """Let someone who has looked end the run; whoever else ended that pass first has won."""
        if self.endings:
            number = self.endings.pop(index)
            status: OutcomeStatus = "compensating" if self.program.undos else "cancelled"
            fact = self._outcome_fact(number, status, seen=0, imposed=True, ending="cancelled")
            self.append(f"outcome.{number}", fact)

    # The server

    def timer_fires(self, timer: str) -> None:
        """Let a timer fire: it is delivered until an engine acknowledges it."""
        self.fired[f"fired {timer}"] = self.timers.pop(timer)

    # Workers

    def worker_takes(self, number: int) -> None:
        """Let a worker take a task, also one that another worker has."""
        again = self.tasks[number] or number in self._delivered
        self._delivered.add(number)
        # A task that is surely new has nothing recorded, and its journal is not read.
        known = dict(self.journal) if again or number else {}
        if any(f"outcome.{later}" in known for later in range(number, number + 10)):
            del self.tasks[number]
            return
        self.passes.append(self._begin(number, known))

    def _begin(self, number: int, known: dict[str, int]) -> Pass:
        seen = max(known.values(), default=0)
        if self.state is not None and self.state.ending is not None and number == self.state.number:
            return self._begin_to_undo(number, seen, known)
        left: list[tuple[str, Callable[[int], Fact | None]]] = []
        status: Literal["suspended", "completed", "failed"] = self.program.ends
        for group in range(len(self.program.groups)):
            # A step of its own before each group: it moves the sequences on and concerns no engine.
            if f"work.{group}" not in known:
                left.append((f"work.{group}", lambda _: None))
            waiting: list[tuple[str, Kind]] = [
                (name, kind) for name, kind in self.program.steps(group) if f"end.{name}" not in known
            ]
            left += [(f"wait.{name}", wait_fact(name, kind)) for name, kind in waiting if f"wait.{name}" not in known]
            if waiting:
                status = "suspended"
                break
        unwinds = status == "failed" and self.program.undos
        outcome = self._outcome_fact(number, "compensating" if unwinds else status, seen)
        left.append((f"outcome.{number}", outcome))
        return Pass(number, seen, left)

    def _begin_to_undo(self, number: int, seen: int, known: dict[str, int]) -> Pass:
        (cause,) = self.unwound_by()
        left: list[tuple[str, Callable[[int], Fact | None]]] = []
        status: OutcomeStatus = cause.ending
        # What is not recorded is fenced: it never gets a result.
        for group in range(len(self.program.groups)):
            left += [(f"end.{name}", self.fences.add) for name, _ in self.program.steps(group)]
        for undo in range(self.program.undos):
            if f"end.undo-{undo}" not in known:
                left.append((f"wait.undo-{undo}", wait_fact(f"undo-{undo}", "undo")))
                status = "suspended"
                break
        left.append((f"outcome.{number}", self._outcome_fact(number, status, seen, compensation="completed")))
        return Pass(number, seen, left)

    def _outcome_fact(
        self,
        number: int,
        status: OutcomeStatus,
        seen: int,
        *,
        imposed: bool = False,
        ending: Ending = "failed",
        compensation: CompensationStatus | None = None,
    ) -> Callable[[int], Fact]:
        status_after = ending if status == "compensating" else status

        def make(sequence: int) -> Fact:
            record = OutcomeRecord(
                number=number,
                status=status,
                token="",
                seen=seen,
                error=ErrorRecord(type="E", message="") if "failed" in (status, status_after) else None,
                imposed=imposed,
                ending=ending,
                compensation=compensation if status in TERMINAL else None,
            )
            self.outcomes[number] = record
            return OutcomeRecorded(run=RUN, queue=QUEUE, record=record, sequence=sequence, time_ms=sequence)

        return make

    def pass_goes_on(self, index: int) -> None:
        """Let a pass record one thing more, or acknowledge its task in the end."""
        each = self.passes[index]
        if each.left:
            self.append(*each.left.pop(0))
        else:
            self.tasks.pop(each.number, None)
            del self.passes[index]

    def pass_finishes(self, index: int) -> None:
        """Let a pass go on to its end."""
        for _ in range(len(self.passes[index].left) + 1):
            self.pass_goes_on(index)

    def pass_dies(self, index: int) -> None:
        """Let the worker of a pass die."""
        del self.passes[index]

    def _end_in_any_case(self, engine: int) -> None:
        """End the run as someone does who folds what was written first, and tries again."""
        while (state := self.state) is not None and state.status not in TERMINAL and state.ending is None:
            self.terminator_looks()
            standing = f"outcome.{self.endings[-1]}"
            if standing not in self.journal:
                self.terminator_writes(-1)
                return
            self.endings.pop()
            assert standing in self.inbox, "L6: an outcome is folded before it is acknowledged"
            self.engine_takes(engine, [standing], "goes well")

    # In the end

    def engines_catch_up(self) -> None:
        """Let everything that was sent be taken in, in order and without trouble."""
        while messages := [*self.inbox, *self.fired]:
            self.engine_takes(0, messages, "goes well")

    def comes_to_rest(self) -> None:
        """Let everything go its way without trouble: tasks, timers, deliveries."""
        for _ in range(200):
            self.engines_catch_up()
            if self.passes:
                self.pass_goes_on(0)
            elif self.tasks:
                self.worker_takes(next(iter(self.tasks)))
            elif self.timers:
                # The run's own timer is due last.
                self.timer_fires(min(self.timers, key=lambda timer: timer == RUN_TIMER))
            else:
                return
        raise AssertionError("L4: it never comes to rest")


def wait_fact(step: str, kind: Kind | Literal["undo"]) -> Callable[[int], Fact]:
    """Return what makes the fact that a step waits, of the sequence at which it is recorded."""

    def make(sequence: int) -> Fact:
        if kind == "sleep":
            wait = WaitRecord(name=step, kind="sleep", token="", delay_ms=1_000)
            return WaitRecorded(run=RUN, queue=QUEUE, step=step, record=wait, sequence=sequence, time_ms=sequence)
        attempt = TryRecord(
            name=step,
            kind="compensate" if kind == "undo" else "run",
            token="",
            attempt=1,
            delay_ms=1_000,
            error=ErrorRecord(type="E", message=""),
        )
        return TryRecorded(run=RUN, queue=QUEUE, step=step, record=attempt, sequence=sequence, time_ms=sequence)

    return make
