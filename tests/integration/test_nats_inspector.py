"""What the doctor reads of a real server is what was set there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.nats.inspector import Bounds, Inspector
from ironflow.broker.nats.provisioner import consumer_config, stream_config
from ironflow.broker.protocol import Publication
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.doctor import monitor
from ironflow.names import Names


@pytest.fixture
async def broker(nats_server: EmbeddedServer) -> AsyncIterator[NatsBroker]:
    made = await connect(ConnectionSettings(urls=(nats_server.url,)))
    yield made
    await made.close()


async def test_what_was_provisioned_does_not_differ_from_what_shall_be(broker: NatsBroker, namespace: str) -> None:
    names, inspector = Names(namespace), Inspector(broker)
    consumers = (*engine_consumers(names), queue_consumers(names, "orders")[0])
    assert [await inspector.stream_differences(spec) for spec in streams(names)] == [None] * 8
    for spec in streams(names):
        await broker.ensure_stream(spec)
    assert [await inspector.stream_differences(spec) for spec in streams(names)] == [{}] * 8
    assert [await inspector.consumer_differences(spec) for spec in consumers] == [None] * 4
    for consumer in consumers:
        await broker.ensure_consumer(consumer)
    assert [await inspector.consumer_differences(spec) for spec in consumers] == [{}] * 4


async def test_a_setting_that_was_changed_is_named_with_what_it_is_and_shall_be(
    broker: NatsBroker, namespace: str
) -> None:
    spec = streams(Names(namespace))[0]
    await broker.ensure_stream(msgspec.structs.replace(spec, max_age_seconds=3600))
    hour, week = 3600 * 10**9, 7 * 24 * 3600 * 10**9
    assert await Inspector(broker).stream_differences(spec) == {"max_age": (hour, week)}


async def test_a_stream_of_events_that_keeps_all_is_right_with_and_without_an_archive(
    broker: NatsBroker, namespace: str
) -> None:
    names, inspector = Names(namespace), Inspector(broker)
    plain, archived = streams(names)[0], streams(names, archived=True)[0]
    await broker.ensure_stream(plain)
    assert await inspector.stream_differences(archived) == {"max_age": (7 * 24 * 3600 * 10**9, 0)}
    await broker.ensure_stream(archived)
    assert [await inspector.stream_differences(spec) for spec in (plain, archived)] == [{}, {}]


async def test_the_subjects_of_a_filter_are_listed(broker: NatsBroker, namespace: str) -> None:
    names, inspector = Names(namespace), Inspector(broker)
    assert await inspector.subjects(names.all_shards[0].timers, f"{namespace}.timers.>") == []
    for spec in streams(names):
        await broker.ensure_stream(spec)
    for run in ("r1", "r2"):
        await broker.publish(Publication(subject=names.timer(30_000, run, 0, "w"), payload=b"{}"))
    await broker.publish(Publication(subject=names.fired("r1", "w"), payload=b"{}"))
    found = await inspector.subjects(names.all_shards[0].timers, f"{namespace}.timers.>")
    assert sorted(found) == [names.timer(30_000, "r1", 0, "w"), names.timer(30_000, "r2", 0, "w")]


async def test_the_account_of_a_plain_server_has_no_limit_of_its_own(broker: NatsBroker) -> None:
    assert (await Inspector(broker).storage()).limit_bytes is None


async def test_monitoring_says_whether_the_server_syncs_always(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    synced = await asyncio.to_thread(monitor.read_varz, nats_server.monitor_url)
    assert isinstance(synced, monitor.Varz)
    assert synced.jetstream.config is not None
    assert synced.jetstream.config.sync_always
    async with EmbeddedServer(tmp_path, sync_interval="2m") as lazy:
        unsynced = await asyncio.to_thread(monitor.read_varz, lazy.monitor_url)
    assert isinstance(unsynced, monitor.Varz)
    assert unsynced.jetstream.config is not None
    assert not unsynced.jetstream.config.sync_always
    assert unsynced.jetstream.config.sync_interval == 120 * 10**9


async def test_what_shall_not_be_set_of_a_consumer_is_named_and_so_is_a_pause_while_it_lasts(
    broker: NatsBroker, namespace: str
) -> None:
    names, inspector = Names(namespace), Inspector(broker)
    for stream in streams(names):
        await broker.ensure_stream(stream)
    [spec] = queue_consumers(names, "orders")
    await broker.ensure_consumer(spec)
    strange = {"headers_only": True, "max_expires": 10**9, "inactive_threshold": 3600 * 10**9}
    changed = consumer_config(spec) | strange | {"description": "ours", "sample_freq": "10"}
    request = {"stream_name": spec.stream, "config": changed, "action": "update"}
    await broker.api.call(f"CONSUMER.CREATE.{spec.stream}.{spec.name}", request, Answer)
    assert await inspector.consumer_differences(spec) == {key: (value, None) for key, value in strange.items()}
    await broker.ensure_consumer(spec)
    assert await inspector.consumer_differences(spec) == {}
    until = "2199-01-01T00:00:00Z"
    await broker.api.call(f"CONSUMER.PAUSE.{spec.stream}.{spec.name}", {"pause_until": until}, Answer)
    await broker.ensure_consumer(spec)  # which does not end it
    assert await inspector.consumer_differences(spec) == {"pause_until": (until, None)}
    await broker.api.call(f"CONSUMER.PAUSE.{spec.stream}.{spec.name}", {}, Answer)
    assert await inspector.consumer_differences(spec) == {}


async def test_what_a_stream_is_limited_to_and_how_much_it_holds_is_told(broker: NatsBroker, namespace: str) -> None:
    events, inspector = streams(Names(namespace))[0], Inspector(broker)
    assert await inspector.bounds(events.name) is None
    await broker.ensure_stream(events)
    assert await inspector.bounds(events.name) == Bounds(messages=0, size_bytes=0, drops_oldest=True)
    changed = stream_config(events) | {"max_msgs": 2, "max_bytes": 10_000, "max_msg_size": 100}
    await broker.api.call(f"STREAM.UPDATE.{events.name}", changed, Answer)
    for _ in range(3):
        await broker.publish(Publication(subject=Names(namespace).event("a"), payload=b"{}"))
    found = await inspector.bounds(events.name)
    assert found is not None
    assert (found.messages, found.most_messages, found.most_bytes, found.most_message_bytes) == (2, 2, 10_000, 100)
    assert found.room == 0


async def test_an_engine_that_starts_has_a_stream_acknowledge_again(broker: NatsBroker, namespace: str) -> None:
    events = streams(Names(namespace))[0]
    await broker.ensure_stream(events)
    await broker.api.call(f"STREAM.UPDATE.{events.name}", stream_config(events) | {"no_ack": True}, Answer)
    await broker.ensure_stream(events)
    assert (await broker.publish(Publication(subject=Names(namespace).event("a"), payload=b"{}"))).sequence == 1


class Answer(msgspec.Struct):
    """What is not looked at."""
