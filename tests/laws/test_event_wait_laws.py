"""The laws of waits for events, for every order of waits, events and time-outs, and engines that die in between.

W1  An event ends at most one wait of the run, and none where it came before the run's trigger, or is that.
W2  What the journal says of a wait is what the run's state says.
W3  No event is lost: once engines have caught up, a wait is open only where no event is left.
W4  Once all time is over, every wait has its end or was closed, and events find none of them any more.
W5  A wait whose branch was cancelled is not open any more. What had ended it before stays.
W6  Once it is known how the run ends, no wait ends any more, and events find none.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironflow.codec import decode_record
from ironflow.names import mark
from ironflow.records import (
    TERMINAL,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    OutcomeStatus,
    RunState,
    StepRecord,
    WaitEntry,
    WaitRecord,
)
from ironflow_engine import event_waits, reducer
from ironflow_engine.facts import (
    AppendStep,
    Decision,
    EventArrived,
    Fact,
    ForgetWait,
    ForgetWaits,
    OutcomeRecorded,
    RegisterWait,
    RunStarted,
    WaitClosed,
    WaitRecorded,
    WaitTimedOut,
)

RUN = "run"
QUEUE = "orders"
TRIGGER = EventRecord(id="e0", name="go", time="")
TRIGGER_SEQUENCE = 2

Decide = Callable[[RunState | None, Fact], Decision]
Message = tuple[Literal["wait", "event", "timer", "closed", "end"], int]
ENDS: tuple[OutcomeStatus, ...] = ("compensating", "cancelled")
TRIES = 30_000
"""Ten times as many as the mistake needs that is hardest to meet."""

CHOICES = st.lists(st.integers(0, 0xFFFF), max_size=60)


class World:
    """One run, its waits, the events, and two engines.

    Args:
        decide: the reducer.

    """

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        function = FunctionRecord(id="f", queue=QUEUE)
        started = decide(
            None, RunStarted(run=RUN, event=TRIGGER, function=function, sequence=TRIGGER_SEQUENCE, time_ms=1)
        ).state
        assert started is not None
        self.state = started
        self.revision = 1
        self.remembered: list[tuple[RunState, int] | None] = [None, None]
        self.journal: dict[str, StepRecord] = {}
        self.waits: list[WaitEntry] = []
        self.closed: set[int] = set()
        self.found: dict[str, WaitEntry] = {}
        self.known_at_end: dict[str, str] | None = None
        # One before the trigger, and the trigger itself.
        self.events = [EventRecord(id="before", name="x", time=""), TRIGGER]
        # Both may be delivered once more, when there are waits already.
        self.inbox: list[Message] = [("event", 0), ("event", 1)]

    def let_happen(self, choice: int) -> None:
        """Let one of the things happen that may happen next."""
        which, rest = choice % 10, choice // 10
        if which == 0:
            self._record_wait()
        elif which == 1:
            # Some are stored twice, the trigger and the one before it among them.
            number = rest % (len(self.events) + 2)
            self._publish(self.events[number].id if number < len(self.events) else f"e{len(self.events)}")
        elif which == 2 and self.waits:
            self._close(rest % len(self.waits))
        elif which == 3 and rest % 16 == 0 and not any(kind == "end" for kind, _ in self.inbox):
            if not self.has_end:
                self.inbox.append(("end", rest // 16 % len(ENDS)))
        elif self.inbox:
            first = self.inbox[rest % len(self.inbox)]
            second = self.inbox[rest // 8 % len(self.inbox)]
            self.engine_takes(rest % 2, list(dict.fromkeys([first, second])), dies_after=rest // 64 % 6)

    def _record_wait(self) -> None:
        number = len(self.waits)
        wait = WaitRecord(name=f"w{number}", kind="wait_for_event", token="", event="x", on_timeout="none", delay_ms=1)
        self.waits.append(
            WaitEntry(run=RUN, queue=QUEUE, step=wait.name, wait=wait, sequence=number + 1, time_ms=number)
        )
        self.inbox.append(("wait", number))
        self.inbox.append(("timer", number))

    def _close(self, number: int) -> None:
        if number not in self.closed:
            self.closed.add(number)
            self.inbox.append(("closed", number))

    @property
    def has_end(self) -> bool:
        """Whether it is known how the run ends."""
        return self.state.status in TERMINAL or self.state.status == "compensating"

    def _publish(self, event_id: str) -> None:
        if event_id != "before":
            self.events.append(EventRecord(id=event_id, name="x", time=""))
            self.inbox.append(("event", len(self.events) - 1))

    # Engines

    def engine_takes(self, engine: int, messages: Sequence[Message], dies_after: int = 1_000) -> None:
        """Let an engine take messages; it may die after so many things that it does, and then they come again."""
        facts = [fact for message in messages for fact in self._facts_of(message)]
        ended: list[str] = []
        while facts:
            commands = self._fold(engine, facts)
            facts = []
            for command in commands:
                dies_after -= 1
                if dies_after < 0:
                    self.remembered[engine] = None
                    return
                match command:
                    case RegisterWait():
                        self.found[command.entry.step] = command.entry
                        facts += self._look_back(command)
                    case AppendStep():
                        self.journal.setdefault(command.step, command.record)
                        ended.append(command.step)
                    case ForgetWait():
                        ended.append(command.step)
                    case ForgetWaits():
                        self.found.clear()
                    case _:
                        pass
        for step in ended:
            self.found.pop(step, None)
        for message in messages:
            self.inbox.remove(message)

    def _facts_of(self, message: Message) -> list[Fact]:
        kind, number = message
        match kind:
            case "wait":
                entry = self.waits[number]
                return [
                    WaitRecorded(
                        run=RUN, queue=QUEUE, step=entry.step, record=entry.wait, sequence=entry.sequence, time_ms=1
                    )
                ]
            case "event":
                entries = sorted(self.found.values(), key=lambda entry: entry.sequence)
                return [self._arrival(entry, number, looked_back=False) for entry in entries]
            case "timer":
                wait = self.waits[number].wait
                record = StepRecord(name=wait.name, kind=wait.kind, token="")
                return [WaitTimedOut(run=RUN, queue=QUEUE, step=wait.name, wait=wait, record=record)]
            case "closed":
                wait = self.waits[number].wait
                return [WaitClosed(run=RUN, queue=QUEUE, step=wait.name, wait=wait)]
            case "end":
                outcome = OutcomeRecord(number=0, status=ENDS[number], token="", imposed=True, ending="cancelled")
                return [OutcomeRecorded(run=RUN, queue=QUEUE, record=outcome, sequence=1_000, time_ms=1)]

    def _arrival(self, entry: WaitEntry, number: int, *, looked_back: bool) -> EventArrived:
        return EventArrived(
            run=RUN,
            queue=QUEUE,
            entry=entry,
            event=self.events[number],
            sequence=number + 1,
            time_ms=1,
            looked_back=looked_back,
        )

    def _look_back(self, wait: RegisterWait) -> list[Fact]:
        for number, event in enumerate(self.events):
            if number + 1 <= wait.after or event.id == wait.trigger:
                continue
            taken = mark(event.id)
            if taken == wait.ended_by if wait.ended_by else taken not in wait.consumed:
                return [self._arrival(wait.entry, number, looked_back=True)]
        return []

    def _fold(self, engine: int, facts: Sequence[Fact]) -> list[object]:
        state, revision = self.remembered[engine] or (self.state, self.revision)
        while True:
            after: RunState | None = state
            commands: list[object] = []
            for fact in facts:
                decision = self._decide(after, fact)
                after = decision.state
                commands += decision.commands
            assert after is not None
            if revision == self.revision:
                if after is not state:
                    self.state, self.revision = after, revision + 1
                    if self.has_end and self.known_at_end is None:
                        self.known_at_end = after.event_waits
                self.remembered[engine] = (self.state, self.revision)
                return commands
            state, revision = self.state, self.revision

    def engines_catch_up(self, *, timers: bool) -> None:
        """Let everything that was sent be taken in, in order and without trouble."""
        while messages := [message for message in self.inbox if timers or message[0] != "timer"]:
            self.engine_takes(0, messages[:2])

    # What must hold

    def ends(self) -> dict[str, str]:
        """Return what ended each wait: the id of an event, or a time-out."""
        return {
            step: event_waits.TIMED_OUT
            if bytes(record.output) == b"null"
            else decode_record(EventRecord, bytes(record.output)).id
            for step, record in self.journal.items()
        }

    def check(self) -> None:
        """Check what must hold once engines have caught up."""
        ends = self.ends()
        taken = [end for end in ends.values() if end != event_waits.TIMED_OUT]
        assert len(taken) == len(set(taken)), "W1"
        assert not {"before", TRIGGER.id} & set(taken), "W1"
        said = {mark(step): end if end == event_waits.TIMED_OUT else mark(end) for step, end in ends.items()}
        known = {step: end for step, end in self.state.event_waits.items() if end != event_waits.OPEN}
        decided = {step: end for step, end in known.items() if end != event_waits.CLOSED}
        assert all(mark(self.waits[number].step) in known for number in self.closed) or self.has_end, "W5"
        if self.known_at_end is not None:
            assert self.state.event_waits == self.known_at_end, "W6"
            assert not self.found, "W6"
            # What was decided and not recorded by then is not recorded any more.
            assert said.items() <= decided.items(), "W2"
            return
        # The timer of a time-out that was not recorded comes again.
        pending = {step for step, end in decided.items() if end == event_waits.TIMED_OUT} - said.keys()
        assert said == {step: end for step, end in decided.items() if step not in pending}, "W2"
        left = {event.id for event in self.events[TRIGGER_SEQUENCE:]} - {TRIGGER.id} - set(taken)
        assert len(known) == len(self.waits) or not left, "W3"


def check(decide: Decide, choices: Sequence[int]) -> None:
    """Let happen what the choices say, and check all laws."""
    world = World(decide)
    for choice in choices:
        world.let_happen(choice)
    world.engines_catch_up(timers=False)
    world.check()
    world.engines_catch_up(timers=True)
    world.check()
    closed = sum(end == event_waits.CLOSED for end in world.state.event_waits.values())
    assert len(world.journal) + closed == len(world.waits) or world.has_end, "W4"
    assert not world.found, "W4"


@given(choices=CHOICES)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_waits_keep_their_laws_whatever_happens(choices: list[int]) -> None:
    check(reducer.decide, choices)


MISTAKES = {
    "one event ends two waits": ("if event in state.event_waits.values():", "if False:"),
    "the event behind one that was taken is not looked for": ("if fact.looked_back else ())", "if False else ())"),
    "an event before the trigger counts": ("fact.sequence > state.event_sequence and", "True and"),
    "the trigger counts when it is stored once more": (" and fact.event.id != state.event_id", ""),
    "an end that was not recorded is forgotten": ("if ended_by == event:", "if False:"),
    "a time-out takes the place of an event": ("if ended_by not in (OPEN, TIMED_OUT):", "if False:"),
    "a time-out is not remembered": ("after = state if ended_by == TIMED_OUT else", "after = state if True else"),
    "a wait is registered once": (
        "return Decision(after, (_registration(after, entry),))",
        "return Decision(after, (_registration(after, entry),) if known is None else ())",
    ),
    "a wait that was closed stays open": ("after = state if known == CLOSED else", "after = state if True else"),
    "closing takes the place of what has ended the wait": (
        "if has_ending(state) or known not in (OPEN, CLOSED):",
        "if has_ending(state):",
    ),
    "a wait that was closed stays where events find it": (
        "return Decision(after, (ForgetWait(run=fact.run, step=fact.step, wait=fact.wait),))",
        "return Decision(after)",
    ),
    "a wait that was closed is registered again": ("if known in (TIMED_OUT, CLOSED):", "if known == TIMED_OUT:"),
    "a run whose end is known takes an event": (
        "has_ending(state) or epochs.is_past(state, entry.step):",
        "epochs.is_past(state, entry.step):",
    ),
    "a wait times out although the run's end is known": (
        "has_ending(state) or epochs.is_past(state, fact.step):",
        "epochs.is_past(state, fact.step):",
    ),
    "a wait is closed although the run's end is known": (
        "if has_ending(state) or known not in (OPEN, CLOSED):",
        "if known not in (OPEN, CLOSED):",
    ),
    "the end of a run that undoes is not known": (
        "return state.status in TERMINAL or state.ending is not None",
        "return state.status in TERMINAL",
    ),
    "the end of a run that was cancelled is not known": (
        "return state.status in TERMINAL or state.ending is not None",
        "return state.ending is not None and state.status not in TERMINAL",
    ),
    "the waits of a run that ends stay where events find them": (
        "if OPEN not in state.event_waits.values() and not state.waits_repeated:",
        "if True:",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = MISTAKES[mistake]
    source = inspect.getsource(event_waits)
    assert source.count(right) == 1, f"the source no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    monkeypatch.setattr(reducer, "event_waits", mutant)

    with pytest.raises(AssertionError):
        check_many(random.Random(7))


def check_many(chance: random.Random) -> None:
    """Check many histories: plain chance meets a mistake sooner than hypothesis, which prefers short and small."""
    for _ in range(TRIES):
        check(reducer.decide, [chance.randrange(0x10000) for _ in range(chance.randrange(5, 61))])
