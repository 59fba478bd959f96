"""The laws of the reducer, for every program and every order of what can happen to it.

L1  A fact that was folded changes nothing more, and yields its commands again while they may have been lost.
L2  A state that has ended never changes, but for a run that has failed and is retried.
L3  The number of the pass grows by one at a time, and only when the pass before it has its outcome; no task is
    ever in the queue for a pass that the run has not come to.
L4  No wake-up is lost. When engines have caught up, the run has ended; or it waits, and its last pass has seen
    all that has woken it; or its task is in the queue. And left alone, it ends as its program does.
L5  No pass is dispatched for nothing: something that the pass before had not seen has woken the run.
L6  A run ends once in each epoch: the journal has one outcome that ends it, and that of the newest is its state;
    the task of a pass in whose place it was ended from outside is not left in the queue.
L7  A run that goes on has its own timer set, that of its epoch.
L8  Each retry that is recorded opens one epoch, and its number is that of the retry.
L9  In a run that goes on, each wait that has no end has its timer set; what an earlier epoch left open is no wait
    any more, but for sleeps.

Each case is a program and a list of numbers, each of which picks one of the things that may happen next.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironflow.names import parse_step_key, run_timer
from ironflow.records import TERMINAL, OutcomeRecord, OutcomeStatus, RunState
from ironflow_engine import epochs, reducer, retries, timers
from ironflow_engine.facts import (
    AnnounceEnd,
    Decision,
    Dispatch,
    Fact,
    OutcomeRecorded,
    RunRetried,
    StopRun,
    TryRecorded,
    Woken,
)
from tests.laws.world import QUEUE, RUN, Decide, Kind, Program, World, wait_fact

KINDS = st.sampled_from(get_args(Kind))
PROGRAMS = st.builds(
    Program,
    st.lists(st.lists(KINDS, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
    st.sampled_from(["completed", "failed"]),
    st.booleans(),
    st.booleans(),
)
LATE_FACTS: tuple[Fact, ...] = (
    Woken(run=RUN, queue=QUEUE, sequence=1_000_000),
    wait_fact("late", "sleep")(1_000_000),
    wait_fact("late", "retry")(1_000_000),
    *(RunRetried(run=RUN, queue=QUEUE, epoch=epoch, sequence=1_000_000, time_ms=1) for epoch in range(6)),
    *(
        OutcomeRecorded(
            run=RUN,
            queue=QUEUE,
            record=OutcomeRecord(number=number, status=status, token=""),
            sequence=1_000_000 + number,
            time_ms=1_000_000,
        )
        for number in range(3)
        for status in get_args(OutcomeStatus)
    ),
)
CHOICES = st.lists(st.integers(0, 0xFFFF), max_size=80)


class LawfulReducer:
    """Decides as the reducer does, and checks what must hold of each decision by itself.

    Args:
        decide: the reducer.

    """

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self.world: World | None = None

    def decide(self, state: RunState | None, fact: Fact) -> Decision:
        decision = self._decide(state, fact)
        self._l1_twice_is_once(decision, fact)
        self._l2_the_end_is_the_end(state, decision, fact)
        self._l5_nothing_for_nothing(state, decision)
        self._l9_the_past_needs_no_timer(state, decision, fact)
        return decision

    def _l1_twice_is_once(self, first: Decision, fact: Fact) -> None:
        second = self._decide(first.state, fact)
        assert second.state is first.state, "L1"
        assert [_essence(command) for command in second.commands] == [_essence(each) for each in first.commands], "L1"
        assert all(command.again for command in second.commands if isinstance(command, Dispatch)), "L1"

    def _l2_the_end_is_the_end(self, state: RunState | None, decision: Decision, fact: Fact) -> None:
        if state is not None and state.status in TERMINAL:
            if _opens_an_epoch(state, fact):
                return
            self._l2_nothing_comes_of(state, decision)
            # Also nothing that cannot come, or not any more.
            for late in LATE_FACTS:
                if not _opens_an_epoch(state, late):
                    self._l2_nothing_comes_of(state, self._decide(state, late))

    def _l2_nothing_comes_of(self, state: RunState, decision: Decision) -> None:
        assert decision.state is state, "L2"
        assert all(isinstance(command, (AnnounceEnd, StopRun)) for command in decision.commands), "L2"

    def _l9_the_past_needs_no_timer(self, state: RunState | None, decision: Decision, fact: Fact) -> None:
        past = state is not None and isinstance(fact, TryRecorded) and parse_step_key(fact.step)[1] < state.attempt - 1
        assert not (past and decision.commands), "L9"

    def _l5_nothing_for_nothing(self, state: RunState | None, decision: Decision) -> None:
        assert self.world is not None
        if state is None or decision.state is None or decision.state.number == state.number:
            return
        if not decision.state.live:  # it was ended from outside, in place of the pass
            return
        before = self.world.outcomes.get(state.number)
        assert before is not None, "L3"
        assert any(sequence > before.seen for sequence in self.world.wake_ups()), "L5"


def _opens_an_epoch(state: RunState, fact: Fact) -> bool:
    return isinstance(fact, RunRetried) and state.status == "failed" and fact.epoch == state.attempt


def cases(
    seed: int,
    count: int,
    may_be_ended: Sequence[bool] = (False, True),
    may_be_retried: Sequence[bool] = (False, True),
) -> Iterator[tuple[Program, list[int]]]:
    """Return cases that are evenly spread; hypothesis prefers small ones, and little goes wrong in those."""
    chance = random.Random(seed)
    for _ in range(count):
        groups = [
            [chance.choice(get_args(Kind)) for _ in range(chance.randint(1, 4))] for _ in range(chance.randint(0, 3))
        ]
        program = Program(
            tuple(map(tuple, groups)),
            chance.choice(["completed", "failed"]),
            chance.choice(may_be_ended),
            chance.choice(may_be_retried),
        )
        yield program, [chance.randrange(0x10000) for _ in range(chance.randint(0, 120))]


def check(decide: Decide, program: Program, choices: Sequence[int]) -> None:
    """Let happen what the choices say, and check all laws on the way and in the end."""
    lawful = LawfulReducer(decide)
    world = lawful.world = World(lawful.decide, program)
    for choice in choices:
        world.let_happen(choice)
        _l3_one_pass_at_a_time(world)
    world.engines_catch_up()
    _l4_no_wake_up_is_lost(world)
    world.comes_to_rest()
    _l6_it_ends_once(world)


def check_all(decide: Decide, cases: Iterable[tuple[Program, list[int]]]) -> None:
    """Check the laws in all cases."""
    for program, choices in cases:
        check(decide, program, choices)


def _l3_one_pass_at_a_time(world: World) -> None:
    numbers = [0, *(state.number for state in world.history)]
    assert all(later - earlier in (0, 1) for earlier, later in itertools.pairwise(numbers)), "L3"
    newest = -1 if world.state is None else world.state.number
    assert all(number in world.outcomes for number in range(newest)), "L3"
    assert all(number <= newest for number in world.tasks), "L3"


def _l4_no_wake_up_is_lost(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    assert state.attempt == world.epochs(), "L8"
    if state.status in TERMINAL:
        outcome = world.ended_by()[-1]
        assert not (outcome.imposed and outcome.number in world.tasks), "L6"
        return
    epoch = state.attempt - 1
    assert f"{epoch} {run_timer(epoch)}" in world.timers, "L7"
    _l9_what_waits_has_its_timer(world, epoch)
    if state.live:
        # Also a task that a worker has stays in the queue until its outcome is recorded.
        assert state.number in world.tasks, "L4"
    else:
        assert state.status == "waiting", "L4"
        assert all(sequence <= world.last_seen() for sequence in world.wake_ups()), "L4"


def _l9_what_waits_has_its_timer(world: World, epoch: int) -> None:
    for subject in world.journal:
        kind, _, key = subject.partition(".")
        waits = key.startswith("sleep") or parse_step_key(key)[1] == epoch
        if kind == "wait" and waits and f"end.{key}" not in world.journal:
            assert any(timer.step == key for timer in world.timers.values()), "L9"


def _l6_it_ends_once(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    assert state.status in TERMINAL, "L4"
    assert len(world.ended_by()) == world.epochs(), "L6"
    outcome = world.ended_by()[-1]
    assert (state.number, state.status) == (outcome.number, outcome.status), "L6"
    assert outcome.imposed or outcome.status == world.program.ends, "L4"


def _essence(command: object) -> object:
    """Return what a command comes to, however often it is given."""
    return ("dispatch", command.state.number) if isinstance(command, Dispatch) else command


@given(program=PROGRAMS, choices=CHOICES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_reducer_keeps_its_laws_whatever_happens(program: Program, choices: list[int]) -> None:
    check(reducer.decide, program, choices)


def test_the_reducer_keeps_its_laws_in_long_histories() -> None:
    check_all(reducer.decide, cases(seed=1, count=500))


# A law that no mistake breaks says nothing. Each of these is a mistake that one could make.

MISTAKES = {
    "a wake-up during a pass is forgotten": ("woken = replace(state, woken_by=fact.sequence)", "woken = state"),
    "a wake-up starts a pass beside the live one": (
        "return Decision(woken) if state.live else _dispatch_next(woken, fact.sequence)",
        "return _dispatch_next(woken, fact.sequence)",
    ),
    "what woke the run during its pass is not looked at": ("if state.woken_by > fact.record.seen:", "if False:"),
    "every suspended pass is followed by another": ("if state.woken_by > fact.record.seen:", "if True:"),
    "what a pass has seen wakes the run once more": (
        "live=False, woken_by=max(state.woken_by, fact.record.seen))",
        "live=False)",
    ),
    "an outcome of an earlier pass counts": ("return outcome.number == state.number\n", "return True\n"),
    "an outcome counts twice": (
        "    if state.live:\n        return outcome.number",
        "    if state.live or outcome.number == state.number:\n        return outcome.number",
    ),
    "a run that rests cannot be ended from outside": (
        "return outcome.number == state.number + 1 and outcome.status in TERMINAL",
        "return False",
    ),
    "a run that was ended from outside stays at its last pass": ("number=outcome.number,", ""),
    "the task of a run that was ended from outside is left": ("if fact.record.imposed else", "if False else"),
    "a run's timer is not set again": ("return Decision(state, timers.of_run(state))", "return Decision(state)"),
    "a task that was not published is forgotten": (
        "if state.live and state.dispatched_for == cause else ()",
        "if False else ()",
    ),
    "nobody remembers what a task was published for": ("live=True, dispatched_for=cause)", "live=True)"),
    "the first task is not published again": (
        "(Dispatch(state=state, event=fact.event, again=True), *timers.of_run(state))",
        "timers.of_run(state)",
    ),
    "a task that comes again does not say so": ("Dispatch(state=state, again=True),) if", "Dispatch(state=state),) if"),
    "a run that has ended is woken": (
        "    if state.status in TERMINAL:\n        return Decision(state)\n    if fact.sequence",
        "    if fact.sequence",
    ),
    "an outcome changes a run that has ended": (
        "    if state.status in TERMINAL:\n        return Decision(state, _end_commands(state, fact) if state.ended_by",
        "    if False:\n        return Decision(state, _end_commands(state, fact) if state.ended_by",
    ),
    "the end is announced once": ("if state.ended_by == fact.sequence else ()", "if False else ()"),
    "the number stays": ("number=state.number + 1", "number=state.number"),
    "the number jumps": ("number=state.number + 1", "number=state.number + 2"),
    "a timer is set for a run that has ended": (
        "if state.status in TERMINAL or (kind",
        "if False or (kind",
    ),
    "a back-off begins in a run that has ended": (
        "if state.status in TERMINAL or epochs.is_past(state, fact.step):",
        "if epochs.is_past(state, fact.step):",
    ),
    "a timer is not set again": (
        "return Decision(state, (timer,))",
        "return Decision(state, () if state.woken_by else (timer,))",
    ),
}


MISTAKES_ABOUT_RETRIES: dict[str, tuple[ModuleType, str, str]] = {
    "a run that was cancelled or has completed is retried": (retries, 'state.status == "failed" and', "True and"),
    "a retry counts twice": (retries, "and fact.epoch == state.attempt:", "and True:"),
    "a retry counts in a run that goes on": (retries, 'if state.status == "failed" and fact', "if fact"),
    "the task of a new epoch is published once": (
        retries,
        "if state.live and state.dispatched_for",
        "if False and state.dispatched_for",
    ),
    "the task of a new epoch does not say that it comes again": (
        retries,
        "(Dispatch(state=state, again=True),)",
        "(Dispatch(state=state),)",
    ),
    "nobody remembers that a retry dispatched the task": (retries, "        dispatched_for=fact.sequence,\n", ""),
    "the retry wakes the run once more": (retries, "        woken_by=fact.sequence,\n", "        woken_by=10_000,\n"),
    "a new epoch takes the number of the pass that failed": (retries, "number=state.number + 1", "number=state.number"),
    "a new epoch skips a number": (retries, "number=state.number + 1", "number=state.number + 2"),
    "a new epoch does not count": (retries, "attempt=state.attempt + 1", "attempt=state.attempt"),
    "nobody remembers which retry opened the epoch": (retries, "        epoch_sequence=fact.sequence,\n", ""),
    "the pass of a new epoch is not live": (retries, "        live=True,\n", "        live=False,\n"),
    "a new epoch has no timers": (
        retries,
        "(Dispatch(state=opened), *_timers(opened, fact))",
        "(Dispatch(state=opened),)",
    ),
    "the timers of a new epoch are set once": (retries, "(*dispatch, *_timers(state, fact))", "dispatch"),
    "sleeps do not go on in a new epoch": (retries, "in fact.sleeps)", "in fact.sleeps[:0])"),
    "the time of a new epoch is not counted": (
        retries,
        "(*timers.of_run(state), ",
        "(*timers.of_run(state)[:0], ",
    ),
    "a run's timer is not set": (timers, "if not state.timeout_ms:", "if True:"),
    "a run's timer says nothing of its epoch": (timers, "        epoch=epoch,\n", ""),
    "the timer of a wait says nothing of its epoch": (
        timers,
        "waiting_since_ms=fact.time_ms,\n        epoch=epochs.current(state),",
        "waiting_since_ms=fact.time_ms,",
    ),
    "the timer of a back-off says nothing of its epoch": (
        timers,
        "attempt=attempt,\n        epoch=epochs.current(state),",
        "attempt=attempt,",
    ),
    "what is of the past is taken for the present": (epochs, "[1] < current", "[1] < 0 * current"),
    "what is of the present is taken for the past": (epochs, "[1] < current", "[1] <= current"),
}


@pytest.mark.parametrize("mistake", MISTAKES_ABOUT_RETRIES)
def test_a_mistake_about_retries_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, right, wrong = MISTAKES_ABOUT_RETRIES[mistake]
    mutant = _mutant(module, right, wrong)
    name = module.__name__.rpartition(".")[2]
    for user in (reducer, retries, timers):
        if hasattr(user, name):
            monkeypatch.setattr(user, name, mutant)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(seed=3, count=3_000, may_be_retried=(True,)))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_reducer_breaks_a_law(mistake: str) -> None:
    decide = _with_mistake(*MISTAKES[mistake])

    # Ends from outside cut most stories short, and with them those in which another mistake shows.
    ended = (False, True) if "from outside" in mistake else (False,)
    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(decide, cases(seed=2, count=3_000, may_be_ended=ended, may_be_retried=(False,)))


def _with_mistake(right: str, wrong: str) -> Callable[[RunState | None, Fact], Decision]:
    decide: Callable[[RunState | None, Fact], Decision] = _mutant(reducer, right, wrong).decide
    return decide


def _mutant(module: ModuleType, right: str, wrong: str) -> ModuleType:
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{module.__name__} no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    return mutant
