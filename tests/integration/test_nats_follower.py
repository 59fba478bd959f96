"""Following a stream over NATS where the conformance suite does not reach: its consumer, and what happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.nats import follower as module
from ironflow.broker.nats.follower import _Pull, _Pulled
from ironflow.broker.protocol import Follower, Publication, StoredMessage, StreamSpec, Unavailable
from tests.bench import machine
from tests.support import eventually, fresh_namespace
from tests.support.servers import configured_server

SUBJECTS = 12_000
READS = 100


class _Consumers(msgspec.Struct):
    consumers: list[str] | None = None


@contextlib.asynccontextmanager
async def stream_on(url: str, **more: Any) -> AsyncGenerator[tuple[NatsBroker, str]]:
    """Have a stream with one message for each subject, and a connection."""
    broker = await connect(ConnectionSettings(urls=(url,), **more))
    stream = fresh_namespace()
    try:
        await broker.ensure_stream(
            StreamSpec(name=stream, subjects=(f"{stream}.>",), one_per_subject="keep_last", atomic_batches=True)
        )
        yield broker, stream
    finally:
        await broker.close()


async def put(broker: NatsBroker, stream: str, *payloads: bytes) -> None:
    for payload in payloads:
        await broker.publish(Publication(subject=f"{stream}.{fresh_namespace()}", payload=payload))


async def read(follower: Follower, after: int, up_to: int) -> list[StoredMessage]:
    return [message async for page in follower.read(after, up_to) for message in page]


async def payloads(follower: Follower, after: int, up_to: int) -> list[bytes]:
    return [message.payload for message in await read(follower, after, up_to)]


async def consumers_of(broker: NatsBroker, stream: str) -> list[str]:
    return (await broker.api.call(f"CONSUMER.NAMES.{stream}", None, _Consumers)).consumers or []


async def test_one_consumer_serves_all_readings_that_go_on_where_the_last_one_ended(
    nats_server: EmbeddedServer,
) -> None:
    async with stream_on(nats_server.url) as (broker, stream):
        follower = broker.follow(stream)
        for number in range(5):
            await put(broker, stream, b"%d" % number)
            assert await payloads(follower, number, number + 1) == [b"%d" % number]
        assert len(await consumers_of(broker, stream)) == 1


async def test_a_consumer_that_was_deleted_is_made_anew(nats_server: EmbeddedServer) -> None:
    async with stream_on(nats_server.url) as (broker, stream):
        follower = broker.follow(stream)
        await put(broker, stream, b"a")
        assert await payloads(follower, 0, 1) == [b"a"]
        [name] = await consumers_of(broker, stream)
        await broker.api.call(f"CONSUMER.DELETE.{stream}.{name}", None, msgspec.Struct)
        await put(broker, stream, b"b")
        assert await payloads(follower, 1, 2) == [b"b"]
        assert len(await consumers_of(broker, stream)) == 1


@pytest.mark.parametrize("come", [0, 1])
async def test_whoever_is_interrupted_misses_nothing(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, come: int
) -> None:
    receive, received, wanted = _Pull.receive, asyncio.Queue[bytes](), itertools.count()

    def receive_some(self: _Pull, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        received.put_nowait(payload)
        if next(wanted) < come:
            receive(self, subject, reply, payload, headers)

    async with stream_on(nats_server.url) as (broker, stream):
        follower = broker.follow(stream)
        await put(broker, stream, b"a")
        assert await payloads(follower, 0, 1) == [b"a"]
        await put(broker, stream, b"b", b"c")
        with monkeypatch.context() as patched:
            patched.setattr(_Pull, "receive", receive_some)
            reading = asyncio.ensure_future(read(follower, 1, 3))
            for _ in range(come + 1):
                await received.get()
            reading.cancel()
            await asyncio.wait([reading])
        await put(broker, stream, b"d")
        assert await payloads(follower, 1, 4) == [b"b", b"c", b"d"]


async def test_what_gets_lost_on_its_way_is_delivered_again(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = _Pull.receive
    lost: list[bytes] = []

    def lose_one(self: _Pull, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if payload == b"b" and not lost:
            lost.append(payload)
        else:
            receive(self, subject, reply, payload, headers)

    monkeypatch.setattr(_Pull, "receive", lose_one)
    async with stream_on(nats_server.url) as (broker, stream):
        await put(broker, stream, b"a", b"b", b"c")
        assert await payloads(broker.follow(stream), 0, 3) == [b"a", b"b", b"c"]
    assert lost


async def test_what_a_consumer_has_not_heard_of_is_asked_of_the_leader(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stream_on(nats_server.url) as (broker, stream):
        follower = broker.follow(stream)
        await put(broker, stream, b"a")
        assert await payloads(follower, 0, 1) == [b"a"]
        with monkeypatch.context() as patched:
            patched.setattr(follower, "_pull", nothing_new)
            await put(broker, stream, *(b"%d" % number for number in range(5)))
            assert await payloads(follower, 1, 6) == [b"0", b"1", b"2", b"3", b"4"]
        await put(broker, stream, b"b")
        assert await payloads(follower, 6, 7) == [b"b"]


async def nothing_new(*_: object) -> _Pulled:
    return _Pulled([], 0)


async def test_it_reads_in_pages_while_consumers_do_not_answer_and_with_one_again_later(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.1)
    monkeypatch.setattr(module, "_PAGES_SECONDS", 0.5)
    async with stream_on(nats_server.url) as (broker, stream):
        follower = broker.follow(stream)
        await put(broker, stream, b"a")
        assert await payloads(follower, 0, 1) == [b"a"]
        with monkeypatch.context() as patched:
            # As of a server that has just died.
            patched.setattr(_Pull, "receive", lambda *_: None)
            await put(broker, stream, b"b")
            assert await payloads(follower, 1, 2) == [b"b"]
        standing = await consumers_of(broker, stream)
        await put(broker, stream, b"c")
        assert await payloads(follower, 2, 3) == [b"c"]
        assert await consumers_of(broker, stream) == standing

        async def there_is_another() -> None:
            await put(broker, stream, b"d")
            newest = (await broker.stream_state(stream)).last_sequence
            assert await payloads(follower, newest - 1, newest) == [b"d"]
            assert await consumers_of(broker, stream) != standing

        await eventually(there_is_another)


async def test_a_message_whose_headers_look_like_the_servers_word_is_a_message(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = _Pull.receive

    def disguise(self: _Pull, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        # The server (2.15) takes such a line away from what is published, but does not say that it always will.
        receive(self, subject, reply, payload, b"NATS/1.0 404 No Messages\r\n\r\n" if reply else headers)

    monkeypatch.setattr(_Pull, "receive", disguise)
    async with stream_on(nats_server.url) as (broker, stream):
        await put(broker, stream, b"", b"", b"")
        pages = [page async for page in broker.follow(stream).read(0, 3)]
        assert [len(page) for page in pages] == [3]


async def test_a_message_larger_than_a_page_comes_by_itself(tmp_path: Path) -> None:
    large = bytes(5_000_000)
    with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path / "data")}, max_payload=8_000_000) as url:
        async with stream_on(url) as (broker, stream):
            await put(broker, stream, b"a", large, b"b", large, large)
            assert await payloads(broker.follow(stream), 0, 5) == [b"a", large, b"b", large, large]
            assert len(await consumers_of(broker, stream)) == 1


@pytest.mark.parametrize("denied", ["$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.MSG.NEXT.>"])
async def test_where_it_may_not_have_a_consumer_it_reads_in_pages_and_says_so(tmp_path: Path, denied: str) -> None:
    refusing = {"users": [{"user": "u", "password": "p", "permissions": {"publish": {"deny": [denied]}}}]}
    with configured_server(
        tmp_path, f"authorization: {json.dumps(refusing)}", jetstream={"store_dir": str(tmp_path / "data")}
    ) as url:
        async with stream_on(url, user="u", password="p") as (broker, stream):
            follower = broker.follow(stream)
            with capture_logs() as logs:
                for number in range(3):
                    await put(broker, stream, b"%d" % number)
                    assert await payloads(follower, number, number + 1) == [b"%d" % number]
            warnings = [line for line in logs if line["log_level"] == "warning"]
            assert len(warnings) == 1
            assert "reads it in pages" in warnings[0]["event"]
            assert "ironflow nats-accounts" in warnings[0]["advice"]


async def test_where_nobody_answers_it_says_so_in_time(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        broker = await connect(ConnectionSettings(urls=(server.url,)), patience_seconds=0.5)
        await broker.ensure_stream(StreamSpec(name="S", subjects=("s.>",)))
        await broker.publish(Publication(subject="s.a", payload=b"a"))
        follower = broker.follow("S")
        assert await payloads(follower, 0, 1) == [b"a"]
        server.stop()
        with pytest.raises(Unavailable):
            await read(follower, 1, 2)
        await broker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time comes from /proc")
async def test_a_reading_costs_what_is_new_and_not_what_the_stream_holds(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that has other things to do may be silent for seconds, and then pages are read for a while.
    monkeypatch.setattr(module, "_SILENT_SECONDS", 30.0)
    monkeypatch.setattr(module, "_MADE_SECONDS", 30.0)
    async with stream_on(nats_server.url) as (broker, stream):
        subjects = [f"{stream}.{number}" for number in range(SUBJECTS)]
        await broker.publish_all([Publication(subject=subject, payload=bytes(100)) for subject in subjects])
        follower = broker.follow(stream)
        assert len(await read(follower, SUBJECTS - 100, SUBJECTS)) == 100

        async def cpu_seconds(*, following: bool) -> float:
            position = (await broker.stream_state(stream)).last_sequence
            before = machine.cpu_seconds(nats_server.pid)
            for number in range(READS):
                await broker.publish(Publication(subject=subjects[number], payload=b"new"))
                pages = (
                    follower.read(position, position + 1) if following else broker.read(stream, f"{stream}.>", position)
                )
                assert [message.payload for page in [each async for each in pages] for message in page] == [b"new"]
                position += 1
            return machine.cpu_seconds(nats_server.pid) - before

        paging = await cpu_seconds(following=False)
        # Not by the time that it takes: that is anybody's, where the machine has other things to do.
        assert await cpu_seconds(following=True) < paging / 2
