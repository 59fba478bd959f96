"""A tiny world around the reducer: two engines, workers, and everything that can come between them.

There is one run of one program. All that the real parts do about it is here, cut down to what decides: who
writes what first, what is delivered again, what is remembered and out of date, who dies in between, and what gets
lost. Each method is one thing that may happen; a law's test lets them happen in any order.

What a step is recorded as is cut down, too. ``wait.<key>`` says that a step waits, or backs off. ``end.<key>`` says
that this is over, and the step is done then. ``work.<key>`` is the result of a step that does not wait.
``fence.<key>`` stands for the failure that keeps a step which backs off from ever having a result; in the place of
the end of a sleep, or of the result of a step, that is a record which *fences* knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

from msgspec.structs import replace

from ironflow.broker.protocol import StoredMessage
from ironflow.names import mark, step_key
from ironflow.records import TERMINAL, CompensationStatus, Ending, OutcomeRecord, OutcomeStatus, RunState, TimerRecord
from ironflow_engine import overdue, remembered, sleeps
from ironflow_engine.facts import (
    Command,
    Decision,
    Dispatch,
    Fact,
    OutcomeRecorded,
    RunRetried,
    RunStarted,
    SetTimer,
    SleepNearsEnd,
    SleptOut,
    StateReviewed,
    StopRun,
    WaitRecorded,
    Woken,
)
from ironflow_engine.read_model import deadline_of
from tests.laws.program import (
    EVENT,
    FUNCTION,
    QUEUE,
    RUN,
    UNDO,
    Pass,
    Program,
    QueuedTask,
    is_open,
    journal_message,
    key_of,
    outcome_fact,
    wait_fact,
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

FATES: tuple[Fate, ...] = get_args(Fate)
MOST_RETRIES = 3
_FOR_EVER = 10**12


class World:
    """Everything.

    Args:
        decide: the reducer.
        program: what the run does.

    Attributes:
        journal: the sequence of each record, by its subject; the first writer of one wins.
        facts: what engines are told of those records.
        fences: the sequences of those that keep a step from ever having a result.
        inbox: facts that no engine has acknowledged yet, by the name of what carries them.
        fired: timers that have fired and that no engine has acknowledged yet.
        early: timers that no engine has handed back yet, which came ahead of their time.
        slept_out: the token of the pass that has recorded the end of a sleep itself, by the sequence of that.
        tasks: the tasks in the queue, by number.
        timers: those that have not fired, each with its epoch in front.
        stops: what engines that are held up have still to take back.
        endings: the passes in whose place someone, who has looked, is about to end the run, as what, and whether
            what it did is to be undone.
        retries: the epochs that someone, who has looked, is about to open.
        reviews: the facts that a reconciler, who has looked, is about to apply again.
        history: every state that was stored.
        decided_late: whether an engine has set a timer by a memory that was out of date, behind the end perhaps.

    """

    def __init__(self, decide: Decide, program: Program) -> None:
        self.decide = decide
        self.program = program
        self.journal: dict[str, int] = {}
        self.facts: dict[str, Fact] = {}
        self.outcomes: dict[int, OutcomeRecord] = {}
        self.fences: set[int] = set()
        self.start = RunStarted(run=RUN, event=EVENT, function=FUNCTION, sequence=1, time_ms=1)
        self.inbox: dict[str, Fact] = {"event": self.start}
        self.fired: dict[str, TimerRecord] = {}
        self.early: dict[str, TimerRecord] = {}
        self.slept_out: dict[int, str] = {}
        self.tasks: dict[int, QueuedTask] = {}
        self.timers: dict[str, TimerRecord] = {}
        self.passes: list[Pass] = []
        self.endings: list[tuple[int, Ending, bool]] = []
        self.retries: list[int] = []
        self.reviews: list[list[Fact]] = []
        self.stops: list[StopRun] = []
        self.stored: tuple[RunState | None, int] = (None, 0)
        self.remembered: list[tuple[RunState | None, int] | None] = [None, None]
        self.history: list[RunState] = []
        self.decided_late = False
        self._delivered: set[int] = set()
        self._sequence = 0
        self._begun = 0

    @property
    def state(self) -> RunState | None:
        """The run's state as it is stored."""
        return self.stored[0]

    def wake_ups(self) -> list[int]:
        """Return the sequences of the records after which the run may go on.

        A fence need not wake it. It does where an engine finds it in the place of the end of a sleep.
        """
        return [sequence for subject, sequence in self.journal.items() if subject.startswith(("end.", "retry."))]

    def sleeps(self) -> list[int]:
        """Return the sequences of the records that a step sleeps."""
        return [sequence for subject, sequence in self.journal.items() if subject.startswith("wait.sleep")]

    def ended_by(self) -> list[OutcomeRecord]:
        """Return the outcomes that end the run, one for each epoch that has ended."""
        return [outcome for _, outcome in sorted(self.outcomes.items()) if outcome.status in TERMINAL]

    def unwound_by(self, end: OutcomeRecord) -> OutcomeRecord | None:
        """Return the outcome after which the run was unwound before it came to an end; None where it was not."""
        since = max((each.number for each in self.ended_by() if each.number < end.number), default=-1)
        between = [self.outcomes[number] for number in range(since + 1, end.number) if number in self.outcomes]
        causes = [outcome for outcome in between if outcome.status == "compensating"]
        return causes[0] if causes else None

    def epochs(self) -> int:
        """Return how many epochs have begun."""
        return 1 + sum(subject.startswith("retry.") for subject in self.journal)

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        # What ends the run, or loses much of it, leaves nothing more to be tried.
        chance = choice // 64
        kinds = [kind for kind in self._possible(ends=chance % 13 == 0, loses=chance % 5 == 0) if kind]
        if kinds:
            which, index = choice % len(kinds), choice // len(kinds)
            kinds[which][index % len(kinds[which])]()

    def _possible(self, *, ends: bool, loses: bool) -> list[list[Callable[[], None]]]:
        ends = ends and self.program.may_be_ended
        loses = loses and self.program.may_lose
        return [
            [partial(self.worker_takes, number) for number in self.tasks],
            [partial(self.worker_takes, number, naps=True) for number in self.tasks],
            [partial(self.pass_goes_on, index) for index in range(len(self.passes))],
            [partial(self.pass_finishes, index) for index in range(len(self.passes))],
            [partial(self.pass_dies, index) for index in range(len(self.passes))],
            [
                partial(self.timer_fires, name)
                for name, timer in self.timers.items()
                if not timer.run_timeout_ms or ends
            ],
            [partial(self.timer_nears, name) for name, timer in self.timers.items() if timer.step.startswith("sleep")],
            *self._engines_may(),
            [partial(self.terminator_looks, ending, undo=undo) for ending in get_args(Ending) for undo in (False, True)]
            if ends
            else [],
            [partial(self.terminator_writes, index) for index in range(len(self.endings))],
            [self.retrier_looks] if self.program.may_be_retried and self.epochs() <= MOST_RETRIES else [],
            [partial(self.retrier_writes, index) for index in range(len(self.retries))],
            [self.stops_go_through] if self.stops else [],
            [self.all_is_lost, *(partial(self.is_lost, name) for name in self._may_be_lost())] if loses else [],
            [partial(self.wake_up_is_lost, name) for name in self.fired] if loses else [],
            [self.reconciler_looks] if self.program.may_lose and not self.reviews else [],
            [partial(self.reconciler_applies, index) for index in range(len(self.reviews))],
        ]

    def _engines_may(self) -> list[list[Callable[[], None]]]:
        messages = [*self.inbox, *self.fired, *self.early]
        # Two that come together may be folded in either order.
        batches = [*itertools.permutations(messages, 1), *itertools.permutations(messages, 2)]
        return [
            [
                partial(self.engine_takes, engine, batch, fate)
                for batch in batches
                for fate in fates
                for engine in (0, 1)
            ]
            for fates in (FATES[:1], FATES[1:])
        ]

    # The journal

    def append(self, subject: str, fact: Callable[[int], Fact | None]) -> None:
        """Record something, where nothing stands yet."""
        if subject in self.journal:
            return
        self._sequence += 1
        self.journal[subject] = self._sequence
        made = fact(self._sequence)
        if isinstance(made, OutcomeRecorded):
            self.outcomes[made.record.number] = made.record
        if made is not None:
            self.inbox[subject] = self.facts[subject] = made

    # Engines

    def engine_takes(self, engine: int, messages: Sequence[str], fate: Fate) -> None:
        """Let an engine take a batch and do with it as the conductor and the intakes do."""
        facts = [self.inbox[message] for message in messages if message in self.inbox]
        facts += [fact for message in messages for fact in self._end_wait(engine, message)]
        facts += [fact for message in messages if (fact := self._near_end(engine, message)) is not None]
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
                self.early.pop(message, None)
        elif fate == "dies half-way":
            self.remembered[engine] = None

    def _end_wait(self, engine: int, message: str) -> list[Fact]:
        timer = self.fired.get(message)
        if timer is None:
            return []
        remembered = self.remembered[engine]
        # What is remembered will do where it says that the run goes on.
        if not (remembered is not None and is_open(remembered[0], timer)) and not is_open(self.state, timer):
            return self._review()
        if timer.run_timeout_ms:
            self._end_in_any_case(engine, timer.epoch)
            return []
        subject = f"end.{timer.step}"
        self.append(subject, lambda _: None)
        sequence = self.journal[subject]
        if sequence in self.slept_out:
            return [SleptOut(run=RUN, queue=QUEUE, by=mark(self.slept_out[sequence]), sequence=sequence)]
        return [Woken(run=RUN, queue=QUEUE, sequence=sequence, sleep=timer.sequence)]

    def _near_end(self, engine: int, message: str) -> Fact | None:
        timer = self.early.get(message)
        version = self.remembered[engine] or self.stored
        if timer is None or version[0] is None:
            return None
        if not sleeps.may_begin_early(version[0]) and not sleeps.is_for(version[0], timer.sequence):
            return None
        return SleepNearsEnd(run=RUN, queue=QUEUE, sequence=timer.sequence)

    def _review(self) -> list[Fact]:
        """Return what becomes of a run that does not wait for a timer, or not any more."""
        if self.state is None or self.state.status in TERMINAL or not self.state.live:
            return []
        return [StateReviewed(run=RUN, queue=QUEUE, number=self.state.number)]

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
                if fresh or remembered.will_do(state, facts):
                    self.decided_late |= version[1] != self.stored[1]
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
                state = command.state
                task = QueuedTask(state.attempt - 1, "compensate" if state.ending else "run", command.again)
                self.tasks.setdefault(state.number, task)
            elif isinstance(command, SetTimer):
                self.timers[f"{command.record.epoch} {command.timer}"] = command.record
            elif isinstance(command, StopRun):
                self._take_back(command)

    def _take_back(self, stop: StopRun) -> None:
        self.tasks.pop(stop.number, None)
        if stop.timers:
            self.timers = {name: timer for name, timer in self.timers.items() if timer.epoch != stop.epoch}

    def stops_go_through(self) -> None:
        """Let engines that were held up take back what they were about to."""
        stops, self.stops = self.stops, []
        self._carry_out(stops)

    # Those who end runs from outside

    def terminator_looks(self, ending: Ending, *, undo: bool) -> None:
        """Let someone who wants to end the run look where it stands."""
        state = self.state
        if state is not None and state.status not in TERMINAL and state.ending is None:
            self.endings.append((state.number if state.live else state.number + 1, ending, undo))

    def terminator_writes(self, index: int) -> None:
        """Let someone who has looked end the run; whoever else ended that pass first has won."""
        if not self.endings:
            return
        number, ending, undo = self.endings.pop(index)
        has_steps = any(subject.startswith("work.") for subject in self.journal)
        status: OutcomeStatus = "compensating" if undo and has_steps else ending
        self.append(f"outcome.{number}", outcome_fact(number, status, imposed=True, ending=ending))

    def _end_in_any_case(self, engine: int, epoch: int) -> None:
        """End an epoch of the run as someone does who folds what was written first, and tries again."""
        for _ in range(100):
            self.terminator_looks("failed", undo=True)
            if not self.endings or self.state is None or self.state.attempt != epoch + 1:
                return
            standing = f"outcome.{self.endings[-1][0]}"
            if standing not in self.journal:
                self.terminator_writes(-1)
                return
            self.endings.pop()
            self._carry_out(self._fold(engine, [self.facts[standing]]))
        raise AssertionError("L6: an outcome stands and nothing comes of it")

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
            waits = [fact for fact in self.facts.values() if isinstance(fact, WaitRecorded)]
            sleeps = tuple(fact for fact in waits if f"end.{fact.step}" not in self.journal)
            return RunRetried(run=RUN, queue=QUEUE, epoch=epoch, sequence=sequence, time_ms=sequence, sleeps=sleeps)

        self.append(f"retry.{epoch}", make)

    # The server

    def timer_fires(self, timer: str) -> None:
        """Let a timer fire: it is delivered until an engine acknowledges it. It may be one that came early before."""
        self.early.pop(f"early {timer}", None)
        self.fired[f"fired {timer}"] = self.timers.pop(timer)

    def timer_nears(self, timer: str) -> None:
        """Let a timer be delivered ahead of its time; an engine hands it back, and it fires all the same."""
        self.early[f"early {timer}"] = self.timers[timer]

    def all_is_lost(self) -> None:
        """Let somebody purge the streams of tasks and timers."""
        self.tasks.clear()
        self.timers.clear()
        self.fired.clear()
        self.early.clear()

    def is_lost(self, message: str) -> None:
        """Let one message get lost that is on its way to the engines."""
        self.fired.pop(message, None)
        self.inbox.pop(message, None)

    def wake_up_is_lost(self, message: str) -> None:
        """Let the end of a wait be recorded, and nobody be told."""
        self._end_wait(0, message)
        self.fired.pop(message, None)

    def _may_be_lost(self) -> list[str]:
        """Return the messages that a run can do without; what starts it, or retries it, comes until it is taken."""
        return [*self.fired, *(name for name in self.inbox if name.startswith(("wait.", "outcome.")))]

    # The reconciler

    def reconciler_looks(self) -> None:
        """Let the reconciler look what is overdue."""
        found = [*self.missed(), *self.overtime()]
        if found:
            self.reviews.append(found)

    def reconciler_applies(self, index: int) -> None:
        """Let the reconciler, who has looked, apply what should have had an effect."""
        self._carry_out(self._fold(0, self.reviews.pop(index)))

    def missed(self) -> list[Fact]:
        """Return what should have had an effect by now, as the reconciler finds it once enough time has passed."""
        state = self.state
        if state is None:
            return []
        found: list[Fact] = []
        if state.due_ms:
            journal = overdue.RunJournal(state)
            journal.read(self._messages())
            found += journal.facts(_FOR_EVER)
        if state.live and state.number not in self.tasks:
            found.append(self._of_live(state))
        return found

    def overtime(self) -> list[Fact]:
        """Return what reminds of the time that a run may take as a whole."""
        if self.state is None or not deadline_of(self.state):
            return []
        return [StateReviewed(run=RUN, queue=QUEUE, number=-1)]

    def _of_live(self, state: RunState) -> Fact:
        outcome = f"outcome.{state.number}"
        if outcome in self.facts:
            return self.facts[outcome]
        if state.number:
            return StateReviewed(run=RUN, queue=QUEUE, number=state.number)
        return replace(self.start, function=None)

    def _messages(self) -> list[StoredMessage]:
        return [
            StoredMessage(
                *journal_message(subject, self.facts.get(subject), self.slept_out.get(sequence)),
                sequence=sequence,
                time_ms=sequence,
            )
            for subject, sequence in self.journal.items()
        ]

    # Workers

    def worker_takes(self, number: int, *, naps: bool = False) -> None:
        """Let a worker take a task, also one that another worker has.

        Args:
            number: the task.
            naps: the worker waits for the ends of sleeps where nothing else is open, and records them itself.

        """
        task = self.tasks[number]
        again = task.again or number in self._delivered
        self._delivered.add(number)
        # A task that is surely new has nothing recorded, and its journal is not read.
        known = dict(self.journal) if again or number else {}
        if any(f"outcome.{later}" in known for later in range(number, number + 10)):
            del self.tasks[number]
            return
        if task.mode == "compensate":
            left = self._begin_to_undo(number, task.epoch, known)
        else:
            left = self._begin(number, task.epoch, known, naps=naps)
        self.passes.append(Pass(number, left))

    def _begin(
        self, number: int, epoch: int, known: dict[str, int], *, naps: bool
    ) -> list[tuple[str, Callable[[int], Fact | None]]]:
        self._begun += 1
        token, only_sleeps = f"pass {self._begun}", False
        left: list[tuple[str, Callable[[int], Fact | None]]] = []
        status: OutcomeStatus = self.program.ends
        for group in range(len(self.program.groups)):
            # A step of its own before each group: it moves the sequences on and concerns no engine.
            work = key_of("work", f"{group}", epoch, known, self.fences)
            if f"work.{work}" not in known:
                left.append((f"work.{work}", lambda _: None))
            waiting = self._open(group, epoch, known)
            left += [(f"wait.{key}", wait_fact(key, kind)) for key, kind in waiting if f"wait.{key}" not in known]
            only_sleeps = all(kind == "sleep" for _, kind in waiting)
            if naps and only_sleeps and all(f"wait.{key}" in known for key, _ in waiting):
                left += [(f"end.{key}", partial(self._sleeps_out, token)) for key, _ in waiting]
            elif waiting:
                status = "suspended"
                break
        if status == "failed" and self.program.undos:
            status = "compensating"
        seen = max(known.values(), default=0)
        outcome = outcome_fact(number, status, seen, token=token, only_sleeps=only_sleeps and status == "suspended")
        return [*left, (f"outcome.{number}", outcome)]

    def _sleeps_out(self, token: str, sequence: int) -> None:
        self.slept_out[sequence] = token

    def _begin_to_undo(
        self, number: int, epoch: int, known: dict[str, int]
    ) -> list[tuple[str, Callable[[int], Fact | None]]]:
        causes = [before for before in range(number) if self.outcomes[before].status == "compensating"]
        assert causes, "L10: what a pass undoes has a cause"
        status: OutcomeStatus = self.outcomes[causes[-1]].ending
        left = self._fences(epoch, known)
        for undo in range(self.program.undos):
            key = step_key(f"{UNDO}-{undo}", epoch)
            if f"end.{key}" not in known:
                left.append((f"wait.{key}", wait_fact(key, UNDO)))
                status = "suspended"
                break
        undone: CompensationStatus | None = "completed" if self.program.undos and status != "suspended" else None
        fact = outcome_fact(number, status, seen=max(known.values(), default=0), compensation=undone)
        left.append((f"outcome.{number}", fact))
        return left

    def _fences(self, epoch: int, known: dict[str, int]) -> list[tuple[str, Callable[[int], Fact | None]]]:
        """Return what keeps all that the replay meets and that has no result from ever having one."""
        for group in range(len(self.program.groups)):
            work = key_of("work", f"{group}", epoch, known, self.fences)
            if f"work.{work}" not in known:
                return [(f"work.{work}", self.fences.add)]
            waiting = self._open(group, epoch, known)
            if waiting:
                prefixes = {"sleep": "end", "retry": "fence"}
                return [(f"{prefixes[kind]}.{key}", self.fences.add) for key, kind in waiting]
        return []

    def _open(self, group: int, epoch: int, known: dict[str, int]) -> list[tuple[str, str]]:
        """Return the keys of the waits of a group that have no end."""
        keys = [(key_of("end", name, epoch, known, self.fences), kind) for name, kind in self.program.steps(group)]
        return [(key, kind) for key, kind in keys if f"end.{key}" not in known]

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

    def engines_catch_up(self) -> None:
        """Let everything that was sent be taken in, in order and without trouble."""
        while messages := [*self.inbox, *self.fired, *self.early]:
            self.engine_takes(0, messages, "goes well")
        self.stops_go_through()

    def what_got_lost_is_found(self) -> None:
        """Let the reconciler make up for all that got lost; what it finds may lead to more."""
        for _ in range(4):
            self.reconciler_looks()
            while self.reviews:
                self.reconciler_applies(0)
            self.engines_catch_up()

    def comes_to_rest(self) -> None:
        """Let everything go its way without trouble: tasks, timers, deliveries, and the reconciler at last."""
        for _ in range(400):
            self.engines_catch_up()
            step_timers = [name for name, timer in self.timers.items() if not timer.run_timeout_ms]
            if self.passes:
                self.pass_goes_on(0)
            elif self.tasks:
                self.worker_takes(next(iter(self.tasks)))
            elif step_timers:
                self.timer_fires(step_timers[0])
            elif self.program.may_lose and (found := self.missed()):
                self._carry_out(self._fold(0, found))
            elif self.timers:
                # The run's own timer is due last.
                self.timer_fires(next(iter(self.timers)))
            else:
                return
        raise AssertionError("L4: it never comes to rest")
