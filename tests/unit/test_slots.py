"""How many passes go on at a time, and what becomes of the slots of those that sleep."""

from __future__ import annotations

import asyncio

import pytest

from ironflow_worker.slots import Slot, Slots

pytestmark = pytest.mark.virtual_time


class Bench:
    """Slots, the tasks that were asked for, and how many passes are said to go on."""

    def __init__(self, count: int, most_lent: int = 1_000) -> None:
        self.asked = 0
        self.running = 0
        self.slots = Slots(count, self._ask, self._count, most_lent)
        self.slots.fill()

    def _ask(self, tasks: int) -> None:
        self.asked += tasks

    def _count(self, change: int) -> None:
        self.running += change

    async def begin(self) -> Slot:
        slot = self.slots.come()
        await slot.take()
        return slot

    async def waits(self, slot: Slot) -> asyncio.Task[None]:
        """Have a pass take its slot, which it does not get yet."""
        taking = asyncio.create_task(slot.take())
        await asyncio.sleep(1)
        assert not taking.done()
        return taking


async def test_as_many_tasks_are_asked_for_as_may_begin_and_one_for_each_that_leaves() -> None:
    bench = Bench(2)
    assert bench.asked == 2
    first, _ = await bench.begin(), await bench.begin()
    assert (bench.asked, bench.running) == (2, 2)
    first.leave()
    assert (bench.asked, bench.running) == (3, 1)


async def test_a_slot_that_is_lent_lets_another_pass_begin() -> None:
    bench = Bench(1)
    sleeping = await bench.begin()
    sleeping.lend()
    assert (bench.asked, bench.running) == (2, 0)
    await bench.begin()
    assert bench.running == 1


async def test_behind_its_sleep_a_pass_waits_for_a_slot_and_never_more_go_on_than_there_are() -> None:
    bench = Bench(1)
    sleeping = await bench.begin()
    sleeping.lend()
    other = await bench.begin()
    back = asyncio.create_task(sleeping.take_back())
    await asyncio.sleep(1)
    assert not back.done()
    other.leave()
    await back
    assert (bench.asked, bench.running) == (2, 1)
    sleeping.leave()
    assert (bench.asked, bench.running) == (3, 0)


async def test_where_its_slot_is_free_a_pass_goes_on_at_once_and_a_task_that_comes_meanwhile_waits() -> None:
    bench = Bench(1)
    sleeping = await bench.begin()
    sleeping.lend()
    await sleeping.take_back()
    # It was asked for while the slot was lent, and cannot be taken back.
    late = bench.slots.come()
    taking = await bench.waits(late)
    sleeping.leave()
    await taking
    assert (bench.asked, bench.running) == (2, 1)


async def test_those_that_wait_have_their_turns_in_order() -> None:
    bench = Bench(1)
    sleeping = await bench.begin()
    sleeping.lend()
    other = await bench.begin()
    order: list[str] = []

    async def take(slot: Slot, name: str) -> None:
        await (slot.take_back() if slot is sleeping else slot.take())
        order.append(name)
        slot.leave()

    async with asyncio.TaskGroup() as group:
        group.create_task(take(sleeping, "the one that slept"))
        await asyncio.sleep(0)
        other.leave()
    assert order == ["the one that slept"]


@pytest.mark.parametrize("is_its_turn", [False, True])
async def test_one_that_gives_up_while_it_waits_takes_no_slot_along(*, is_its_turn: bool) -> None:
    bench = Bench(1)
    first = await bench.begin()
    first.lend()
    second = await bench.begin()
    back = asyncio.create_task(first.take_back())
    await asyncio.sleep(0)
    if is_its_turn:
        second.leave()
    back.cancel()
    await asyncio.gather(back, return_exceptions=True)
    first.leave()
    if not is_its_turn:
        second.leave()
    assert bench.running == 0
    assert bench.asked == 3
    await bench.begin()
    assert bench.running == 1


async def test_a_pass_that_ends_while_its_slot_is_lent_leaves_nothing_behind() -> None:
    bench = Bench(1, most_lent=1)
    for _ in range(3):
        sleeping = await bench.begin()
        sleeping.lend()
        sleeping.leave()
    assert bench.running == 0


async def test_beyond_so_many_a_pass_keeps_its_slot_while_it_sleeps() -> None:
    bench = Bench(2, most_lent=1)
    first, second = await bench.begin(), await bench.begin()
    first.lend()
    second.lend()
    assert (bench.asked, bench.running) == (3, 1)
    await second.take_back()
    assert bench.running == 1


async def test_a_task_that_leaves_without_having_begun_is_made_up_for() -> None:
    bench = Bench(1)
    bench.slots.come().leave()
    assert (bench.asked, bench.running) == (2, 0)
