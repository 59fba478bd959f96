"""Suspects run by themselves, and nobody waits for long because of it."""

from __future__ import annotations

import asyncio

import pytest

from ironflow_worker.quarantine import ALONE_SECONDS, LONGEST_WAIT_SECONDS, WAIT_SECONDS, Quarantine

pytestmark = pytest.mark.virtual_time


class Passes:
    """Executes passes, and notes when each was at work."""

    def __init__(self) -> None:
        self.quarantine = Quarantine()
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, seconds: float, *, alone: bool = False) -> None:
        """Have a pass want to begin; return when it has been looked at."""
        self._tasks[name] = asyncio.create_task(self._execute(name, seconds, alone=alone))
        await asyncio.sleep(0)

    def cancel(self, name: str) -> None:
        self._tasks[name].cancel()

    async def end(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _execute(self, name: str, seconds: float, *, alone: bool) -> None:
        loop = asyncio.get_running_loop()
        with await self.quarantine.enter(alone=alone):
            self.begun[name] = loop.time()
            await asyncio.sleep(seconds)
        self.ended[name] = loop.time()


async def test_passes_that_nothing_is_known_of_run_side_by_side() -> None:
    passes = Passes()
    for name in "abc":
        await passes.begin(name, 1)
    await passes.end()
    assert len(set(passes.begun.values())) == 1


async def test_a_suspect_begins_when_the_others_have_ended_and_they_when_it_has() -> None:
    passes = Passes()
    await passes.begin("before", 0.5)
    await passes.begin("suspect", 0.2, alone=True)
    await passes.begin("behind", 0.1)
    await passes.end()
    assert passes.begun["suspect"] == passes.ended["before"]
    assert passes.begun["behind"] == passes.ended["suspect"]


async def test_two_suspects_run_one_after_the_other_and_those_that_wait_go_in_between() -> None:
    passes = Passes()
    for name in ("one", "other"):
        await passes.begin(name, 0.2, alone=True)
    await passes.begin("behind", 0.1)
    await passes.end()
    assert passes.begun["behind"] == passes.ended["one"]
    assert passes.begun["other"] == passes.ended["behind"]


async def test_a_suspect_waits_for_long_passes_no_longer_than_it_has_to() -> None:
    passes = Passes()
    await passes.begin("long", 3600)
    began = passes.begun["long"]
    await passes.begin("suspect", 0.1, alone=True)
    await passes.begin("behind", 0.1)
    await passes.end()
    assert passes.begun["suspect"] == pytest.approx(began + WAIT_SECONDS)
    assert passes.begun["behind"] == passes.ended["suspect"]


async def test_nobody_waits_long_for_a_suspect_that_takes_its_time() -> None:
    passes = Passes()
    await passes.begin("suspect", 3600, alone=True)
    began = passes.begun["suspect"]
    await passes.begin("behind", 0.1)
    await passes.begin("next", 0.1, alone=True)
    await passes.end()
    assert passes.begun["behind"] == pytest.approx(began + ALONE_SECONDS)
    assert passes.begun["next"] == pytest.approx(began + ALONE_SECONDS + WAIT_SECONDS)


async def test_of_many_suspects_that_take_their_time_none_waits_for_all_the_others() -> None:
    passes = Passes()
    began = asyncio.get_running_loop().time()
    for number in range(100):
        await passes.begin(f"suspect {number}", 600, alone=True)
    await asyncio.sleep(LONGEST_WAIT_SECONDS + 0.1)
    assert len(passes.begun) == 100
    assert max(passes.begun.values()) == pytest.approx(began + LONGEST_WAIT_SECONDS)
    await passes.begin("behind", 0.1)
    behind = asyncio.get_running_loop().time()
    await passes.end()
    assert passes.begun["behind"] <= behind + ALONE_SECONDS


async def test_a_suspect_that_has_waited_for_long_enough_keeps_nobody_out() -> None:
    passes = Passes()
    await passes.begin("before", 0.5)
    began = passes.begun["before"]
    for number in range(4):
        await passes.begin(f"suspect {number}", 600, alone=True)
    await asyncio.sleep(0.5 + 2 * (ALONE_SECONDS + WAIT_SECONDS) + ALONE_SECONDS + 0.1)
    assert passes.begun["suspect 3"] == pytest.approx(began + LONGEST_WAIT_SECONDS)
    now = asyncio.get_running_loop().time()
    await passes.begin("behind", 0.1)
    assert passes.begun["behind"] == now
    await passes.end()


async def test_a_suspect_whose_turn_comes_late_waits_for_others_for_less_long() -> None:
    passes = Passes()
    await passes.begin("before", 0.5)
    began = passes.begun["before"]
    for number, seconds in enumerate((600, 600, 0.2, 1)):
        await passes.begin(f"suspect {number}", seconds, alone=True)
    await passes.end()
    assert passes.ended["suspect 2"] == pytest.approx(began + 4.7)
    assert passes.begun["suspect 3"] == pytest.approx(began + LONGEST_WAIT_SECONDS)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_suspect_that_is_cancelled_keeps_nobody_out(*, waits: bool) -> None:
    passes = Passes()
    if waits:
        await passes.begin("before", 0.5)
    await passes.begin("suspect", 0.5, alone=True)
    await asyncio.sleep(0.1)
    passes.cancel("suspect")
    await asyncio.sleep(0)
    cancelled_at = asyncio.get_running_loop().time()
    await passes.begin("behind", 0.1)
    await passes.end()
    assert passes.begun["behind"] == cancelled_at
    assert "suspect" not in passes.ended
