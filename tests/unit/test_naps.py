"""The sleeps that end within a pass: by whose clock, and with whose slot."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.server_clock import ServerClock
from ironflow_worker.naps import LONGEST_SECONDS, Naps
from ironflow_worker.slots import Slot, Slots

pytestmark = pytest.mark.virtual_time

SERVER_MS = 1_000_000


class Bench:
    """The naps of one pass, at a time that the server has just told."""

    def __init__(self) -> None:
        self.asked = 0
        slots = Slots(1, self._ask)
        slots.fill()
        self.slot: Slot = slots.come()
        self.clock = ServerClock(asyncio.get_running_loop().time)
        self.clock.observe(SERVER_MS)
        self.naps = Naps(self.clock, self.slot)

    def _ask(self, tasks: int) -> None:
        self.asked += tasks

    def sleeps(self, milliseconds: float) -> asyncio.Future[None]:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.naps.add(end, round(SERVER_MS + milliseconds))
        return end


async def test_a_sleep_ends_when_the_server_s_clock_has_surely_reached_its_end() -> None:
    bench = Bench()
    end = bench.sleeps(1_500)
    assert bench.naps.begin()
    await end
    assert 0 <= bench.clock.at_least_ms() - (SERVER_MS + 1_500) < 3


async def test_a_sleep_that_is_over_already_ends_at_once() -> None:
    bench = Bench()
    end = bench.sleeps(-1)
    assert bench.naps.begin()
    assert end.done()


async def test_a_sleep_that_ends_later_is_not_waited_for() -> None:
    bench = Bench()
    later = bench.sleeps(LONGEST_SECONDS * 1000 + 500)
    assert not bench.naps.begin()
    assert not later.done()


async def test_while_only_later_sleeps_are_left_the_earlier_ones_have_ended() -> None:
    bench = Bench()
    soon, later = bench.sleeps(1_000), bench.sleeps(LONGEST_SECONDS * 1000 + 1_500)
    assert bench.naps.begin()
    await soon
    bench.naps.discard(soon)
    assert not bench.naps.begin()
    bench.naps.discard(later)


async def test_what_is_over_before_the_first_sleep_ends_is_not_kept_waiting() -> None:
    bench = Bench()
    sleeping = [bench.sleeps(1_000), bench.sleeps(2_000)]
    assert not bench.naps.begin(SERVER_MS + 999.5)
    await asyncio.sleep(3)
    assert not any(end.done() for end in sleeping)
    assert bench.naps.begin(SERVER_MS + 1_000)


async def test_a_step_that_sleeps_no_more_is_left_alone() -> None:
    bench = Bench()
    end = bench.sleeps(1_000)
    assert bench.naps.begin()
    bench.naps.discard(end)
    await asyncio.sleep(2)
    assert not end.done()


async def test_others_have_the_slot_while_the_pass_sleeps() -> None:
    bench = Bench()
    await bench.slot.take()
    end = bench.sleeps(1_000)
    assert bench.naps.begin()
    assert bench.asked == 2
    await end
    await asyncio.gather(bench.naps.awake(), bench.naps.awake())
    bench.slot.leave()
    assert bench.asked == 2


async def test_a_worker_that_has_not_heard_of_the_time_waits_for_no_sleep() -> None:
    bench = Bench()
    naps = Naps(ServerClock(asyncio.get_running_loop().time), bench.slot)
    naps.add(asyncio.get_running_loop().create_future(), SERVER_MS)
    assert not naps.begin()
