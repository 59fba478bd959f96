"""Each check finds what it is there for: a good history has no violation, and each mutation of it has its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ironflow.names import COMPENSATE_PREFIX, run_id, step_token
from ironflow.records import RunState
from tests.chaos import figures
from tests.chaos.checker import CHECKS, check, every_parent_has_what_its_child_came_to, undos_run_in_reverse_order
from tests.chaos.history import History, Recorded, Submitted, TimerLeft
from tests.chaos.programs import SLEPT, Child, Order, Sleep, Wait, Work, child_run, value_of
from tests.chaos.timeline import Fault, Injected
from tests.chaos.witness import Line, LineKind
from tests.chaos.workflow import FUNCTION

ORDER = Order(
    1, (Work("a", failures=1), Sleep("nap", 1_000), Wait("w", answered=False, timeout_milliseconds=500), Work("b"))
)
EVENT = "order-1"
RUN = run_id(FUNCTION, EVENT)
PID = 10


def result(step: str, nonce: str) -> dict[str, Any]:
    return {"value": value_of(1, step), "nonce": nonce}


def fact(sequence: int, time_ms: int, kind: str, /, *rest: str, **record: Any) -> Recorded:
    return Recorded(RUN, kind, rest, sequence, time_ms, record)


def line(kind: LineKind, wall_ms: float, **fields: Any) -> Line:
    return Line(kind, wall_ms, PID, RUN, **{"pass_id": "p1", **fields})


OUTPUT = [result("a", "na"), SLEPT, False, result("b", "nb")]

GOOD = History(
    submitted=[Submitted(EVENT, 7, 90.0, ORDER, RUN)],
    events={7: EVENT},
    journal=[
        fact(1, 120, "try", "a", "1", kind="run", delay_ms=100),
        fact(2, 230, "due", "a", "1"),
        fact(3, 250, "step", "a", kind="run", attempt=2, output=result("a", "na")),
        fact(4, 260, "wait", "nap", kind="sleep", delay_ms=1_000),
        fact(5, 270, "outcome", "0", status="suspended"),
        fact(6, 1_261, "step", "nap", kind="sleep"),
        fact(7, 1_300, "wait", "w", kind="wait_for_event", delay_ms=500),
        fact(8, 1_310, "outcome", "1", status="suspended"),
        fact(9, 1_801, "step", "w", kind="wait_for_event"),
        fact(10, 1_850, "step", "b", kind="run", output=result("b", "nb")),
        fact(11, 1_860, "outcome", "2", status="completed", output=OUTPUT),
    ],
    states={
        RUN: RunState(
            id=RUN,
            function=FUNCTION,
            queue="chaos",
            status="completed",
            started_at=90,
            event_id=EVENT,
            event_name="chaos.start",
            event_sequence=7,
        )
    },
    lines=[
        line("delivered", 95, step="chaos.tasks.chaos.r.0", sequence=1),
        line("pass", 100),
        line("begin", 101, step="a"),
        line("failed", 110, step="a"),
        line("begin", 235, step="a"),
        line("end", 245, step="a", nonce="na"),
        line("saw", 255, seen={"a": "na"}),
        line("left", 265),
        line("pass", 1_805, pass_id="p2", loaded_ms=1_803.0),
        line("saw", 1_806, seen={"a": "na"}, pass_id="p2"),
        line("begin", 1_810, step="b", pass_id="p2"),
        line("end", 1_820, step="b", nonce="nb", pass_id="p2"),
        line("saw", 1_855, seen={"b": "nb"}, pass_id="p2"),
        line("left", 1_856, pass_id="p2"),
    ],
    leftovers={"tasks": 0, "open waits": 0},
    timers=[TimerLeft(RUN, "w", 0, 99_999), TimerLeft(RUN, "a", 1, 99_999)],
)


def with_fact(sequence: int, **changes: Any) -> History:
    """Return the good history with a fact changed; ``record`` is merged, and None takes the fact away."""
    journal: list[Recorded] = []
    for each in GOOD.journal:
        if each.sequence != sequence:
            journal.append(each)
        elif changes:
            record = {**each.record, **changes.pop("record", {})}
            journal.append(replace(each, record=record, **changes))
    return replace(GOOD, journal=journal)


def with_more(*facts: Recorded, lines: Sequence[Line] = ()) -> History:
    return replace(GOOD, journal=[*GOOD.journal, *facts], lines=[*GOOD.lines, *lines])


def undo(sequence: int, step: str) -> Recorded:
    name = COMPENSATE_PREFIX + step
    return fact(sequence, 1_900, "step", step_token((), name), name=name, kind="compensate", output=result(name, "n"))


def with_child(*, same: bool) -> History:
    """Return a history of a run with a child, which came to what the run has of it, or did not."""
    order = Order(1, (*ORDER.program, Child("c", (Work("x"),))))
    end = replace(fact(12, 1_900, "outcome", "0", status="completed", output=[1]), run=child_run(RUN, "c"))
    more = with_more(end, fact(13, 1_901, "step", "c", kind="invoke", output=[1] if same else [2]))
    return replace(more, submitted=[Submitted(EVENT, 7, 90.0, order, RUN)])


def test_undos_in_reverse_order_and_children_that_agree_are_no_violation() -> None:
    assert list(undos_run_in_reverse_order(with_more(undo(12, "b"), undo(13, "a")))) == []
    assert list(every_parent_has_what_its_child_came_to(with_child(same=True))) == []


def test_a_good_history_has_no_violation() -> None:
    assert check(GOOD) == []


MUTATIONS: dict[str, tuple[Callable[[], History], str]] = {
    "an acknowledged event is gone": (lambda: replace(GOOD, events={}), "no acknowledged event is lost"),
    "another event stands in its place": (lambda: replace(GOOD, events={7: "x"}), "no acknowledged event is lost"),
    "a run does not end": (lambda: with_fact(11), "every run ends once, as the model says"),
    "a run ends twice": (
        lambda: with_more(fact(12, 1_900, "outcome", "3", status="failed")),
        "every run ends once, as the model says",
    ),
    "a run ends in another way": (
        lambda: with_fact(11, record={"status": "failed"}),
        "every run ends once, as the model says",
    ),
    "the state of a run is another": (
        lambda: replace(GOOD, states={RUN: replace(GOOD.states[RUN], status="running")}),
        "every run ends once, as the model says",
    ),
    "the state of a run is gone": (lambda: replace(GOOD, states={}), "every run ends once, as the model says"),
    "there is a run that nobody has asked for": (
        lambda: replace(GOOD, states={**GOOD.states, "other": GOOD.states[RUN]}),
        "every run ends once, as the model says",
    ),
    "the output has a value that is not recorded": (
        lambda: with_fact(11, record={"output": [result("a", "other"), *OUTPUT[1:]]}),
        "every output is made of the recorded results",
    ),
    "a step has no result": (lambda: with_fact(6), "every step has one result, as the model says"),
    "a step has two results": (
        lambda: with_more(fact(12, 1_851, "step", "b", kind="run", output=result("b", "nb"))),
        "every step has one result, as the model says",
    ),
    "a step is of another kind": (
        lambda: with_fact(6, record={"kind": "run"}),
        "every step has one result, as the model says",
    ),
    "a step has failed": (
        lambda: with_fact(6, record={"status": "failed"}),
        "every step has one result, as the model says",
    ),
    "a step is worth something else": (
        lambda: with_fact(10, record={"output": {"value": 1, "nonce": "nb"}}),
        "every step has one result, as the model says",
    ),
    "a step counts an attempt that was none": (
        lambda: with_fact(3, record={"attempt": 3}),
        "every step has one result, as the model says",
    ),
    "a step has failed more often than its body": (
        lambda: with_more(fact(12, 121, "try", "a", "2", kind="run", delay_ms=1)),
        "every step has one result, as the model says",
    ),
    "a step is recorded that is in no program": (
        lambda: with_more(fact(12, 1_851, "step", "c", kind="run")),
        "every step has one result, as the model says",
    ),
    "a result is recorded that no body has returned": (
        lambda: replace(GOOD, lines=[each for each in GOOD.lines if each.kind != "end"]),
        "every result comes from a body that ran",
    ),
    "a pass sees another result": (
        lambda: with_more(lines=[line("saw", 1_857, seen={"a": "other"})]),
        "every pass sees the recorded results",
    ),
    "a pass sees a result that is not recorded": (
        lambda: with_more(lines=[line("saw", 1_857, seen={"c": "nc"})]),
        "every pass sees the recorded results",
    ),
    "a body begins before what it follows is recorded": (
        lambda: with_more(lines=[line("begin", 1_790, step="b")]),
        "no body begins before what it follows is recorded",
    ),
    "a body begins although what it follows is never recorded": (
        lambda: with_fact(9),
        "no body begins before what it follows is recorded",
    ),
    "a body begins in a pass that has loaded its result": (
        lambda: with_more(
            lines=[line("pass", 1_859, pass_id="p3", loaded_ms=1_858.0), line("begin", 1_860, step="b", pass_id="p3")]
        ),
        "no body begins in a pass that knows its result, or the run's",
    ),
    "a body begins in a pass that has loaded nothing, and came after the result": (
        lambda: with_more(
            lines=[
                replace(line("delivered", 1_900), pid=11),
                replace(line("pass", 1_901, pass_id="p3"), pid=11),
                replace(line("begin", 1_902, step="b", pass_id="p3"), pid=11),
            ]
        ),
        "no body begins in a pass that knows its result, or the run's",
    ),
    "an undo runs before that of a later step": (
        lambda: with_more(undo(12, "a"), undo(13, "b")),
        "undos run in the reverse order of what they undo",
    ),
    "what was never done is undone": (
        lambda: with_more(undo(12, "nothing")),
        "undos run in the reverse order of what they undo",
    ),
    "a parent has something else than its child": (
        lambda: with_child(same=False),
        "every parent has what its child came to",
    ),
    "a sleep ends early": (lambda: with_fact(6, time_ms=1_259), "no timer is early"),
    "a wait times out early": (lambda: with_fact(9, time_ms=1_799), "no timer is early"),
    "an attempt is made again too soon": (lambda: with_fact(2, time_ms=219), "no timer is early"),
    "a task is left": (lambda: replace(GOOD, leftovers={"tasks": 1}), "everything is used up"),
    "a timer is left whose wait is open": (
        lambda: replace(GOOD, timers=[TimerLeft(RUN, "other", 0, 99_999)]),
        "everything is used up",
    ),
    "a timer is left whose back-off is not over": (
        lambda: replace(GOOD, timers=[TimerLeft(RUN, "a", 2, 99_999)]),
        "everything is used up",
    ),
}


@pytest.mark.parametrize(("mutate", "claim"), MUTATIONS.values(), ids=MUTATIONS)
def test_each_violation_is_found(mutate: Callable[[], History], claim: str) -> None:
    assert claim in {violation.claim for violation in check(mutate())}


def test_every_check_has_been_seen_to_fail() -> None:
    failing = {each.__name__ for each in CHECKS if any(list(each(mutate())) for mutate, _ in MUTATIONS.values())}
    assert failing == {each.__name__ for each in CHECKS}


def test_a_body_that_began_before_its_result_was_recorded_elsewhere_is_no_violation() -> None:
    zombie = [
        replace(line("pass", 1_806, pass_id="p3", loaded_ms=1_804.0), pid=11),
        replace(line("begin", 1_900, step="b", pass_id="p3"), pid=11),
    ]
    history = with_more(lines=zombie)
    assert check(history) == []
    assert (figures.late_bodies(history), figures.repeated_bodies(history)) == (1, 1)


# Figures


def injected(kind: Any, began_ms: float, ended_ms: float, *pids: int) -> Injected:
    return Injected(Fault(0.0, kind), began_ms, ended_ms, pids)


def test_a_takeover_takes_from_the_kill_to_the_next_sign_of_the_run() -> None:
    left_out = [each for each in GOOD.lines if each.kind != "left"]
    history = replace(GOOD, lines=left_out, injected=[injected("kill_worker", 300, 400, PID)])
    assert figures.takeovers(history) == [1_505.0]


def test_a_pass_that_had_ended_is_not_taken_over() -> None:
    assert figures.takeovers(replace(GOOD, injected=[injected("kill_worker", 300, 400, PID)])) == []


@pytest.mark.parametrize(
    ("fault", "touches"),
    [
        (injected("stop_worker", 105, 200, PID), True),
        (injected("stop_worker", 300, 400, PID), False),
        (injected("stop_worker", 105, 200, 99), False),
        (injected("kill_server", 300, 400), True),
        (injected("kill_server", 1_900, 1_950), False),
    ],
)
def test_a_fault_touches_the_runs_that_were_at_work_there(fault: Injected, touches: bool) -> None:  # noqa: FBT001
    assert figures.touched(replace(GOOD, injected=[fault])) == ({RUN} if touches else set())


def test_a_second_task_for_a_pass_shows() -> None:
    again = line("delivered", 1_000, step="chaos.tasks.chaos.r.0", sequence=2)
    assert (figures.stored_again(GOOD), figures.stored_again(with_more(lines=[again]))) == (0, 1)
    assert figures.executed_again(with_more(lines=[again])) == 0
    assert figures.executed_again(with_more(lines=[again, line("pass", 1_001)])) == 1
    redelivered = line("delivered", 1_000, step="chaos.tasks.chaos.r.0", sequence=1)
    assert figures.stored_again(with_more(lines=[redelivered])) == 0
    assert figures.executed_again(with_more(lines=[redelivered, line("pass", 1_001)])) == 0


def test_timers_are_as_late_as_their_ends_are_recorded() -> None:
    assert figures.timer_delays(GOOD) == [1, 1]
