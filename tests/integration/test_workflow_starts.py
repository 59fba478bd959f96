"""What api.md says of how runs are started, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker
from ironflow.broker.protocol import StreamState
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time


async def test_an_event_without_functions_starts_nothing() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None: ...

    async with running_system(f) as system:
        assert await system.client.runs_of(await system.client.publish_record("order.lost")) == ([], True)


async def test_the_same_event_id_starts_one_run_also_when_it_is_stored_twice() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> int:
        return int(ctx.event.data)

    async with running_system(f) as system:
        first = await system.client.publish_record("order.placed", 1, id="o-1")
        again = await system.client.publish_record("order.placed", 2, id="o-1")
        assert again.record.data == first.record.data
        await asyncio.sleep(3 * 60)  # the server forgets the ids of messages
        later = await system.client.publish_record("order.placed", 3, id="o-1")
        assert later.sequence > first.sequence
        runs = [await system.client.runs_of(event) for event in (first, again, later)]
        assert len({run for (run,), _ in runs}) == 1
        assert await system.client.run(runs[0][0][0]).result("1h") == 1
        assert [run.id async for run in system.client.runs()] == runs[0][0]


async def test_what_must_be_asked_before_an_event_is_matched_is_asked_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream_state = LocalBroker.stream_state

    async def ask_slowly(broker: LocalBroker, stream: str) -> StreamState:
        await asyncio.sleep(1)
        return await stream_state(broker, stream)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        return int(ctx.event.data)

    async with running_system(f) as system:
        monkeypatch.setattr(LocalBroker, "stream_state", ask_slowly)
        began = asyncio.get_running_loop().time()
        assert await (await system.client.start(f, 1)).result() == 1
        assert asyncio.get_running_loop().time() - began == pytest.approx(1)
        monkeypatch.undo()


async def test_start_with_the_same_id_is_the_same_run_and_ids_are_each_functions_own() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        assert ctx.event.name == "ironflow.invoked"
        return int(ctx.event.data)

    @ironflow.function(id="g")
    async def g(ctx: Context) -> int:
        return int(ctx.event.data)

    async with running_system(f, g) as system:
        first = await system.client.start(f, 1, id="x")
        second = await system.client.start(f, 2, id="x")
        other = await system.client.start(g, 3, id="x")
        assert first.id == second.id != other.id
        assert [await run.result("1h") for run in (first, second, other)] == [1, 1, 3]


async def test_starting_a_function_that_nobody_registered_fails_and_says_so() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None: ...

    async with running_system(f) as system:
        run = await system.client.start("missing")
        with pytest.raises(ironflow.RunFailedError, match="no function 'missing' is registered"):
            await run.result("1h")


async def test_a_deleted_function_starts_no_more_and_its_runs_go_on() -> None:
    @ironflow.function(id="f", triggers=["go"])
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", "1h")
        return "done"

    async with running_system(f) as system:
        (running,), _ = await system.client.runs_of(await system.client.publish_record("go"))
        assert (await system.client.engine.delete_function("f")).changed
        assert not (await system.client.engine.delete_function("f")).changed
        assert await system.client.runs_of(await system.client.publish_record("go")) == ([], True)
        assert await system.client.run(running).result("3h") == "done"
        await system.add_worker()
        (again,), _ = await system.client.runs_of(await system.client.publish_record("go"))
        assert again != running
