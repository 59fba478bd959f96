"""Who renews leases, when, and from where."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import pytest

from ironflow.broker.protocol import Broker, Denied
from ironflow_worker.leases import InlineLeaseKeeper, Leases, ThreadLeaseKeeper
from tests.support import eventually


class Renewals:
    """Stands in for a connection, and notes what is renewed on it."""

    def __init__(self) -> None:
        self.renewed: list[tuple[str, float]] = []
        self.threads: set[int] = set()
        self.closed = False
        self.connected = True

    def renew(self, lease: str) -> bool:
        if not self.connected:
            return False
        self.renewed.append((lease, asyncio.get_running_loop().time()))
        self.threads.add(threading.get_ident())
        return True

    async def close(self) -> None:
        self.closed = True

    def times(self, lease: str) -> list[float]:
        return [at for name, at in self.renewed if name == lease]


class Seen:
    stopped = False

    async def stop(self) -> None:
        self.stopped = True


async def be_seen(_broker: Broker) -> Seen:
    return Seen()


def as_broker(renewals: Renewals) -> Broker:
    return cast("Broker", renewals)


@pytest.mark.virtual_time
async def test_a_lease_is_renewed_every_third_of_its_time_while_it_is_held() -> None:
    leases, renewals = Leases(9.0, asyncio.get_running_loop().time), Renewals()
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        await asyncio.sleep(10)
    await asyncio.sleep(100)
    await keeper.stop()
    await keeper.stop()
    assert renewals.times("a") == pytest.approx([3.0, 6.0, 9.0])


@pytest.mark.virtual_time
async def test_a_lease_that_gets_shorter_is_renewed_in_time_at_once() -> None:
    leases, renewals = Leases(90.0, asyncio.get_running_loop().time), Renewals()
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        await asyncio.sleep(5)
        leases.change(3.0)
        await asyncio.sleep(2.5)
    await keeper.stop()
    assert renewals.times("a") == pytest.approx([5.0, 6.0, 7.0])


@pytest.mark.virtual_time
async def test_a_lease_that_is_taken_after_a_rest_is_renewed_in_time() -> None:
    leases, renewals = Leases(9.0, asyncio.get_running_loop().time), Renewals()
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    await asyncio.sleep(100)
    with leases.hold("a"), leases.hold("b"):
        await asyncio.sleep(7)
    await asyncio.sleep(100)
    with leases.hold("c"):
        await asyncio.sleep(4)
    await keeper.stop()
    assert renewals.times("a") == renewals.times("b") == pytest.approx([103.0, 106.0])
    assert renewals.times("c") == pytest.approx([210.0])


@pytest.mark.virtual_time
async def test_a_lease_is_lost_when_there_is_no_connection_to_renew_it_on_for_as_long_as_it_lasts() -> None:
    leases, renewals = Leases(9.0, asyncio.get_running_loop().time), Renewals()
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        await asyncio.sleep(3.5)
        renewals.connected = False
        await asyncio.sleep(8)
        assert leases.still_holds("a")
        await asyncio.sleep(1)
        assert not leases.still_holds("a")
        renewals.connected = True
        await asyncio.sleep(9)
        assert not leases.still_holds("a")
    await keeper.stop()
    assert renewals.times("a") == pytest.approx([3.0])


@pytest.mark.virtual_time
async def test_a_lease_outlives_a_connection_that_is_gone_for_a_moment() -> None:
    leases, renewals = Leases(9.0, asyncio.get_running_loop().time), Renewals()
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        renewals.connected = False
        await asyncio.sleep(7)
        renewals.connected = True
        await asyncio.sleep(10)
        assert leases.still_holds("a")
    await keeper.stop()
    assert renewals.times("a") == pytest.approx([9.0, 12.0, 15.0])


async def test_a_lease_that_is_taken_after_a_rest_is_renewed_by_the_thread() -> None:
    leases, renewals = Leases(0.03), Renewals()
    keeper = ThreadLeaseKeeper(leases, lambda: _connect(renewals), be_seen)
    await keeper.start()
    for lease in ("a", "b"):
        await asyncio.sleep(0)  # between them the thread may have come to rest, or not

        def renewed(lease: str = lease) -> None:
            assert renewals.times(lease)

        with leases.hold(lease):
            await eventually(renewed)
    await keeper.stop()


async def test_a_loop_that_is_blocked_does_not_lose_its_leases() -> None:
    leases, renewals = Leases(0.09), Renewals()
    keeper = ThreadLeaseKeeper(leases, lambda: _connect(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        time.sleep(0.5)  # noqa: ASYNC251 - a body that does what it should not
        blocked = len(renewals.renewed)
    await keeper.stop()
    assert blocked >= 5
    assert threading.get_ident() not in renewals.threads
    assert renewals.closed


async def test_a_change_reaches_the_thread() -> None:
    leases, renewals = Leases(3_000.0), Renewals()
    keeper = ThreadLeaseKeeper(leases, lambda: _connect(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        leases.change(0.03)

        def renewed_often() -> None:
            assert len(renewals.renewed) >= 3

        await eventually(renewed_often)
    await keeper.stop()
    leases.change(1.0)  # nobody is there any more


async def test_a_connection_that_cannot_be_opened_is_told_to_who_starts_the_keeper() -> None:
    async def connect() -> Broker:
        raise ConnectionRefusedError

    keeper = ThreadLeaseKeeper(Leases(), connect, be_seen)
    with pytest.raises(ConnectionRefusedError):
        await keeper.start()
    await keeper.stop()
    await keeper.stop()


async def test_a_keeper_may_be_stopped_while_it_connects() -> None:
    connecting = threading.Event()

    async def connect() -> Broker:
        connecting.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    keeper = ThreadLeaseKeeper(Leases(), connect, be_seen)
    starting = asyncio.create_task(keeper.start())
    await asyncio.to_thread(connecting.wait)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await asyncio.wait_for(keeper.stop(), 5)


async def test_a_keeper_may_be_stopped_before_its_thread_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    may_begin = threading.Event()
    begin = threading.Thread.run

    def begin_late(thread: threading.Thread) -> None:
        if thread.name == "ironflow-leases":
            may_begin.wait()
        begin(thread)

    monkeypatch.setattr(threading.Thread, "run", begin_late)
    renewals = Renewals()
    keeper = ThreadLeaseKeeper(Leases(), lambda: _connect(renewals), be_seen)
    starting = asyncio.create_task(keeper.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    stopping = asyncio.create_task(keeper.stop())
    await asyncio.sleep(0)
    may_begin.set()
    await asyncio.wait_for(stopping, 5)


async def test_a_connection_that_cannot_be_seen_is_closed() -> None:
    async def may_not_be_seen(_broker: Broker) -> Seen:
        raise Denied("ping")

    renewals = Renewals()
    keeper = ThreadLeaseKeeper(Leases(), lambda: _connect(renewals), may_not_be_seen)
    with pytest.raises(Denied):
        await keeper.start()
    await keeper.stop()
    assert renewals.closed


async def _connect(renewals: Renewals) -> Broker:
    return as_broker(renewals)


async def test_a_lease_that_ended_while_the_process_was_stopped_is_neither_renewed_nor_held() -> None:
    clock, renewals = [0.0], Renewals()
    leases = Leases(0.03, lambda: clock[0])
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("a"):
        assert leases.still_holds("a")
        clock[0] = 0.03
        assert leases.still_holds("a")
        await eventually(lambda: _renewed(renewals, "a", 1))
        clock[0] = 0.07  # as if the process had been stopped in between
        assert not leases.still_holds("a")
        so_far = len(renewals.times("a"))
        with leases.hold("b"):
            await eventually(lambda: _renewed(renewals, "b", 3))
        assert len(renewals.times("a")) == so_far
        assert not leases.still_holds("a")
    assert not leases.still_holds("a")
    await keeper.stop()


@pytest.mark.parametrize("seconds", [0.03, 60.0])
async def test_a_change_gives_no_lease_back_that_ended_before(seconds: float) -> None:
    clock, renewals = [0.0], Renewals()
    leases = Leases(0.03, lambda: clock[0])
    keeper = InlineLeaseKeeper(leases, as_broker(renewals), be_seen)
    await keeper.start()
    with leases.hold("ended"):
        await eventually(lambda: _renewed(renewals, "ended", 1))
        clock[0] = 1.0  # as if the process had been stopped in between
        so_far = len(renewals.times("ended"))
        with leases.hold("ours"):
            leases.change(seconds)
            assert not leases.still_holds("ended")
            await eventually(lambda: _renewed(renewals, "ours", 1))
            assert not leases.still_holds("ended")
    await keeper.stop()
    assert len(renewals.times("ended")) == so_far


def test_a_change_makes_no_lease_longer_that_is_not_renewed() -> None:
    clock = [0.0]
    leases = Leases(10.0, lambda: clock[0])
    with leases.hold("a"):
        clock[0] = 5.0
        leases.change(60.0)
        clock[0] = 10.5
        assert not leases.still_holds("a")


def test_a_change_makes_a_lease_shorter_that_is_not_renewed() -> None:
    clock = [0.0]
    leases = Leases(60.0, lambda: clock[0])
    with leases.hold("a"):
        leases.change(10.0)
        assert leases.still_holds("a")
        clock[0] = 10.5
        assert not leases.still_holds("a")


def _renewed(renewals: Renewals, lease: str, times: int) -> None:
    assert len(renewals.times(lease)) >= times
