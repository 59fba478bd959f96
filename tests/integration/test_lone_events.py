"""An event that comes alone: whom it wakes goes on first, and nothing else is forgotten over that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker, Stage
from ironflow.broker.protocol import BrokerError, Publication, Stored, StoredMessage
from ironflow.handles import RunHandle
from ironflow_engine import wait_store
from ironflow_engine.recent_waits import RecentWaits
from ironflow_worker.lingering import LONGEST_SECONDS
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

REST_SECONDS = 0.003


@ironflow.function(id="waits")
async def waits(ctx: Context) -> object:
    return (await ctx.step.wait_for_event("go", event="go", match="key", timeout="1h")).data


@ironflow.function(id="starts", triggers=["go"])
async def starts(ctx: Context) -> object:
    return ctx.event.data


class Clock:
    """Notes when waits are taken away, in seconds from when it was begun."""

    def __init__(self, system: System) -> None:
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self.purged: list[float] = []
        system.server.interceptor = self

    def __call__(self, at: Stage, verb: str, subject: str) -> BrokerError | None:
        if (at, verb) == ("before", "purge") and "waits" in subject:
            self.purged.append(self._now() - self._began)
        return None


async def waiting(system: System, key: int) -> RunHandle[object]:
    """Start a run, and return once it waits for the event with its key."""
    run = await system.client.start(waits, {"key": key})
    await asyncio.sleep(1)
    return run


@pytest.fixture
async def system() -> AsyncGenerator[System]:
    async with running_system(waits) as made:
        yield made


async def test_its_wait_is_taken_away_when_the_run_has_gone_on(system: System) -> None:
    run = await waiting(system, 1)
    clock = Clock(system)
    await system.client.publish("go", {"key": 1})
    await run.result()
    assert clock.purged == []
    await asyncio.sleep(1)
    assert [round(seconds, 4) for seconds in clock.purged] == [REST_SECONDS]


async def test_the_next_event_does_not_wait_for_that(system: System) -> None:
    first, second = await waiting(system, 1), await waiting(system, 2)
    clock = Clock(system)
    await system.client.publish("go", {"key": 1})
    await asyncio.sleep(REST_SECONDS / 3)
    await system.client.publish("go", {"key": 2})
    await asyncio.gather(first.result(), second.result())
    await asyncio.sleep(1)
    assert [round(seconds, 4) for seconds in clock.purged] == [REST_SECONDS / 3, REST_SECONDS / 3]


async def test_its_task_is_stored_before_what_the_task_tells_is_recorded(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await waiting(system, 1)
    await asyncio.sleep(LONGEST_SECONDS)  # its pass is over
    store = LocalBroker.publish_all

    async def store_slowly(broker: LocalBroker, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        await asyncio.sleep(0.001)
        answers = await store(broker, publications)
        await asyncio.sleep(0.001)
        seen.extend(f"stored {publication.subject.split('.')[1]}" for publication in publications)
        return answers

    monkeypatch.setattr(LocalBroker, "publish_all", store_slowly)
    seen: list[str] = []

    def note(at: Stage, verb: str, subject: str) -> BrokerError | None:
        if (at, verb) == ("before", "publish") and run.id in subject:
            seen.append(f"store {subject.split('.')[1]}")
        return None

    system.server.interceptor = note
    await system.client.publish("go", {"key": 1})
    await run.result()
    assert seen.index("stored tasks") < seen.index("store journal")


async def test_it_starts_a_function_too_that_its_engine_does_not_know_yet() -> None:
    async with running_system(waits, starts, workers=0) as system:
        await system.add_worker(functions=("waits",))
        run = await waiting(system, 1)
        await system.add_worker(functions=("starts",))
        await system.client.publish("go", {"key": 1})
        assert await run.result() == {"key": 1}
        await asyncio.sleep(1)
        (started,) = [each async for each in system.client.runs(function="starts")]
        assert await started.result() == {"key": 1}


async def test_it_ends_its_wait_also_where_another_wait_takes_that_ones_place_in_memory_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = asyncio.Event()

    @ironflow.function(id="both")
    async def both(ctx: Context) -> object:
        wait = partial(ctx.step.wait_for_event, match="key", timeout="1h", on_timeout="none")
        ended = await asyncio.gather(wait("first", event="go"), wait("second", event="other"))
        return [event is not None for event in ended]

    @ironflow.function(id="later")
    async def later(ctx: Context) -> object:
        await ctx.step.run("body", released.wait)
        return await ctx.step.wait_for_event("w", event="never", timeout="1h", on_timeout="none")

    monkeypatch.setattr(wait_store, "RecentWaits", partial(RecentWaits, most=2))
    async with running_system(both, later) as system:
        run = await system.client.start(both, {"key": 1})
        await system.client.start(later)
        await asyncio.sleep(1)
        read = LocalBroker.last

        async def read_slowly(broker: LocalBroker, stream: str, subject: str) -> StoredMessage | None:
            if subject == system.names.run_key(run.id) and not released.is_set():
                released.set()
                await asyncio.sleep(1)  # long enough for the other run to wait
            return await read(broker, stream, subject)

        monkeypatch.setattr(LocalBroker, "last", read_slowly)
        await system.client.publish("go", {"key": 1})
        await asyncio.sleep(5)
        assert released.is_set()
        await system.client.publish("other", {"key": 1})
        assert await run.result("2h") == [True, True]
