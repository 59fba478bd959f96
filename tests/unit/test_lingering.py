"""How long passes linger, and how many."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.records import StepRecord, WaitEnd
from ironflow_worker.lingering import Lingerers, Lingering
from ironflow_worker.slots import Slots

pytestmark = pytest.mark.virtual_time

END = WaitEnd(step="go", record=StepRecord(name="go", kind="wait_for_event", token=""))


class Pass:
    """A pass that waits for one event."""

    def __init__(self, lingerers: Lingerers) -> None:
        self.lingering = Lingering(lingerers, Slots(1, bool).come())
        self.lingering.add("go")
        self.end = self.lingering.end_of("go")
        self.left_at: float | None = None

    def begin(self) -> bool:
        return self.lingering.begin(1, self._leave)

    def _leave(self) -> None:
        self.left_at = asyncio.get_running_loop().time()


async def test_a_pass_that_is_told_nothing_has_to_go_after_a_while() -> None:
    lingers = Pass(Lingerers(seconds=2.0))
    began = asyncio.get_running_loop().time()
    assert lingers.begin()
    await asyncio.sleep(10)
    assert lingers.left_at == pytest.approx(began + 2.0)


async def test_a_pass_that_is_told_need_not_go() -> None:
    lingers = Pass(Lingerers(3.0))
    assert lingers.begin()
    assert lingers.lingering.tell(END)
    assert await lingers.end == END.record
    lingers.lingering.discard("go")
    await asyncio.sleep(10)
    assert lingers.left_at is None


async def test_a_pass_is_told_of_nothing_else_and_of_nothing_twice() -> None:
    lingers = Pass(Lingerers(3.0))
    assert lingers.begin()
    assert not lingers.lingering.tell(WaitEnd(step="other", record=END.record))
    assert lingers.lingering.tell(END)
    assert not lingers.lingering.tell(END)


async def test_where_too_many_linger_the_one_that_began_first_has_to_go() -> None:
    lingerers = Lingerers(3.0, most=2)
    first, second, third = Pass(lingerers), Pass(lingerers), Pass(lingerers)
    assert first.begin()
    assert second.begin()
    assert first.left_at is None
    assert third.begin()
    assert (first.left_at is None, second.left_at, third.left_at) == (False, None, None)


async def test_a_pass_that_settles_once_more_lingers_no_longer_for_that() -> None:
    lingers = Pass(Lingerers(seconds=2.0))
    began = asyncio.get_running_loop().time()
    assert lingers.begin()
    await asyncio.sleep(1.5)
    assert lingers.begin()
    await asyncio.sleep(10)
    assert lingers.left_at == pytest.approx(began + 2.0)


async def test_a_pass_does_not_linger_where_it_waits_for_something_else_too() -> None:
    lingers = Pass(Lingerers(3.0))
    assert not lingers.lingering.begin(2, lingers.begin)
    await asyncio.sleep(10)
    assert lingers.left_at is None


async def test_a_pass_that_is_not_to_linger_any_more_does_not_begin_with_it() -> None:
    lingers, never = Pass(Lingerers(3.0)), Pass(Lingerers(3.0))
    assert lingers.begin()
    lingers.lingering.leave()
    assert lingers.left_at is not None
    never.lingering.leave()
    assert not never.begin()
    assert not never.lingering.is_worthwhile(3_600_000)


async def test_once_its_worker_drains_no_pass_lingers() -> None:
    lingerers = Lingerers(3.0, most=2)
    lingers, late = Pass(lingerers), Pass(lingerers)
    assert lingers.begin()
    lingerers.close()
    assert lingers.left_at is not None
    assert not late.begin()
    assert not late.lingering.is_worthwhile(3_600_000)


async def test_where_passes_are_not_to_linger_none_does() -> None:
    lingers = Pass(Lingerers(seconds=0))
    assert not lingers.begin()
    assert not lingers.lingering.is_worthwhile(3_600_000)


@pytest.mark.parametrize(("timeout_ms", "worthwhile"), [(1_000, False), (6_000, False), (6_001, True)])
async def test_a_pass_does_not_linger_for_a_wait_that_may_time_out_meanwhile(
    timeout_ms: int,
    worthwhile: bool,  # noqa: FBT001 - a table
) -> None:
    assert Lingerers(seconds=3.0).is_worthwhile(timeout_ms) is worthwhile
