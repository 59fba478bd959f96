"""When a pass ends, and what may be asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ironflow.broker.protocol import StoredMessage, Unavailable
from ironflow.codec import encode_record
from ironflow.errors import DefinitionError, DuplicateStepError, LimitError, NondeterminismError
from ironflow.limits import Limits
from ironflow.records import EventRecord, StepRecord, WaitRecord
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.memo import Memo
from ironflow_worker.signals import PassEnded, is_pass_end
from ironflow_worker.strands import Strand, strand_here

pytestmark = pytest.mark.virtual_time

TRIGGER = EventRecord(id="e", name="order.placed", time="2026-01-01T00:00:00Z")


def new_pass(*recorded: tuple[str, StepRecord | WaitRecord], limits: Limits | None = None) -> CurrentPass:
    memo = Memo()
    memo.read(
        StoredMessage(f"ironflow.journal.q.r.{rest}", encode_record(record), number, 0)
        for number, (rest, record) in enumerate(recorded, 1)
    )
    return CurrentPass(memo, limits or Limits(), TRIGGER, 1_048_576)


async def waits(current: CurrentPass) -> None:
    """Be a step that waits."""
    with current.at_work():
        await current.wait()


async def works(current: CurrentPass, gate: asyncio.Event) -> None:
    """Be a step whose body waits for a gate."""
    with current.at_work():
        await gate.wait()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_pass_ends_when_all_of_its_steps_wait() -> None:
    current = new_pass()
    steps = [asyncio.create_task(waits(current)) for _ in range(3)]
    await asyncio.wait_for(current.over.wait(), 1)
    assert current.ended_early
    results = await asyncio.gather(*steps, return_exceptions=True)
    assert [type(result) for result in results] == [PassEnded] * 3
    await asyncio.wait_for(current.idle(), 1)


async def test_a_pass_does_not_end_while_a_step_is_at_work() -> None:
    current, gate = new_pass(), asyncio.Event()
    working = asyncio.create_task(works(current, gate))
    waiting = asyncio.create_task(waits(current))
    await turns(200)
    assert not current.ended
    gate.set()
    await asyncio.wait_for(current.over.wait(), 1)
    await asyncio.gather(working, waiting, return_exceptions=True)


async def test_a_step_that_works_in_between_begins_the_count_of_quiet_rounds_anew() -> None:
    current = new_pass()
    waiting = asyncio.create_task(waits(current))
    await turns(2)
    for _ in range(20):  # far more rounds in all than a pass stays quiet for
        await turns(10)
        with current.at_work():
            pass
        assert not current.ended
    await turns(100)
    assert current.ended
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_pass_in_which_nothing_waits_does_not_end_by_itself() -> None:
    current = new_pass()
    with current.at_work():
        pass
    await turns(200)
    assert not current.ended


async def test_a_wait_that_begins_after_the_end_does_not_wait() -> None:
    current = new_pass()
    current.fail(Unavailable())
    with pytest.raises(PassEnded):
        await asyncio.wait_for(waits(current), 1)


async def test_what_a_handler_has_left_behind_is_cancelled_when_it_ends() -> None:
    current = new_pass()
    waiting = asyncio.create_task(waits(current))
    await turns(2)
    current.end()
    late = [asyncio.create_task(waits(current)), asyncio.create_task(current.check_running())]
    results = await asyncio.gather(waiting, *late, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    assert not current.ended_early


async def test_a_pass_that_fails_ends_with_its_first_reason() -> None:
    current = new_pass()
    waiting = asyncio.create_task(waits(current))
    await turns(1)
    first = Unavailable("first")
    current.fail(first)
    current.fail(Unavailable("second"))
    assert current.failure is first
    with pytest.raises(PassEnded):
        await waiting


async def test_a_step_that_is_cancelled_while_it_waits_is_not_at_work_any_more() -> None:
    current = new_pass()
    waiting = asyncio.create_task(waits(current))
    await turns(2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(current.idle(), 1)
    current.end()  # has nobody to tell


async def test_each_refusal_after_the_end_takes_longer_up_to_a_second() -> None:
    current = new_pass()
    await current.check_running()
    current.fail(Unavailable())
    loop = asyncio.get_running_loop()
    pauses: list[float] = []
    for _ in range(12):
        began = loop.time()
        with pytest.raises(PassEnded):
            await current.check_running()
        pauses.append(loop.time() - began)
    assert pauses[:3] == pytest.approx([0.001, 0.002, 0.004])
    assert pauses[-2:] == pytest.approx([1.0, 1.0])


# Names


def test_a_name_is_taken_once_in_its_scope() -> None:
    current = new_pass()
    assert current.names.claim((), "a", "run") != current.names.claim(("all", 0), "a", "run")
    with pytest.raises(DuplicateStepError, match="'a' was used twice"):
        current.names.claim((), "a", "sleep")


@pytest.mark.parametrize(
    ("record", "asked", "fits"),
    [
        (("step.a", StepRecord(name="a", kind="run", token="t")), "run", True),
        (("step.a", StepRecord(name="a", kind="run", token="t")), "sleep", False),
        (("wait.a", WaitRecord(name="a", kind="sleep", token="t")), "run", False),
        (("wait.a", WaitRecord(name="a", kind="sleep", token="t")), "sleep", True),
    ],
)
def test_a_recorded_step_has_to_be_asked_for_as_what_it_is(
    record: tuple[str, StepRecord | WaitRecord],
    asked: str,
    fits: bool,  # noqa: FBT001 - an expectation
) -> None:
    current = new_pass(record)
    claim: Callable[[], object] = lambda: current.names.claim((), "a", asked)  # type: ignore[arg-type]  # noqa: E731
    if fits:
        claim()
    else:
        with pytest.raises(NondeterminismError):
            claim()


def test_names_and_steps_are_bounded() -> None:
    current = new_pass(limits=Limits(steps_per_run=2, step_name_bytes=4))
    current.names.claim((), "éé", "run")
    with pytest.raises(LimitError, match="at most 4 bytes"):
        current.names.claim((), "ééx", "run")
    current.names.claim((), "b", "run")
    with pytest.raises(LimitError, match="at most 2 steps"):
        current.names.claim((), "c", "run")
    for name in ("", None, 5, "\ud800"):
        with pytest.raises(DefinitionError):
            current.names.claim((), name, "run")  # type: ignore[arg-type]


# Replaying


def test_a_pass_replays_until_it_comes_to_what_is_not_recorded() -> None:
    current = new_pass(
        ("step.a", StepRecord(name="a", kind="run", token="t")),
        ("wait.b", WaitRecord(name="b", kind="sleep", token="t")),
    )
    assert current.is_replaying
    current.names.claim((), "a", "run")
    assert current.is_replaying
    current.names.claim((), "b", "sleep")
    assert not current.is_replaying


def test_a_pass_that_executes_something_does_not_replay_although_recorded_steps_are_left() -> None:
    current = new_pass(("step.a", StepRecord(name="a", kind="run", token="t")))
    current.names.claim((), "new", "run")
    assert current.is_replaying
    current.executes()
    assert not current.is_replaying


# The signal


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PassEnded(), True),
        (BaseExceptionGroup("", [PassEnded(), BaseExceptionGroup("", [PassEnded()])]), True),
        (BaseExceptionGroup("", [PassEnded(), ValueError()]), False),
        (ValueError(), False),
        (asyncio.CancelledError(), False),
    ],
    ids=repr,
)
def test_the_signal_is_known_alone_and_in_groups(error: BaseException, expected: bool) -> None:  # noqa: FBT001
    assert is_pass_end(error) is expected


def test_the_signal_is_no_exception_and_says_what_to_do() -> None:
    assert not issubclass(PassEnded, Exception)
    assert "use 'except Exception'" in str(PassEnded())


# Gates


class Gate:
    """A group that lets new work begin when it is told to."""

    def __init__(self) -> None:
        self.lets_new_work_begin = False
        self.has_failed = False
        self.is_blocked = False

    def rests(self, change: int) -> None:
        pass

    def review(self) -> None:
        pass


def begins_behind(current: CurrentPass, gate: Gate) -> asyncio.Task[None]:
    """Be a step, in a branch of a group, that is about to begin."""

    async def begin() -> None:
        strand = Strand(group=gate)
        strand_here.set(strand)
        current.add(strand)
        with current.at_work():
            await current.may_begin()

    return asyncio.create_task(begin())


async def test_a_step_begins_when_its_group_lets_it() -> None:
    current, gate = new_pass(), Gate()
    step = begins_behind(current, gate)
    await turns(2)
    assert not step.done()
    gate.lets_new_work_begin = True
    current.open_gates()
    await step


async def test_a_step_that_waits_for_its_group_does_not_begin_in_a_pass_that_has_ended() -> None:
    current, gate = new_pass(), Gate()
    step = begins_behind(current, gate)
    await turns(2)
    current.fail(Unavailable())
    with pytest.raises(PassEnded):
        await step


async def test_a_step_does_not_begin_where_its_pass_ends_just_after_its_group_has_let_it() -> None:
    current, gate = new_pass(), Gate()
    step = begins_behind(current, gate)
    await turns(2)
    gate.lets_new_work_begin = True
    current.open_gates()
    current.fail(Unavailable())
    with pytest.raises(PassEnded):
        await step
