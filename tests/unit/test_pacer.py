"""Calls that nobody answers ask in turns, and go on one behind the other once somebody does."""

from __future__ import annotations

import asyncio
import bisect

import pytest

from ironflow.broker.nats.pacer import Pacer
from ironflow.broker.protocol import Ambiguous, NoSuchStream, Unavailable

pytestmark = pytest.mark.virtual_time

MOST_A_SECOND = 21
"""One each 50 ms, at the begin and at the end of the second."""
CALLS = 300
ROUND_TRIP_SECONDS = 0.01


class Place:
    """Answers from some time on, and knows when it was asked."""

    def __init__(self, up_after: float) -> None:
        self.pacer = Pacer()
        self.loop = asyncio.get_running_loop()
        self.up_at = self.loop.time() + up_after
        self.closed = False
        self.in_vain: list[float] = []
        self.heard: list[float] = []
        self.at_a_time = 0
        self.most_at_a_time = 0

    async def answer(self, _seconds: float) -> str:
        is_up = self.loop.time() >= self.up_at
        self.at_a_time += is_up
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        if not is_up:
            self.in_vain.append(self.loop.time())
            raise Unavailable("no leader")
        self.at_a_time -= 1
        self.heard.append(self.loop.time())
        return "answer"

    async def call(self, place: str = "stream", patience: float = 15.0) -> str:
        return await self.pacer.persist(
            place, self.answer, answer_seconds=5.0, patience_seconds=patience, is_closed=lambda: self.closed
        )

    def close(self) -> None:
        self.closed = True
        self.pacer.close()

    def most_in_vain_in_a_second(self, after: float = 0.0) -> int:
        moments = [moment for moment in self.in_vain if moment > after]
        return max(bisect.bisect_left(moments, moment + 1) - place for place, moment in enumerate(moments))


async def test_of_many_calls_that_nobody_answers_few_ask_again() -> None:
    place = Place(up_after=7)
    known = place.loop.time() + ROUND_TRIP_SECONDS
    assert await asyncio.gather(*(place.call() for _ in range(CALLS))) == ["answer"] * CALLS
    # Each had asked once before it could know.
    assert len([moment for moment in place.in_vain if moment <= known]) == CALLS
    assert place.most_in_vain_in_a_second(after=known) <= MOST_A_SECOND


async def test_a_call_that_begins_while_others_wait_does_not_ask_by_itself() -> None:
    place = Place(up_after=7)
    first = asyncio.create_task(place.call())
    await asyncio.sleep(2 * ROUND_TRIP_SECONDS)
    others = [asyncio.create_task(place.call()) for _ in range(CALLS)]
    await asyncio.sleep(2 * ROUND_TRIP_SECONDS)
    assert len(place.in_vain) == 1
    await asyncio.gather(first, *others)
    assert place.most_in_vain_in_a_second() <= MOST_A_SECOND


async def test_many_places_share_what_one_connection_may_ask() -> None:
    place = Place(up_after=7)
    known = place.loop.time() + ROUND_TRIP_SECONDS
    await asyncio.gather(*(place.call(f"stream-{number % 10}") for number in range(CALLS)))
    assert place.most_in_vain_in_a_second(after=known) <= MOST_A_SECOND


async def test_once_somebody_answers_all_go_on_soon_and_not_at_once() -> None:
    place = Place(up_after=7)
    await asyncio.gather(*(place.call() for _ in range(CALLS)))
    assert max(place.heard) - place.up_at <= 1.0
    assert place.most_at_a_time <= CALLS / 2
    assert place.pacer.idle


async def test_a_place_without_answers_holds_up_no_other() -> None:
    place, well = Place(up_after=7), Place(up_after=0)
    waiting = asyncio.create_task(place.call())
    await asyncio.sleep(0.5)
    began = place.loop.time()
    await place.pacer.persist("other", well.answer, answer_seconds=5.0, patience_seconds=15.0, is_closed=lambda: False)
    assert place.loop.time() - began == pytest.approx(ROUND_TRIP_SECONDS)
    await waiting


async def test_whoever_asks_seldom_does_not_push_back_those_that_ask_soon() -> None:
    pacer = Pacer()
    late = [pacer.delay(1.0) for _ in range(10)]
    assert min(late) >= 0.75
    assert pacer.delay(0.05) <= 0.15


async def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    pacer = Pacer()
    pacer.in_vain("stream")
    assert not pacer.idle
    await asyncio.sleep(1)
    assert pacer.idle


async def test_those_that_give_up_hold_up_nobody() -> None:
    place = Place(up_after=7)
    impatient = [asyncio.create_task(place.call(patience=3.0)) for _ in range(CALLS)]
    cancelled = [asyncio.create_task(place.call()) for _ in range(CALLS)]
    patient = asyncio.create_task(place.call())
    await asyncio.sleep(1)
    for task in cancelled:
        task.cancel()
    assert await patient == "answer"
    assert place.loop.time() - place.up_at <= 1.0
    failures = await asyncio.gather(*impatient, return_exceptions=True)
    assert {type(failure) for failure in failures} == {Unavailable}
    assert "no leader" in str(failures[0])


async def test_those_that_wait_learn_at_once_that_the_connection_was_closed() -> None:
    place = Place(up_after=3600)
    calls = [asyncio.create_task(place.call(f"stream-{number % 3}")) for number in range(CALLS)]
    turn = asyncio.create_task(place.pacer.turn("stream-0", place.loop.time() + 15))
    await asyncio.sleep(2)
    place.close()
    closed_at = place.loop.time()
    assert {type(failure) for failure in await asyncio.gather(*calls, return_exceptions=True)} == {Unavailable}
    assert await turn
    with pytest.raises(Unavailable):
        await place.call("stream-0")
    assert place.loop.time() - closed_at <= 3 * ROUND_TRIP_SECONDS
    assert place.pacer.idle


async def test_an_answer_that_refuses_is_an_answer() -> None:
    pacer = Pacer()
    pacer.in_vain("stream")

    async def refuse(_seconds: float) -> None:
        raise NoSuchStream("there is none")

    with pytest.raises(NoSuchStream):
        await pacer.persist("stream", refuse, answer_seconds=5, patience_seconds=15, is_closed=lambda: False)
    assert pacer.idle


async def test_what_is_closed_is_not_asked_again() -> None:
    asked: list[float] = []

    async def time_out(seconds: float) -> None:
        asked.append(seconds)
        raise Ambiguous("the connection was closed")

    with pytest.raises(Unavailable, match="closed"):
        await Pacer().persist("stream", time_out, answer_seconds=5, patience_seconds=15, is_closed=lambda: True)
    assert asked == [5]
