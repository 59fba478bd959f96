"""The loop whose clock jumps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from ironflow.broker.local.virtual_time import StuckError, VirtualTimeLoop, run_virtual

T = TypeVar("T")

DAY = 24 * 60 * 60
INSTANT_SECONDS = 1.0
"""Far less than what is slept in virtual time, and enough for a busy machine."""


def run_instantly(main: Coroutine[Any, Any, T]) -> T:
    """Run in virtual time, and assert that it takes next to none of the real one."""
    started = time.monotonic()
    result = run_virtual(main)
    assert time.monotonic() - started < INSTANT_SECONDS
    return result


def clock() -> float:
    return asyncio.get_running_loop().time()


def virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def test_a_day_passes_at_once() -> None:
    async def main() -> float:
        assert clock() == 0.0
        await asyncio.sleep(DAY)
        return clock()

    assert run_instantly(main()) == DAY


def test_a_year_passes_at_once_and_is_exact() -> None:
    async def main() -> float:
        await asyncio.sleep(0.1)
        await asyncio.sleep(366 * DAY)
        # Where floats lie further apart than the resolution of the system's clock.
        for delay in (0.1, 1e-6, 1e-9, 1e-12):
            fired = asyncio.Event()
            asyncio.get_running_loop().call_later(delay, fired.set)
            await fired.wait()
        return clock()

    assert run_instantly(main()) == pytest.approx(366 * DAY + 0.2, abs=1e-5)


def test_no_timer_is_early_and_all_keep_their_order() -> None:
    delays = [0.3, 0.1, 5.0, 0.2, 0.1, 3600.0, 1e-6, 0.0]

    async def main() -> list[tuple[float, float]]:
        ended: list[tuple[float, float]] = []

        async def sleep(delay: float) -> None:
            await asyncio.sleep(delay)
            ended.append((delay, clock()))

        await asyncio.gather(*(sleep(delay) for delay in delays))
        return ended

    ended = run_instantly(main())
    assert [delay for delay, _ in ended] == sorted(delays)
    assert all(at == pytest.approx(delay, abs=1e-9) for delay, at in ended)


def test_time_stands_still_while_anything_is_ready() -> None:
    async def main() -> float:
        timer = asyncio.create_task(asyncio.sleep(1e-3))
        for _ in range(10_000):
            await asyncio.sleep(0)
        assert not timer.done()
        at = clock()
        await timer
        return at

    assert run_virtual(main()) == 0.0


def test_time_outs_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return clock()

    assert run_instantly(main()) == 3600


def test_what_a_program_returns_or_raises_comes_out() -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        run_virtual(fails())


def test_the_clock_does_not_jump_while_a_thread_is_at_work() -> None:
    released = threading.Event()

    async def main() -> None:
        far = asyncio.create_task(asyncio.sleep(DAY))
        working = asyncio.create_task(asyncio.to_thread(released.wait, 10))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not far.done()
        assert clock() < 10
        released.set()
        assert await working
        assert clock() < 10
        await far
        assert clock() == DAY

    run_virtual(main())


def test_the_result_of_a_thread_comes_when_it_is_there() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()

        def work() -> int:
            time.sleep(0.05)
            return threading.get_ident()

        with ThreadPoolExecutor(1) as executor:
            assert await loop.run_in_executor(executor, work) != threading.get_ident()
        return clock()

    assert 0.04 < run_virtual(main()) < 10


def test_a_time_out_ends_the_wait_for_a_thread_in_real_time() -> None:
    released = threading.Event()

    async def main() -> None:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.to_thread(released.wait, 10)
        assert 0.09 < time.monotonic() - started < 5
        # Nobody waits for that thread any more, so it holds up nothing.
        await asyncio.sleep(DAY)
        assert clock() > DAY
        released.set()

    run_virtual(main())


def test_a_thread_may_call_the_loop_back() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        called: list[int] = []
        arrived = asyncio.Event()

        def work() -> None:
            time.sleep(0.02)
            loop.call_soon_threadsafe(called.append, 1)
            called.append(asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, 2), loop).result(10))
            loop.call_soon_threadsafe(arrived.set)

        await asyncio.gather(asyncio.to_thread(work), arrived.wait())
        return called

    assert run_virtual(main()) == [1, 2]


def test_a_failing_thread_does_not_hold_the_clock_for_ever() -> None:
    def fails() -> None:
        raise LookupError("in the thread")

    async def main() -> None:
        with pytest.raises(LookupError, match="in the thread"):
            await asyncio.to_thread(fails)
        await asyncio.sleep(DAY)

    run_instantly(main())


def test_hold_waits_for_a_thread_that_the_loop_does_not_know() -> None:
    async def main() -> float:
        loop = virtual_loop()
        arrived = asyncio.Event()
        far = asyncio.create_task(asyncio.sleep(DAY))
        with loop.hold():
            thread = threading.Timer(0.05, loop.call_soon_threadsafe, (arrived.set,))
            thread.start()
            await arrived.wait()
        at = clock()
        thread.join()
        await far
        return at

    assert 0.04 < run_virtual(main()) < 10


def test_a_program_that_nothing_can_wake_is_told_where_it_waits() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(1)
        await asyncio.create_task(waits_for_ever(), name="the stuck one")

    with pytest.raises(StuckError, match=r"the stuck one: .*waits_for_ever \(.*test_virtual_time.py:\d+\)"):
        run_instantly(main())


def test_a_program_that_only_keeps_ticking_is_ended() -> None:
    ticks = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(60)
            ticks += 1

    async def main() -> None:
        ticking = asyncio.create_task(ticker())
        await asyncio.Event().wait()
        ticking.cancel()

    with pytest.raises(StuckError, match=r"(?s)after 3600 s .*ticker"):
        run_virtual(main(), longest_seconds=3600)
    assert ticks == 60


def test_a_program_may_clean_up_after_its_time_is_over() -> None:
    cleaned_up: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(101)
        finally:
            await asyncio.sleep(5)
            cleaned_up.append("slowly")

    with pytest.raises(StuckError):
        run_virtual(main(), longest_seconds=100)
    assert cleaned_up == ["slowly"]


def test_sockets_of_the_same_program_work() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        with virtual_loop().hold():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            async with server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"hello\n")
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
            return answer

    assert run_virtual(main()) == b"hello\n"


def test_each_run_has_a_clock_of_its_own() -> None:
    async def main() -> float:
        at = clock()
        await asyncio.sleep(DAY)
        return at

    assert [run_virtual(main()) for _ in range(3)] == [0.0, 0.0, 0.0]
