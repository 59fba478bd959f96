"""What becomes of old events: the server forgets them, or with an archive an engine deletes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ironflow
from ironflow import Context
from ironflow.broker import topology
from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.names import Names
from ironflow_engine import event_retention
from ironflow_engine.archive import archiver
from ironflow_engine.archive.archive import PostgresArchive
from ironflow_engine.engine import Engine
from tests.integration.test_archive import rows
from tests.support.archives import Lagging
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system
from tests.support.postgres import PostgresServer

DAY = 24 * 60 * 60


@pytest.fixture
def patient() -> Any:
    @ironflow.function(id="patient")
    async def patient(ctx: Context) -> Any:
        await ctx.step.sleep("first", ctx.event.data)
        found = await ctx.step.wait_for_event("then", event="go", timeout="1h", on_timeout="none")
        return None if found is None else found.data

    return patient


async def events(system: System) -> list[str]:
    return [event.id async for event in system.client.events(name="go")]


async def copy_all(system: System, archive: Lagging) -> None:
    archive.position = (await system.broker.stream_state(system.names.events)).last_sequence


async def test_events_outlast_their_time_while_postgres_is_down_and_go_once_they_are_copied(
    nats_server: EmbeddedServer,
    namespace: str,
    postgres: PostgresServer,
    archive_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topology, "EVENTS_KEPT_SECONDS", 1)
    monkeypatch.setattr(event_retention, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(archiver, "_TRY_AGAIN_SECONDS", 0.1)
    names, beside = Names(namespace), Names(f"{namespace}beside")
    broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
    archive = PostgresArchive(archive_url, names)
    engines = [Engine(broker, names, archive=archive), Engine(broker, beside)]
    client = Client(broker, names)

    async def forgotten(by: Names) -> None:
        assert (await broker.stream_state(by.events)).messages == 0

    async def copied() -> None:
        found = await rows(archive_url, "SELECT id FROM events ORDER BY sequence", schema=f"ironflow_{namespace}")
        assert [event for (event,) in found] == published

    postgres.stop()
    try:
        for engine in engines:
            await engine.start()
        published = [(await client.publish("order.placed", number)).id for number in range(5)]
        await Client(broker, beside).publish("order.placed")
        # The server has forgotten what is younger, where no archive is to have it.
        await eventually(lambda: forgotten(beside))
        assert (await broker.stream_state(names.events)).messages == 5
        postgres.start()
        await eventually(copied, within=20.0)
        await eventually(lambda: forgotten(names))
        assert [event.id async for event in client.events()] == published[::-1]
    finally:
        postgres.start()
        for engine in engines:
            await engine.stop()
        await archive.close()
        await broker.close()


@pytest.mark.virtual_time
async def test_without_an_archive_events_are_gone_after_a_week() -> None:
    async with running_system(sweep_seconds=3600, workers=0) as system:
        await system.client.publish("go")
        await asyncio.sleep(7 * DAY - 60)
        assert len(await events(system)) == 1
        await asyncio.sleep(120)
        assert await events(system) == []


@pytest.mark.virtual_time
async def test_events_that_are_archived_later_stay_until_then_and_those_of_the_last_week_longer() -> None:
    archive = Lagging()
    async with running_system(sweep_seconds=3600, archive=archive, workers=0) as system:
        first = await system.client.publish("go")
        await asyncio.sleep(10 * DAY)
        second = await system.client.publish("go")
        assert await events(system) == [second.id, first.id]
        await copy_all(system, archive)
        await asyncio.sleep(120)
        assert await events(system) == [second.id]
        await asyncio.sleep(7 * DAY)
        assert await events(system) == []


@pytest.mark.virtual_time
async def test_an_engine_without_the_archive_that_others_have_forgets_nothing_of_theirs() -> None:
    archive = Lagging()
    async with running_system(sweep_seconds=3600, archive=archive, workers=0) as system:
        event = await system.client.publish("go")
        for engine in list(system.engines):
            await system.kill(engine)
        system.archive = None
        await system.add_engine()
        await asyncio.sleep(10 * DAY)
        assert await events(system) == [event.id]
        system.archive = archive
        await copy_all(system, archive)
        await system.add_engine()
        await asyncio.sleep(120)
        assert await events(system) == []


@pytest.mark.virtual_time
async def test_an_archive_that_is_configured_later_has_events_wait_for_it_from_then_on() -> None:
    async with running_system(sweep_seconds=3600, workers=0) as system:
        event = await system.client.publish("go")
        await asyncio.sleep(6 * DAY)
        system.archive = Lagging()
        await system.add_engine()
        await asyncio.sleep(6 * DAY)
        assert await events(system) == [event.id]


@pytest.mark.virtual_time
async def test_a_wait_looks_back_for_a_week_whether_or_not_events_are_archived(patient: Any) -> None:
    archive = Lagging()
    async with running_system(patient, sweep_seconds=3600, archive=archive) as system:
        week = await system.client.start(patient, 6 * DAY)
        more = await system.client.start(patient, 8 * DAY)
        await system.client.publish("go", "found")
        await copy_all(system, archive)
        assert await week.result("7d") == "found"
        assert await more.result("3d") is None
        assert await events(system) == []


@pytest.mark.virtual_time
async def test_a_wait_finds_whatever_still_waits_for_the_archive(patient: Any) -> None:
    async with running_system(patient, sweep_seconds=3600, archive=Lagging()) as system:
        run = await system.client.start(patient, 8 * DAY)
        await system.client.publish("go", "found")
        assert await run.result("9d") == "found"
