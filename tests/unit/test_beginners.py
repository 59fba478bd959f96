"""Runs that soon sleep shortly begin few at a time, and nothing else is held up by that for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ironflow.records import OutcomeRecord, Task
from ironflow_worker.beginners import COUNTS_SECONDS, Beginners

pytestmark = pytest.mark.virtual_time

NOW_MS = 1_000_000
LIMITS = ((10_000, 2), (60_000, 4))


def sleeps(ms: int) -> dict[str, Any]:
    return {"status": "suspended", "only_sleeps": True, "due_ms": NOW_MS + ms}


SLEEPS = sleeps(10_000)
OTHERWISE: dict[str, dict[str, Any]] = {
    "completes": {"status": "completed"},
    "sleeps long": sleeps(60_001),
    "waits for something else too": {**SLEEPS, "only_sleeps": False},
}


class Bed:
    """Runs that begin, two or four at a time where that is limited."""

    def __init__(self) -> None:
        self._beginners = Beginners(asyncio.get_running_loop().time, LIMITS)
        self._starting: dict[str, asyncio.Task[None]] = {}
        self.begun: list[str] = []

    async def start(self, *runs: str, function: str = "f", number: int = 0) -> None:
        for run in runs:
            task = Task(run=run, function=function, number=number, started_at=0)
            self._starting[run] = asyncio.create_task(self._start(task))
        await self.turn()

    async def _start(self, task: Task) -> None:
        await self._beginners.turn(task)
        self.begun.append(task.run)

    async def end(self, run: str, *, function: str = "f", number: int = 0, **how: Any) -> None:
        outcome = OutcomeRecord(number=number, token="", **(how or SLEEPS))
        self._beginners.ended(Task(run=run, function=function, number=number, started_at=0), outcome, NOW_MS)
        await self.turn()

    async def cancel(self, run: str) -> None:
        self._starting[run].cancel()
        await self.turn()

    async def turn(self) -> None:
        """Let happen what takes no time."""
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def bed() -> Bed:
    return Bed()


async def test_of_a_function_that_nothing_is_known_of_few_begin_and_the_next_one_when_one_has_ended(bed: Bed) -> None:
    await bed.start("a", "b", "c", "d")
    assert bed.begun == ["a", "b"]
    await bed.end("b")
    assert bed.begun == ["a", "b", "c"]
    await bed.start("e")
    await bed.end("a")
    assert bed.begun == ["a", "b", "c", "d"]


@pytest.mark.parametrize("how", OTHERWISE.values(), ids=OTHERWISE)
async def test_where_one_does_not_begin_with_a_short_sleep_all_that_wait_begin(bed: Bed, how: dict[str, Any]) -> None:
    await bed.start("a", "b", "c", "d", "e")
    await bed.start("x", function="g")
    await bed.end("a", **how)
    assert bed.begun == ["a", "b", "c", "d", "e", "x"]
    await bed.start("f", "g", "h")
    assert bed.begun[-3:] == ["f", "g", "h"]


async def test_the_longer_the_sleep_is_the_more_begin_at_a_time(bed: Bed) -> None:
    await bed.start(*"abcdefgh")
    assert bed.begun == ["a", "b"]
    await bed.end("a", **sleeps(10_001))
    assert bed.begun == [*"abcdef"]  # "b" counts where it began
    await bed.end("c", **sleeps(60_000))
    assert bed.begun == [*"abcdefg"]
    await bed.start("i")
    await bed.end("d", **SLEEPS)
    assert bed.begun == [*"abcdefgh"]  # beside "b"
    await bed.end("b")
    assert bed.begun == [*"abcdefghi"]


async def test_functions_that_sleep_as_shortly_as_each_other_stand_in_one_line(bed: Bed) -> None:
    await bed.start("a", "b")
    await bed.start("x", "y", function="g")
    await bed.end("a", **sleeps(60_000))
    assert bed.begun == ["a", "b", "x"]
    await bed.end("x", function="g")
    assert bed.begun == ["a", "b", "x", "y"]


async def test_what_was_seen_last_counts(bed: Bed) -> None:
    await bed.start("a")
    await bed.end("a", status="completed")
    await bed.start("b", "c", "d")
    await bed.end("b")
    await bed.start("e", "f", "g")
    assert bed.begun == ["a", "b", "c", "d", "e", "f"]


async def test_one_that_takes_its_time_holds_up_nobody_for_longer_than_a_moment(bed: Bed) -> None:
    await bed.start("a", "b", "c", "d", "e")
    await asyncio.sleep(COUNTS_SECONDS * 1.1)
    assert bed.begun == ["a", "b", "c", "d"]
    await asyncio.sleep(COUNTS_SECONDS * 1.1)
    assert bed.begun == ["a", "b", "c", "d", "e"]


async def test_one_that_has_counted_long_enough_makes_room_for_one_when_it_ends(bed: Bed) -> None:
    await bed.start("a", "b")
    await asyncio.sleep(COUNTS_SECONDS * 1.1)
    await bed.start("c", "d", "e")
    await bed.end("a")
    await bed.end("b")
    assert bed.begun == ["a", "b", "c", "d"]


async def test_later_passes_do_not_wait_and_say_nothing_of_how_runs_begin(bed: Bed) -> None:
    await bed.start("a", "b", "c")
    await bed.start("later", number=1)
    await bed.end("later", number=1, status="completed")
    assert bed.begun == ["a", "b", "later"]


async def test_one_that_is_cancelled_while_it_waits_takes_no_place(bed: Bed) -> None:
    await bed.start("a", "b", "c", "d")
    await bed.cancel("c")
    await bed.end("a")
    assert bed.begun == ["a", "b", "d"]
