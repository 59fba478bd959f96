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

from ironflow.names import step_key
from ironflow.records import (
    TERMINAL,
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
    RunRetried,
    RunStarted,
    SetTimer,
    StopRun,
    TryRecorded,
    WaitRecorded,
    Woken,
)

Decide = Callable[[RunState | None, Fact], Decision]
Fate = Literal[
    "goes well",
    "dies before it stores",
    "dies after it stored",
    "dies half-way",
    "does not acknowledge",
    "takes back late",
]
Ending = Literal["cancelled", "failed"]
Kind = Literal["sleep", "retry"]

FATES: tuple[Fate, ...] = get_args(Fate)
_RARELY = 13
MOST_RETRIES = 3
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
        may_be_retried: whether someone may retry it once it has failed.

    """

    groups: tuple[tuple[Kind, ...], ...]
    ends: Literal["completed", "failed"]
    may_be_ended: bool
    may_be_retried: bool = False

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
        inbox: facts that no engine has acknowledged yet, by the name of what carries them.
        fired: timers that have fired and that no engine has acknowledged yet.
        tasks: the tasks in the queue: of which epoch, and whether each may have been there before.
        timers: those that have not fired, each with its epoch in front.
        stops: what engines that are held up have still to take back.
        endings: the passes in whose place someone, who has looked, is about to end the run, and as what.
        retries: the epochs that someone, who has looked, is about to open.
        history: every state that was stored, and the outcomes that were recorded by then.

    """

    def __init__(self, decide: Decide, program: Program) -> None:
        self.decide = decide
        self.program = program
        self.journal: dict[str, int] = {}
        self.outcomes: dict[int, OutcomeRecord] = {}
        self.inbox: dict[str, Fact] = {}
        self.fired: dict[str, TimerRecord] = {}
        self.tasks: dict[int, tuple[int, bool]] = {}
        self.timers: dict[str, TimerRecord] = {}
        self.passes: list[Pass] = []
        self.endings: list[tuple[int, Ending]] = []
        self.retries: list[int] = []
        self.stops: list[StopRun] = []
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
        """Return the sequences of the records after which the run is to go on."""
        return [sequence for subject, sequence in self.journal.items() if subject.startswith(("end.", "retry."))]

    def ended_by(self) -> list[OutcomeRecord]:
        """Return the outcomes that end the run, one for each epoch that has ended."""
        return [outcome for _, outcome in sorted(self.outcomes.items()) if outcome.status in TERMINAL]

    def epochs(self) -> int:
        """Return how many epochs have begun."""
        return 1 + sum(subject.startswith("retry.") for subject in self.journal)

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
            [
                partial(self.timer_fires, name)
                for name, timer in self.timers.items()
                if not timer.run_timeout_ms or rarely
            ],
            [partial(self.engine_takes, engine, batch, FATES[0]) for batch in batches for engine in (0, 1)],
            [
                partial(self.engine_takes, engine, batch, fate)
                for batch in batches
                for fate in FATES[1:]
                for engine in (0, 1)
            ],
            [partial(self.terminator_looks, ending) for ending in get_args(Ending)] if rarely else [],
            [partial(self.terminator_writes, index) for index in range(len(self.endings))],
            [self.retrier_looks] if self.program.may_be_retried and self.epochs() <= MOST_RETRIES else [],
            [partial(self.retrier_writes, index) for index in range(len(self.retries))],
            [self.stops_go_through] if self.stops else [],
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
        if fate == "takes back late":
            self.stops += [command for command in commands if isinstance(command, StopRun)]
            commands = [command for command in commands if not isinstance(command, StopRun)]
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
        if state is not None and state.status in TERMINAL:
            state = self.state
        if state is None or state.status in TERMINAL:
            return None
        if timer.run_timeout_ms:
            self._end_in_any_case(engine, timer.epoch)
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
                goes_on = state is not None and state.status not in TERMINAL
                if fresh or (goes_on and all(isinstance(fact, (WaitRecorded, TryRecorded)) for fact in facts)):
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
                self.tasks.setdefault(command.state.number, (command.state.attempt - 1, command.again))
            elif isinstance(command, SetTimer):
                self.timers[f"{command.record.epoch} {command.timer}"] = command.record
            elif isinstance(command, StopRun):
                self.tasks.pop(command.number, None)
                of_epoch = [name for name, timer in self.timers.items() if timer.epoch == command.epoch]
                for name in of_epoch:
                    del self.timers[name]

    def stops_go_through(self) -> None:
        """Let engines that were held up take back what they were about to."""
        stops, self.stops = self.stops, []
        self._carry_out(stops)

    # Those who end runs from outside

    def terminator_looks(self, ending: Ending) -> None:
        """Let someone who wants to end the run look where it stands."""
        state = self.state
        if state is not None and state.status not in TERMINAL:
            self.endings.append((state.number if state.live else state.number + 1, ending))

    def terminator_writes(self, index: int) -> None:
        """Let someone who has looked end the run; whoever else ended that pass first has won."""
        if self.endings:
            number, ending = self.endings.pop(index)
            self.append(f"outcome.{number}", self._outcome_fact(number, ending, seen=0, imposed=True))

    # Those who retry the run

    def retrier_looks(self) -> None:
        """Let someone who wants to retry the run look whether it has failed."""
        if self.state is not None and self.state.status == "failed":
            self.retries.append(self.state.attempt)

    def retrier_writes(self, index: int) -> None:
        """Let someone who has looked retry the run; whoever else opened that epoch first has won."""
        if not self.retries:
            return
        epoch = self.retries.pop(index)

        def make(sequence: int) -> Fact:
            sleeps = [
                wait_fact(name, "sleep")(self.journal[f"wait.{name}"])
                for group in range(len(self.program.groups))
                for name, kind in self.program.steps(group)
                if kind == "sleep" and f"wait.{name}" in self.journal and f"end.{name}" not in self.journal
            ]
            return RunRetried(
                run=RUN,
                queue=QUEUE,
                epoch=epoch,
                sequence=sequence,
                time_ms=sequence,
                sleeps=tuple(sleep for sleep in sleeps if isinstance(sleep, WaitRecorded)),
            )

        self.append(f"retry.{epoch}", make)

    # The server

    def timer_fires(self, timer: str) -> None:
        """Let a timer fire: it is delivered until an engine acknowledges it."""
        self.fired[f"fired {timer}"] = self.timers.pop(timer)

    # Workers

    def worker_takes(self, number: int) -> None:
        """Let a worker take a task, also one that another worker has."""
        epoch, sent_again = self.tasks[number]
        again = sent_again or number in self._delivered
        self._delivered.add(number)
        # A task that is surely new has nothing recorded, and its journal is not read.
        known = dict(self.journal) if again or number else {}
        if any(f"outcome.{later}" in known for later in range(number, number + 10)):
            del self.tasks[number]
            return
        self.passes.append(self._begin(number, epoch, known))

    def _begin(self, number: int, epoch: int, known: dict[str, int]) -> Pass:
        seen = max(known.values(), default=0)
        left: list[tuple[str, Callable[[int], Fact | None]]] = []
        status: Literal["suspended", "completed", "failed"] = self.program.ends
        for group in range(len(self.program.groups)):
            # A step of its own before each group: it moves the sequences on and concerns no engine.
            if f"work.{group}" not in known:
                left.append((f"work.{group}", lambda _: None))
            steps: list[tuple[str, Kind]] = [
                (_key(name, kind, epoch, known), kind) for name, kind in self.program.steps(group)
            ]
            waiting: list[tuple[str, Kind]] = [(name, kind) for name, kind in steps if f"end.{name}" not in known]
            left += [(f"wait.{name}", wait_fact(name, kind)) for name, kind in waiting if f"wait.{name}" not in known]
            if waiting:
                status = "suspended"
                break
        left.append((f"outcome.{number}", self._outcome_fact(number, status, seen)))
        return Pass(number, seen, left)

    def _outcome_fact(
        self, number: int, status: OutcomeStatus, seen: int, *, imposed: bool = False
    ) -> Callable[[int], Fact]:
        def make(sequence: int) -> Fact:
            error = ErrorRecord(type="E", message="") if status == "failed" else None
            record = OutcomeRecord(number=number, status=status, token="", seen=seen, error=error, imposed=imposed)
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

    def _end_in_any_case(self, engine: int, epoch: int) -> None:
        """End an epoch of the run as someone does who folds what was written first, and tries again."""
        while (state := self.state) is not None and state.status not in TERMINAL and state.attempt == epoch + 1:
            self.terminator_looks("failed")
            standing = f"outcome.{self.endings[-1][0]}"
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
        self.stops_go_through()

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
                self.timer_fires(min(self.timers, key=lambda name: bool(self.timers[name].run_timeout_ms)))
            else:
                return
        raise AssertionError("it never comes to rest")


def _key(name: str, kind: Kind, epoch: int, known: dict[str, int]) -> str:
    """Return under which key a step is done in an epoch: what was open is begun anew, but for sleeps."""
    keys = [step_key(name, earlier) for earlier in range(epoch)]
    stands = [key for key in keys if f"end.{key}" in known or (kind == "sleep" and f"wait.{key}" in known)]
    return stands[0] if stands else step_key(name, epoch)


def wait_fact(step: str, kind: Kind) -> Callable[[int], Fact]:
    """Return what makes the fact that a step waits, of the sequence at which it is recorded."""

    def make(sequence: int) -> Fact:
        if kind == "sleep":
            wait = WaitRecord(name=step, kind="sleep", token="", delay_ms=1_000)
            return WaitRecorded(run=RUN, queue=QUEUE, step=step, record=wait, sequence=sequence, time_ms=sequence)
        attempt = TryRecord(
            name=step, kind="run", token="", attempt=1, delay_ms=1_000, error=ErrorRecord(type="E", message="")
        )
        return TryRecorded(run=RUN, queue=QUEUE, step=step, record=attempt, sequence=sequence, time_ms=sequence)

    return make
