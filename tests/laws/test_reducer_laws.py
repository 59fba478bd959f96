"""The laws of the reducer, for every program and every order of what can happen to it.

L1  A fact that was folded changes nothing more, and yields its commands again while they may have been lost.
L2  A state that has ended never changes.
L3  The number of the pass grows by one at a time, and only when the pass before it has its outcome; no task is
    ever in the queue for a pass that the run has not come to.
L4  No wake-up is lost. When engines have caught up, the run has ended; or it waits, and its last pass has seen
    all that has woken it; or its task is in the queue. And left alone, it ends as its program does.
L5  No pass is dispatched for nothing: something that the pass before had not seen has woken the run.

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

from ironflow.records import TERMINAL, OutcomeRecord, OutcomeStatus, RunState
from ironflow_engine import reducer
from ironflow_engine.facts import AnnounceEnd, Decision, Dispatch, Fact, OutcomeRecorded, Woken
from tests.laws.world import QUEUE, RUN, Decide, Kind, Program, World, wait_fact

KINDS = st.sampled_from(get_args(Kind))
PROGRAMS = st.builds(
    Program,
    st.lists(st.lists(KINDS, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
    st.sampled_from(["completed", "failed"]),
)
LATE_FACTS: tuple[Fact, ...] = (
    Woken(run=RUN, queue=QUEUE, sequence=1_000_000),
    wait_fact("late", "sleep")(1_000_000),
    wait_fact("late", "retry")(1_000_000),
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
        self._l2_the_end_is_the_end(state, decision)
        self._l5_nothing_for_nothing(state, decision)
        return decision

    def _l1_twice_is_once(self, first: Decision, fact: Fact) -> None:
        second = self._decide(first.state, fact)
        assert second.state is first.state, "L1"
        assert [_essence(command) for command in second.commands] == [_essence(each) for each in first.commands], "L1"
        assert all(command.again for command in second.commands if isinstance(command, Dispatch)), "L1"

    def _l2_the_end_is_the_end(self, state: RunState | None, decision: Decision) -> None:
        if state is not None and state.status in TERMINAL:
            self._l2_nothing_comes_of(state, decision)
            # Also nothing that cannot come, or not any more.
            for fact in LATE_FACTS:
                self._l2_nothing_comes_of(state, self._decide(state, fact))

    def _l2_nothing_comes_of(self, state: RunState, decision: Decision) -> None:
        assert decision.state is state, "L2"
        assert all(isinstance(command, AnnounceEnd) for command in decision.commands), "L2"

    def _l5_nothing_for_nothing(self, state: RunState | None, decision: Decision) -> None:
        assert self.world is not None
        if state is None or decision.state is None or decision.state.number == state.number:
            return
        before = self.world.outcomes.get(state.number)
        assert before is not None, "L3"
        assert any(sequence > before.seen for sequence in self.world.wake_ups()), "L5"


def cases(seed: int, count: int) -> Iterator[tuple[Program, list[int]]]:
    """Return cases that are evenly spread; hypothesis prefers small ones, and little goes wrong in those."""
    chance = random.Random(seed)
    for _ in range(count):
        groups = [
            [chance.choice(get_args(Kind)) for _ in range(chance.randint(1, 4))] for _ in range(chance.randint(0, 3))
        ]
        program = Program(tuple(map(tuple, groups)), chance.choice(["completed", "failed"]))
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
    assert world.state is not None, "L4"
    assert world.state.status == program.ends, "L4"


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
    if state.status in TERMINAL:
        return
    if state.live:
        # Also a task that a worker has stays in the queue until its outcome is recorded.
        assert state.number in world.tasks, "L4"
    else:
        assert state.status == "waiting", "L4"
        assert all(sequence <= world.last_seen() for sequence in world.wake_ups()), "L4"


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
    "an outcome of an earlier pass counts": (
        "if outcome.number != state.number or not state.live:",
        "if not state.live:",
    ),
    "an outcome counts twice": (
        "if outcome.number != state.number or not state.live:",
        "if outcome.number != state.number:",
    ),
    "a task that was not published is forgotten": (
        "if state.live and state.dispatched_for == cause else ()",
        "if False else ()",
    ),
    "nobody remembers what a task was published for": ("live=True, dispatched_for=cause)", "live=True)"),
    "the first task is not published again": (
        "return Decision(state, (Dispatch(state=state, event=fact.event, again=True),))",
        "return Decision(state)",
    ),
    "a task that comes again does not say so": ("Dispatch(state=state, again=True),) if", "Dispatch(state=state),) if"),
    "a run that has ended is woken": (
        "    if state.status in TERMINAL:\n        return Decision(state)\n    if fact.sequence",
        "    if fact.sequence",
    ),
    "an outcome changes a run that has ended": (
        "if state.status in TERMINAL:\n        return Decision(state, (AnnounceEnd",
        "if False:\n        return Decision(state, (AnnounceEnd",
    ),
    "the end is announced once": ("if state.ended_by == fact.sequence else ()", "if False else ()"),
    "the number stays": ("number=state.number + 1", "number=state.number"),
    "the number jumps": ("number=state.number + 1", "number=state.number + 2"),
    "a timer is set for a run that has ended": ("() if state.status in TERMINAL else (SetTimer", "(SetTimer"),
    "a timer is not set again": (
        "() if state.status in TERMINAL else (SetTimer(timer=timer, record=record),)",
        "() if state.woken_by else (SetTimer(timer=timer, record=record),)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_reducer_breaks_a_law(mistake: str) -> None:
    decide = _with_mistake(*MISTAKES[mistake])

    with pytest.raises(AssertionError, match=r"L[1-5]"):
        check_all(decide, cases(seed=2, count=3_000))


def _with_mistake(right: str, wrong: str) -> Callable[[RunState | None, Fact], Decision]:
    source = inspect.getsource(reducer)
    assert source.count(right) == 1, f"the reducer no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    decide: Callable[[RunState | None, Fact], Decision] = mutant.decide
    return decide
