"""The laws of passes that are told the end of a wait, whatever dies and gets lost between an event and its effect.

T1  No wake-up is lost: once all is quiet, the run has ended; or it rests, and its newest pass has known the end of
    every wait that has one. With enough events it ends.
T2  A pass is dispatched only once the one before it has its outcome.
T3  Where nothing goes wrong, there is one pass for each event that comes alone, and the state is written for it once;
    and a pass that lingers for events is the only one for all that come meanwhile.
T4  Of the open waits that events find, an event ends the one that was recorded first.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Sequence
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironflow_engine import event_waits, reducer
from tests.laws.told_world import Decide, World

GROUPS = st.lists(st.integers(1, 3), min_size=1, max_size=3)
CHOICES = st.lists(st.integers(0, 0xFFFF), max_size=80)
TRIES = 6_000
"""Several times as many as the mistake needs that is hardest to meet."""


def check(decide: Decide, groups: Sequence[int], choices: Sequence[int], *, loses: bool) -> None:
    """Let happen what the choices say, and check that all comes right."""
    world = World(decide, groups, loses=loses)
    for choice in choices:
        world.let_happen(choice)
    world.comes_to_rest()
    _check_quiet(world)
    for _ in range(sum(groups)):
        world.publish()
    world.comes_to_rest()
    _check_quiet(world)
    assert world.has_ended, "T1"


def _check_quiet(world: World) -> None:
    assert not world.state.live, "T1"
    assert world.has_ended or world.decided <= world.knew, "T1"


def check_quiet_day(decide: Decide, waits: int) -> None:
    """Check that a run that gets one event after another needs no more passes and writes than it must."""
    world = World(decide, [1] * waits, loses=False)
    world.comes_to_rest()
    for number in range(1, waits + 1):
        revision = world.revision
        world.publish()
        world.engine_takes(0, [next(iter(world.inbox))])
        assert world.revision == revision + 1, "T3"
        world.comes_to_rest()
        assert world.state.number == number, "T3"
    assert world.has_ended, "T1"


def check_lingering_day(decide: Decide, waits: int) -> None:
    """Check that a pass that lingers hears of one event after another, and that no other pass is due behind it."""
    world = World(decide, [1] * waits, loses=False)
    world.worker_takes(0)
    for number in range(waits - 1):
        world.lingers()
        world.publish()
        world.take_all()
        assert world.hints, "T3"
        world.pass_hears(world.hints.pop())
        assert len(world.passes[0].heard) == number + 1, "T3"
    world.comes_to_rest()
    assert (world.state.number, world.state.live) == (0, False), "T3"


def check_interruption(decide: Decide, stops_after: int, *, dies: bool, lingers: bool, hears: bool) -> None:
    """Check that nothing is lost where the engine that takes an event is interrupted.

    Meanwhile all else goes on, and whoever has been held up comes back to another world.

    Args:
        decide: the reducer.
        stops_after: after how many things that the engine does.
        dies: it dies then; otherwise it is held up.
        lingers: a pass lingers for the event; otherwise the run rests.
        hears: the pass that is told of the event hears of it; otherwise the hint, or the task, is lost.

    """
    world = World(decide, [1, 1, 1, 1], loses=not lingers and not hears)
    world.worker_takes(0)
    world.lingers()
    if not lingers:
        world.comes_to_rest()
    world.publish()
    world.engine_takes(0, ["e1"], stops_after, dies=dies)
    if hears and world.hints:
        world.pass_hears(world.hints.pop())
    elif not lingers and not hears:
        world.tasks.clear()
    world.comes_to_rest(but="e1")
    world.comes_to_rest()
    _check_quiet(world)
    number = world.state.number
    for following in range(number + 1, number + 3):
        world.publish()
        world.comes_to_rest()
        assert world.state.number == following, "T3"
        _check_quiet(world)


def check_interruptions(decide: Decide) -> None:
    """Check each place at which an engine can be interrupted, and some beyond."""
    for stops_after in range(10):
        for dies, lingers, hears in itertools.product((True, False), repeat=3):
            check_interruption(decide, stops_after, dies=dies, lingers=lingers, hears=hears)


def check_all(decide: Decide) -> None:
    """Check many histories: plain chance meets a mistake sooner than hypothesis, which prefers short and small."""
    chance = random.Random(11)
    check_quiet_day(decide, 3)
    check_lingering_day(decide, 3)
    check_interruptions(decide)
    for number in range(TRIES):
        groups = [chance.randint(1, 3) for _ in range(chance.randint(1, 3))]
        choices = [chance.randrange(0x10000) for _ in range(chance.randrange(5, 81))]
        check(decide, groups, choices, loses=number % 2 == 0)


@given(groups=GROUPS, choices=CHOICES, loses=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_pass_is_told_is_never_lost(groups: list[int], choices: list[int], loses: bool) -> None:  # noqa: FBT001
    check(reducer.decide, groups, choices, loses=loses)


def test_what_a_pass_is_told_is_never_lost_in_long_histories() -> None:
    check_all(reducer.decide)


def test_one_event_after_another_takes_one_pass_and_one_write_each() -> None:
    check_quiet_day(reducer.decide, 5)


def test_a_pass_that_lingers_is_the_only_one_for_all_events_that_come_meanwhile() -> None:
    check_lingering_day(reducer.decide, 5)


def test_an_engine_that_is_interrupted_loses_no_event() -> None:
    check_interruptions(reducer.decide)


MISTAKES = {
    "a pass that was not told is taken for one that was": (
        reducer,
        "return outcome.told or not state.told",
        "return True",
    ),
    "what was told once counts for later passes": (reducer, 'told="", hinted=())', "hinted=())"),
    "what was hinted once counts for later passes": (reducer, 'told="", hinted=())', 'told="")'),
    "what was hinted once counts for passes that are told": (event_waits, "        hinted=(),\n", ""),
    "an event is for any wait that the engine knows": (
        event_waits,
        "or (fact.hasty and _others_are_open(state, step)):",
        "or False:",
    ),
    "a run is told by a task while its pass goes on": (
        event_waits,
        "return _hint(state, fact, end)",
        "return _tell(state, fact, end)",
    ),
    "a pass that lingers is not told": (
        event_waits,
        "if not fact.entry.wait.worker:",
        "if True:",
    ),
    "a pass that may have missed a hint is taken for one that has heard it": (
        event_waits,
        "any(step not in outcome.heard for step in state.hinted)",
        "False",
    ),
    "a pass that has heard a hint is taken for one that may have missed it": (
        event_waits,
        "any(step not in outcome.heard for step in state.hinted)",
        "bool(state.hinted)",
    ),
    "an end that a pass has heard of wakes the run, too": (
        event_waits,
        "return fact.wait in state.hinted",
        "return False",
    ),
    "a pass is told by a hint, and the journal is not": (
        event_waits,
        "sleeps.awake(hinted), (_hint_of(state, fact, end), end)",
        "sleeps.awake(hinted), (_hint_of(state, fact, end),)",
    ),
    "an end that a hint may not have told does not wake the run": (
        event_waits,
        "sleeps.awake(hinted), (_hint_of(state, fact, end), end)",
        "sleeps.awake(hinted), (_hint_of(state, fact, end), replace(end, wakes=False))",
    ),
    "an end that was told wakes the run, too": (event_waits, "replace(end, wakes=False)", "end"),
    "an end that nobody was told does not wake the run": (event_waits, "wakes=not is_told)", "wakes=False)"),
    "the end of a wait is told once": (event_waits, "if not (is_told and state.live):", "if True:"),
    "a pass is told the end, and the journal is not": (
        event_waits,
        "(task, replace(end, wakes=False))",
        "(task,)",
    ),
    "the journal has the end, and no pass is told": (
        event_waits,
        "(task, replace(end, wakes=False))",
        "(replace(end, wakes=False),)",
    ),
    "nobody remembers that the pass was told": (event_waits, "told=mark(fact.entry.step),", 'told="",'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, right, wrong = MISTAKES[mistake]
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"the source no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    if module is event_waits:
        monkeypatch.setattr(reducer, "event_waits", mutant)
    decide: Decide = mutant.decide if module is reducer else reducer.decide

    with pytest.raises(AssertionError, match=r"T[1-4]"):
        check_all(decide)
