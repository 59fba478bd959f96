"""The laws of the reducer, as checks; what they say stands in ``test_reducer_laws``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from hypothesis import strategies as st

from ironflow.names import parse_step_key, run_timer
from ironflow.records import TERMINAL, OutcomeRecord, OutcomeStatus, RunState
from ironflow_engine.facts import (
    AnnounceEnd,
    Decision,
    Dispatch,
    Fact,
    OutcomeRecorded,
    RunRetried,
    StateReviewed,
    StopRun,
    TryRecorded,
    WaitRecorded,
    Woken,
)
from tests.laws.program import QUEUE, RUN, UNDO, Kind, Program, wait_fact
from tests.laws.world import Decide, World

KINDS = st.sampled_from(get_args(Kind))
PROGRAMS = st.builds(
    Program,
    groups=st.lists(st.lists(KINDS, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
    ends=st.sampled_from(["completed", "failed"]),
    may_be_ended=st.booleans(),
    may_be_retried=st.booleans(),
    undos=st.integers(0, 2),
    may_lose=st.booleans(),
)
CHOICES = st.lists(st.integers(0, 0xFFFF), max_size=80)
LATE_FACTS: tuple[Fact, ...] = (
    Woken(run=RUN, queue=QUEUE, sequence=1_000_000),
    *(wait_fact("late", kind)(1_000_000) for kind in ("sleep", "retry", UNDO)),
    *(RunRetried(run=RUN, queue=QUEUE, epoch=epoch, sequence=1_000_000, time_ms=1) for epoch in range(6)),
    *(StateReviewed(run=RUN, queue=QUEUE, number=number) for number in range(-1, 3)),
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
        if state is not None and not _opens_an_epoch(state, fact):
            self._l2_the_end_is_the_end(state, decision)
            self._l10_how_it_ends_is_fixed(state, decision)
        self._l5_nothing_for_nothing(state, decision)
        self._l9_what_nobody_waits_for_needs_no_timer(state, decision, fact)
        return decision

    def _l1_twice_is_once(self, first: Decision, fact: Fact) -> None:
        second = self._decide(first.state, fact)
        assert second.state is first.state, "L1"
        assert [_essence(command) for command in second.commands] == [_essence(each) for each in first.commands], "L1"
        assert all(command.again for command in second.commands if isinstance(command, Dispatch)), "L1"

    def _l2_the_end_is_the_end(self, state: RunState, decision: Decision) -> None:
        if state.status in TERMINAL:
            self._l2_nothing_comes_of(state, decision)
            # Also nothing that cannot come, or not any more.
            for late in LATE_FACTS:
                if not _opens_an_epoch(state, late):
                    self._l2_nothing_comes_of(state, self._decide(state, late))

    def _l2_nothing_comes_of(self, state: RunState, decision: Decision) -> None:
        assert decision.state is state, "L2"
        assert all(isinstance(command, (AnnounceEnd, StopRun)) for command in decision.commands), "L2"

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
        # A sleep that nears its end is reason enough, where there is nothing else to wait for.
        if before.only_sleeps and decision.state.dispatched_for in self.world.sleeps():
            return
        known = {at for at, token in self.world.slept_out.items() if token == before.token}
        assert any(sequence > before.seen and sequence not in known for sequence in self.world.wake_ups()), "L5"

    def _l9_what_nobody_waits_for_needs_no_timer(self, state: RunState | None, decision: Decision, fact: Fact) -> None:
        if state is None or not isinstance(fact, (WaitRecorded, TryRecorded)):
            return
        past = isinstance(fact, TryRecorded) and parse_step_key(fact.step)[1] < state.attempt - 1
        given_up = state.ending is not None and fact.record.kind != "compensate"
        assert not ((past or given_up) and decision.commands), "L9"

    def _l10_how_it_ends_is_fixed(self, state: RunState, decision: Decision) -> None:
        after = decision.state
        if state.ending is None:
            return
        assert after is not None, "L10"
        assert (after.ending, after.error) == (state.ending, state.error), "L10"
        assert after.status in ("compensating", state.ending), "L10"
        assert (after.compensation == "running") == (after.status == "compensating"), "L10"
        dispatched = [command for command in decision.commands if isinstance(command, Dispatch)]
        assert all(command.state.ending is not None for command in dispatched), "L10"


def _opens_an_epoch(state: RunState, fact: Fact) -> bool:
    return isinstance(fact, RunRetried) and state.status == "failed" and fact.epoch == state.attempt


def _essence(command: object) -> object:
    """Return what a command comes to, however often it is given."""
    return ("dispatch", command.state.number) if isinstance(command, Dispatch) else command


def cases(
    seed: int,
    count: int,
    may_be_ended: Sequence[bool] = (False, True),
    may_be_retried: Sequence[bool] = (False, True),
    undos: Sequence[int] = (0, 0, 1, 2),
    may_lose: Sequence[bool] = (False, False, True),
) -> Iterator[tuple[Program, list[int]]]:
    """Return cases that are evenly spread; hypothesis prefers small ones, and little goes wrong in those."""
    chance = random.Random(seed)
    for _ in range(count):
        groups = [
            [chance.choice(get_args(Kind)) for _ in range(chance.randint(1, 4))] for _ in range(chance.randint(0, 3))
        ]
        program = Program(
            groups=tuple(map(tuple, groups)),
            ends=chance.choice(["completed", "failed"]),
            may_be_ended=chance.choice(may_be_ended),
            may_be_retried=chance.choice(may_be_retried),
            undos=chance.choice(undos),
            may_lose=chance.choice(may_lose),
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
    if program.may_lose:
        world.what_got_lost_is_found()
    _l4_no_wake_up_is_lost(world)
    world.comes_to_rest()
    _l6_it_ends_once(world)


def check_all(decide: Decide, cases: Iterable[tuple[Program, list[int]]]) -> None:
    """Check the laws in all cases."""
    for program, choices in cases:
        check(decide, program, choices)


def _l3_one_pass_at_a_time(world: World) -> None:
    for earlier, later in itertools.pairwise(world.history):
        # A run that rests is unwound by the pass behind the one that would have come next: its end has that place.
        unwound = earlier.ending is None and later.ending is not None and not earlier.live
        assert later.number - earlier.number in ((2,) if unwound and later.live else (0, 1)), "L3"
    newest = -1 if world.state is None else world.state.number
    assert all(number in world.outcomes for number in range(newest)), "L3"
    assert all(number <= newest for number in world.tasks), "L3"


def _l4_no_wake_up_is_lost(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    assert state.attempt == world.epochs(), "L8"
    if not world.program.may_lose:
        _l6_what_was_ended_is_taken_back(world, state)
    if state.status in TERMINAL:
        return
    epoch = state.attempt - 1
    assert f"{epoch} {run_timer(epoch)}" in world.timers or state.ending is not None, "L7"
    if not (state.live and world.program.may_lose):
        _l9_what_waits_has_its_timer(world, state)
    if state.live:
        # Also a task that a worker has stays in the queue until its outcome is recorded.
        assert state.number in world.tasks, "L4"
        assert world.tasks[state.number].epoch == epoch, "L8"
        assert (world.tasks[state.number].mode == "run") == (state.ending is None), "L10"
    else:
        assert state.status == ("waiting" if state.ending is None else "compensating"), "L4"
        newest = world.outcomes[state.number]
        ends = {key: at for (kind, key), at in _records(world) if kind == "end" and at not in world.fences}
        # A pass knows the end that it has recorded itself; the timer tells of one that another pass has recorded.
        told = {timer.step for timer in world.timers.values()}
        unseen = {key for key, at in ends.items() if at > newest.seen and world.slept_out.get(at) != newest.token}
        assert not any(_is_waited_for(state, key) for key in unseen if ends[key] not in world.slept_out), "L4"
        assert not any(_is_waited_for(state, key) for key in unseen - told), "L4"


def _records(world: World) -> Iterator[tuple[tuple[str, str], int]]:
    for subject, sequence in world.journal.items():
        kind, _, key = subject.partition(".")
        yield (kind, key), sequence


def _is_waited_for(state: RunState, key: str) -> bool:
    """Tell whether a run needs the end of what it has recorded under a key."""
    current = parse_step_key(key)[1] == state.attempt - 1
    return current and key.startswith(UNDO) if state.ending is not None else current or key.startswith("sleep")


def _l9_what_waits_has_its_timer(world: World, state: RunState) -> None:
    for (kind, key), _ in _records(world):
        if kind == "wait" and _is_waited_for(state, key) and f"end.{key}" not in world.journal:
            # A timer of an earlier epoch ends nothing but a sleep.
            timers = [timer for timer in world.timers.values() if timer.step == key]
            assert any(key.startswith("sleep") or timer.epoch == state.attempt - 1 for timer in timers), "L9"


def _l6_what_was_ended_is_taken_back(world: World, state: RunState) -> None:
    if state.status in TERMINAL:
        outcome = world.ended_by()[-1]
        left = [timer for timer in world.timers.values() if timer.epoch == state.attempt - 1]
        if outcome.imposed or state.ending is not None:
            assert outcome.number not in world.tasks, "L6"
            assert not left or world.passes or world.decided_late, "L6"
    elif state.live and state.ending is not None:
        before = world.outcomes[state.number - 1]
        if before.status == "compensating" and before.imposed:
            assert before.number not in world.tasks, "L6"


def _l6_it_ends_once(world: World) -> None:
    state = world.state
    assert state is not None, "L4"
    assert state.status in TERMINAL, "L4"
    assert len(world.ended_by()) == world.epochs(), "L6"
    outcome = world.ended_by()[-1]
    assert (state.number, state.status) == (outcome.number, outcome.status), "L6"
    assert (state.error is None) == (state.status != "failed"), "L6"
    cause = world.unwound_by(outcome)
    assert state.ending == (cause and cause.ending), "L10"
    assert state.compensation == ("completed" if cause and world.program.undos else None), "L10"
    if cause is None:
        assert outcome.imposed or outcome.status == world.program.ends, "L4"
        assert outcome.imposed or outcome.status == "completed" or not world.program.undos, "L10"
        return
    assert state.status == cause.ending, "L10"
    assert cause.imposed or cause.ending == world.program.ends, "L10"
    undone = [parse_step_key(key) for (kind, key), _ in _records(world) if kind == "end" and key.startswith(UNDO)]
    assert sum(epoch == state.attempt - 1 for _, epoch in undone) == world.program.undos, "L10"
