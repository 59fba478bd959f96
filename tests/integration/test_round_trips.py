"""How many round trips to the server follow upon each other: what latency is made of when nothing else is to do.

On the virtual clock every request takes one unit of time here, and computing takes none; so the time that something
takes is the number of requests of which each must wait for the one before. Reading what is there takes this broker
two of them, and NATS one.
"""

from __future__ import annotations

import asyncio

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker, Stage
from ironflow.broker.protocol import BrokerError
from ironflow.names import bucket_stream
from ironflow_worker.lingering import LONGEST_SECONDS
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

UNIT_SECONDS = 1e-5
"""So short that nothing of what waits for a time of its own wakes in between."""


@pytest.fixture
def _each_request_takes_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    arrive = LocalBroker._arrive  # noqa: SLF001 - the one place that all requests pass

    async def arrive_later(broker: LocalBroker) -> str:
        await asyncio.sleep(UNIT_SECONDS)
        return await arrive(broker)

    monkeypatch.setattr(LocalBroker, "_arrive", arrive_later)


async def nothing() -> None: ...


def units(seconds: float) -> int:
    return round(seconds / UNIT_SECONDS)


@pytest.mark.usefixtures("_each_request_takes_a_unit")
@pytest.mark.parametrize("steps", [0, 3, 10])
async def test_a_run_takes_its_steps_and_five_more_round_trips(steps: int) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        for number in range(steps):
            await ctx.step.run(f"step-{number}", nothing)

    clock, took = asyncio.get_running_loop().time, 0
    async with running_system(f) as system:
        for _ in range(2):  # the first time, more is asked
            await asyncio.sleep(60)  # a worker that has just connected may have missed that a run was cancelled
            began = clock()
            await (await system.client.start(f)).result()
            took = units(clock() - began)
    # The event; what functions there are, which a server that syncs is asked meanwhile; the state; the task. The
    # outcome.
    assert took == steps + 5


@pytest.mark.usefixtures("_each_request_takes_a_unit")
@pytest.mark.parametrize(("seconds", "trips"), [(1.0, 2), (LONGEST_SECONDS + 1, 3)])
async def test_a_run_goes_on_so_many_round_trips_after_its_event(seconds: float, trips: int) -> None:
    went_on: list[float] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("go", event="go", match="key", timeout="1h")
        went_on.append(asyncio.get_running_loop().time())

    clock, took = asyncio.get_running_loop().time, 0
    async with running_system(f) as system:
        for number in range(2):
            run = await system.client.start(f, {"key": number})
            await asyncio.sleep(seconds)
            began = clock()
            await system.client.publish("go", {"key": number})
            await run.result()
            took = units(went_on[-1] - began)
    # The event; the state; the task, where the pass does not linger any more.
    assert took == trips


@pytest.mark.parametrize("together", [1, 5])
async def test_nobody_is_asked_who_waits_for_an_event_that_only_starts_a_run(together: int) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None: ...

    asked: list[str] = []

    def note(at: Stage, verb: str, subject: str) -> BrokerError | None:
        if at == "before" and verb in ("read", "stream_state"):
            asked.append(subject)
        return None

    async with running_system(f) as system:
        await system.output(f)
        await asyncio.sleep(1)
        waits = bucket_stream(system.names.waits_bucket)
        system.server.interceptor = note
        await asyncio.gather(*(system.output(f) for _ in range(together)))
        await asyncio.sleep(1)
        assert waits not in asked
        await system.client.publish("go")
        await asyncio.sleep(1)
        assert waits in asked
