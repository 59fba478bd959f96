"""The laws of the reducer, for every program and every order of what can happen to it.

L1  A fact that was folded changes nothing more, and yields its commands again while they may have been lost.
L2  A state that has ended never changes.
L3  The number of the pass grows by one at a time, and only when the pass before it has its outcome; no task is
    ever in the queue for a pass that the run has not come to.
L4  No wake-up is lost. When engines have caught up, the run has ended; or it waits, and its last pass has seen
    all that has woken it; or its task is in the queue. And left alone, it ends as its program does.
L5  No pass is dispatched for nothing: something that the pass before had not seen has woken the run.
L6  A run that is ended from outside ends once: the journal has one outcome that ends it, and that is its
    state; no task of it is left in the queue.
L7  A run that goes on has its own timer set.
L8  A run that has something to undo is unwound before it ends as it was to end, unless it completes; while it is
    unwound, it says so, and nothing changes how it will end.

Each case is a program and a list of numbers, each of which picks one of the things that may happen next.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironflow.names import RUN_TIMER
from ironflow.records import TERMINAL, OutcomeRecord, OutcomeStatus, RunState
from ironflow_engine import reducer, unwinding
from ironflow_engine.facts import AnnounceEnd, Decision, Dispatch, Fact, OutcomeRecorded, StopRun, Woken
from tests.laws.world import QUEUE, RUN, Decide, Kind, Program, World, wait_fact

KINDS = st.sampled_from(get_args(Kind))
PROGRAMS = st.builds(
    Program,
    st.lists(st.lists(KINDS, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
    st.sampled_from(["completed", "failed"]),
    st.booleans(),
    st.integers(0, 2),
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
        self._l8_how_it_ends_is_fixed(state, decision)
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
        assert all(isinstance(command, (AnnounceEnd, StopRun)) for command in decision.commands), "L2"

    def _l8_how_it_ends_is_fixed(self, state: RunState | None, decision: Decision) -> None:
        after = decision.state
        if state is None or after is None or state.ending is None:
            return
        assert (after.ending, after.error is None) == (state.ending, state.error is None), "L8"
        assert after.status in ("compensating", state.ending), "L8"
        assert after.compensation == ("running" if after.status == "compensating" else "completed"), "L8"
        dispatched = [command for command in decision.commands if isinstance(command, Dispatch)]
        assert all(command.state.ending is not None for command in dispatched), "L8"

    def _l5_nothing_for_nothing(self, state: RunState | None, decision: Decision) -> None:
        assert self.world is not None
        if state is None or decision.state is None or decision.state.number == state.number:
            return
        if not decision.state.live:  # it was ended from outside, in place of the pass
            return
        if state.ending is None and decision.state.ending is not None:  # the next pass is there to undo
            return
        before = self.world.outcomes.get(state.number)
        assert before is not None, "L3"
        assert any(sequence > before.seen for sequence in self.world.wake_ups()), "L5"


def cases(
    seed: int, count: int, may_be_ended: Sequence[bool] = (False, True), undos: Sequence[int] = (0, 0, 1, 2)
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
            chance.choice(undos),
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
    # A run that rests is unwound by a pass behind the one that would have come next, whose place its end has taken.
    most = 2 if world.unwound_by() else 1
    assert all(0 <= later - earlier <= most for earlier, later in itertools.pairwise(numbers)), "L3"
    newest = -1 if world.state is None else world.state.number
    assert all(number in world.outcomes for number in range(newest)), "L3"
    assert all(number <= newest for number in world.tasks), "L3"


def _l4_no_wake_up_is_lost(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    if state.status in TERMINAL:
        (outcome,) = world.ended_by()
        assert not (outcome.imposed and world.tasks), "L6"
        return
    assert RUN_TIMER in world.timers or state.ending is not None, "L7"
    if state.live:
        # Also a task that a worker has stays in the queue until its outcome is recorded.
        assert state.number in world.tasks, "L4"
    else:
        assert state.status == ("waiting" if state.ending is None else "compensating"), "L4"
        assert all(sequence <= world.last_seen() for sequence in world.ends_of_waits()), "L4"


def _l6_it_ends_once(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    assert state.status in TERMINAL, "L4"
    (outcome,) = world.ended_by()
    assert (state.number, state.status) == (outcome.number, outcome.status), "L6"
    unwound_by = world.unwound_by()
    if unwound_by:
        (cause,) = unwound_by
        assert (state.status, state.ending) == (cause.ending, cause.ending), "L8"
        assert cause.ending == ("cancelled" if cause.imposed else world.program.ends), "L8"
        assert state.compensation == "completed", "L8"
        assert not world.tasks, "L6"
        assert not world.timers, "L6"
        assert all(f"end.undo-{undo}" in world.journal for undo in range(world.program.undos)), "L8"
        return
    assert outcome.status == ("cancelled" if outcome.imposed else world.program.ends), "L4"
    assert outcome.status == "completed" or not world.program.undos, "L8"


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

MISTAKES: dict[str, tuple[str, str]] = {
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
        'return outcome.number == state.number + 1 and outcome.status != "suspended"',
        "return False",
    ),
    "a run that was ended from outside stays at its last pass": ("number=outcome.number,", ""),
    "the task of a run that was ended from outside is left": ("if fact.record.imposed else", "if False else"),
    "a run's timer is not set": ("if not state.timeout_ms:", "if True:"),
    "a run's timer is not set again": ("return Decision(state, _run_timer(state))", "return Decision(state)"),
    "a task that was not published is forgotten": (
        "if state.live and state.dispatched_for == cause else ()",
        "if False else ()",
    ),
    "nobody remembers what a task was published for": ("live=True, dispatched_for=cause)", "live=True)"),
    "the first task is not published again": (
        "(Dispatch(state=state, event=fact.event, again=True), *_run_timer(state))",
        "_run_timer(state)",
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
    "a timer is not set again": (
        "return Decision(state, (SetTimer(timer=try_timer(fact.step, attempt), record=timer),))",
        "return Decision(state, () if state.woken_by else (SetTimer(timer=wait_timer(''), record=timer),))",
    ),
    "a run that ends after it was unwound does not say how that went": (
        "        compensation=outcome.compensation,\n",
        "",
    ),
    "a run that is unwound from outside is not announced to its other passes again": (
        "return Decision(state, unwinding.begin_again(state, fact))",
        "return Decision(state)",
    ),
    "timers of a run that was unwound are left": ("*unwinding.last_stop(state), ", ""),
    "a run that backs off while it is unwound waits": ('unwinding.status_while(state, "waiting")', '"waiting"'),
    "a run whose undo is tried again is queued": ('unwinding.status_while(state, "queued")', '"queued"'),
}
UNWINDING_MISTAKES: dict[str, tuple[str, str]] = {
    "how it ends is forgotten": ("        ending=outcome.ending,\n", ""),
    "it does not say that it is unwound": ('        status="compensating",\n', ""),
    "it does not say how that goes": ('        compensation="running",\n', ""),
    "the pass that undoes has the number of the one before": ("number=outcome.number + 1", "number=outcome.number"),
    "the pass that undoes skips a number": ("number=outcome.number + 1", "number=outcome.number + 2"),
    "the pass that undoes is not live": ("        live=True,\n", "        live=False,\n"),
    "nobody remembers what the pass that undoes is for": ("        dispatched_for=fact.sequence,\n", ""),
    "the pass that undoes is not dispatched": ("(Dispatch(state=state, again=again), *stop,", "(*stop,"),
    "it is not dispatched again": ("return _commands(state, fact, again=True) if", "return () if"),
    "what comes again does not say so": ("again=True)", "again=False)"),
    "the task that undoes is taken back": (", number=outcome.number),)", "),)"),
    "the task of the pass that was ended is left": ("if outcome.imposed else ()", "if False else ()"),
    "the back-off of an undo sets no timer": (
        'return state.ending is not None and fact.record.kind != "compensate"',
        "return state.ending is not None",
    ),
    "a timer is set for a run that has ended": (
        "    if state.status in TERMINAL:\n        return True\n",
        "",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_reducer_breaks_a_law(mistake: str) -> None:
    mutant = _with_mistake(reducer, *MISTAKES[mistake])
    _breaks_a_law(mutant.decide, mistake)


@pytest.mark.parametrize("mistake", UNWINDING_MISTAKES)
def test_a_mistake_in_the_unwinding_breaks_a_law(mistake: str) -> None:
    # The same reducer, with another module behind it.
    mutant = _with_mistake(reducer, "", "")
    mutant.unwinding = _with_mistake(unwinding, *UNWINDING_MISTAKES[mistake])
    _breaks_a_law(mutant.decide, mistake)


def _breaks_a_law(decide: Decide, mistake: str) -> None:
    # Ends from outside cut most stories short, and with them those in which another mistake shows.
    ended = (False, True) if "from outside" in mistake or "taken back" in mistake or "left" in mistake else (False,)
    with pytest.raises(AssertionError, match=r"L[1-8]"):
        check_all(decide, cases(seed=2, count=3_000, may_be_ended=ended))


def _with_mistake(module: ModuleType, right: str, wrong: str) -> Any:
    source = inspect.getsource(module)
    assert not right or source.count(right) == 1, f"{module.__name__} no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong) if right else source, mutant.__dict__)  # noqa: S102 - it is our own source
    return mutant
