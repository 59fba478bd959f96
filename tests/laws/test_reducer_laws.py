"""The laws of the reducer, for every program and every order of what can happen to it.

L1  A fact that was folded changes nothing more, and yields its commands again while they may have been lost.
L2  A state that has ended never changes, but for a run that has failed and is retried.
L3  The number of the pass grows by one at a time, and only when the pass before it has its outcome; no task is
    ever in the queue for a pass that the run has not come to.
L4  No wake-up is lost. When engines have caught up, the run has ended; or it rests, and its last pass has seen
    all that has woken it; or its task is in the queue. And left alone, it ends as its program does.
L5  No pass is dispatched for nothing: something that the pass before had not seen has woken the run.
L6  A run ends once in each epoch: the journal has one outcome that ends it, and that of the newest is its state;
    the task and the timers of a run that was ended from outside, or unwound, are not left.
L7  A run that goes on has its own timer set, that of its epoch.
L8  Each retry that is recorded opens one epoch, and its number is that of the retry.
L9  In a run that goes on, each wait that has no end has its timer set. What an earlier epoch left open is no wait
    any more, but for sleeps; nor is what a run had begun that is being unwound.
L10 Once it is known how an epoch of a run ends, because what it did is undone first, it ends so and not otherwise,
    for the same reason, when its undos are through; all its passes until then undo.
L11 Whatever of its tasks, its timers and the signs on their way to engines gets lost: when the reconciler has looked,
    L4, L7 and L9 hold all the same.

Each case is a program and a list of numbers, each of which picks one of the things that may happen next.
"""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings

from ironflow_engine import children, event_waits, reducer, retries, sleeps, timers, unwinding
from tests.laws import reducer_mistakes as mistakes
from tests.laws import world
from tests.laws.program import Program
from tests.laws.reducer_laws import CHOICES, PROGRAMS, LawfulReducer, cases, check, check_all

USERS = (reducer, children, event_waits, retries, sleeps, timers, unwinding, world)
"""The modules that name those in which there may be a mistake."""


@given(program=PROGRAMS, choices=CHOICES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_reducer_keeps_its_laws_whatever_happens(program: Program, choices: list[int]) -> None:
    check(reducer.decide, program, choices)


def test_the_reducer_keeps_its_laws_in_long_histories() -> None:
    check_all(reducer.decide, cases(seed=1, count=800))


def test_a_timer_that_an_old_memory_lets_wake_a_run_being_unwound_loses_no_task() -> None:
    program = Program(groups=(("sleep",),), ends="completed", may_be_ended=True, undos=1)
    lawful = LawfulReducer(reducer.decide)
    run = lawful.world = world.World(lawful.decide, program)
    run.engine_takes(1, ["event"], "goes well")
    run.worker_takes(0)
    run.pass_finishes(0)
    run.engine_takes(1, ["wait.sleep-0-0", "outcome.0"], "goes well")
    run.terminator_looks("failed", undo=True)
    run.terminator_writes(0)
    run.engine_takes(0, ["outcome.1"], "goes well")
    run.worker_takes(2)
    run.pass_finishes(0)
    run.timer_fires("0 wait.sleep-0-0")
    # It does not know yet that the run is unwound, finds the fence in the place of the end, and wakes the run.
    run.engine_takes(1, ["outcome.2", "fired 0 wait.sleep-0-0"], "dies after it stored")
    run.engines_catch_up()
    assert run.state is not None
    assert run.state.live
    assert run.state.number in run.tasks


# A law that no mistake breaks says nothing. What could hide a mistake is left out: an end from outside cuts a story
# short, and a reconciler makes up for much.


@pytest.mark.parametrize("mistake", mistakes.IN_THE_REDUCER)
def test_a_mistake_in_the_reducer_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.IN_THE_REDUCER[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(2, 3_000, may_be_ended=(False,), may_be_retried=(False,), may_lose=(False,)))


@pytest.mark.parametrize("mistake", mistakes.OF_ENDS_FROM_OUTSIDE)
def test_a_mistake_about_ends_from_outside_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_ENDS_FROM_OUTSIDE[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(3, 3_000, may_be_ended=(True,), may_lose=(False,)))


@pytest.mark.parametrize("mistake", mistakes.OF_RETRIES)
def test_a_mistake_about_retries_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_RETRIES[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(4, 3_000, may_be_retried=(True,), may_lose=(False,)))


@pytest.mark.parametrize("mistake", mistakes.OF_UNWINDING)
def test_a_mistake_about_unwinding_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_UNWINDING[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(5, 3_000, undos=(1, 2), may_lose=(False,)))


@pytest.mark.parametrize("mistake", mistakes.OF_RECONCILING)
def test_a_mistake_about_reconciling_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_RECONCILING[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(6, 3_000, may_be_ended=(False,), undos=(0, 0, 1), may_lose=(True,)))


@pytest.mark.parametrize("mistake", mistakes.OF_SLEEPS)
def test_a_mistake_about_sleeps_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_SLEEPS[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(11, 5_000, undos=(0, 1), may_lose=(False,)))


@pytest.mark.parametrize("mistake", mistakes.OF_REMEMBERED_STATES)
def test_a_mistake_about_remembered_states_breaks_a_law(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mistakes.OF_REMEMBERED_STATES[mistake], monkeypatch)

    with pytest.raises(AssertionError, match=r"L[1-9]"):
        check_all(reducer.decide, cases(7, 5_000, may_be_retried=(True,), undos=(0, 1, 2), may_lose=(False,)))


def make(mistake: mistakes.Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module with a mistake in the place of the right one, wherever that is used."""
    module, right, wrong = mistake
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{module.__name__} no longer says {right!r}"
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - it is our own source
    if module is reducer:
        monkeypatch.setattr(reducer, "decide", mutant.decide)
    name = module.__name__.rpartition(".")[2]
    for user in USERS:
        if hasattr(user, name):
            monkeypatch.setattr(user, name, mutant)
