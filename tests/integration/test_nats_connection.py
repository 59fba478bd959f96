"""The NATS adapter where the conformance suite does not reach: connecting, refusing, breaking."""

# ruff: noqa: SLF001 - what happens inside of a broken connection is the subject

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import ssl
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from structlog.testing import capture_logs

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, adapter, connect, connection
from ironflow.broker.nats.settings import split_urls
from ironflow.broker.nats.wire import _AT_END, _READER, _WRITER, Wire
from ironflow.broker.protocol import (
    Ambiguous,
    ConsumerSpec,
    Denied,
    Publication,
    Request,
    Stored,
    StreamSpec,
    Unavailable,
)
from ironflow.errors import DefinitionError, EngineUnavailableError
from tests.support import eventually
from tests.support.identities import make_certificates
from tests.support.ports import free_port
from tests.support.servers import configured_server, info_line, stub_server


async def refusal(settings: ConnectionSettings, within: float = 5.0) -> str:
    """The one line that a connection is refused with."""
    started = time.monotonic()
    with pytest.raises(EngineUnavailableError) as refused:
        await connect(settings)
    assert time.monotonic() - started < within
    assert "\n" not in str(refused.value)
    return str(refused.value)


def settings_for(*urls: str, **more: Any) -> ConnectionSettings:
    return ConnectionSettings(urls=urls, **more)


class TestFirstConnection:
    async def test_nobody_listens(self) -> None:
        message = await refusal(settings_for("nats://127.0.0.1:1"), within=1.0)
        assert message.startswith("cannot reach NATS at nats://127.0.0.1:1: connection refused. Is the server running?")

    async def test_the_host_is_unknown(self) -> None:
        assert "unknown host" in await refusal(settings_for("nats://nowhere.invalid:4222"))

    async def test_secrets_in_a_url_are_not_shown(self) -> None:
        message = await refusal(settings_for("nats://me:sesame@127.0.0.1:1"), within=1.0)
        assert "nats://127.0.0.1:1" in message
        assert "sesame" not in message

    async def test_it_is_no_nats_server(self) -> None:
        async with stub_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
            assert "what answers there is no NATS server" in await refusal(settings_for(url), within=1.0)

    async def test_an_old_server_is_refused_by_its_first_line(self) -> None:
        async with stub_server(info_line("2.10.29")) as url:
            message = await refusal(settings_for(url), within=1.0)
        assert "nats-server 2.10.29" in message
        assert "2.14.3 or newer" in message

    @pytest.mark.parametrize("version", ["2.14.2", "1.4.1", "0.9.9", ""])
    async def test_the_oldest_version_is_exact(self, version: str) -> None:
        async with stub_server(info_line(version), answers_ping=True) as url:
            assert "2.14.3 or newer is needed" in await refusal(settings_for(url))

    @pytest.mark.parametrize("version", ["2.14.3", "2.15.1-RC.2", "2.16.0-dev", "3.0.0"])
    async def test_a_newer_version_will_do(self, version: str) -> None:
        async with stub_server(info_line(version, jetstream=True), answers_ping=True) as url:
            broker = await connect(settings_for(url))
            assert broker.server.version == version
            assert broker.server.max_payload == 1024
            await broker.close()

    async def test_a_server_that_falls_silent_is_given_up(self) -> None:
        async with stub_server(info_line("2.15.1")) as url:
            message = await refusal(settings_for(url, connect_timeout_seconds=0.3), within=1.0)
        assert "it named its version and then said nothing within 0.3 s" in message

    async def test_any_of_several_servers_will_do(self, nats_server: EmbeddedServer) -> None:
        async with stub_server(info_line("2.10.0")) as old:
            for _ in range(3):  # they are tried in random order
                broker = await connect(settings_for("nats://127.0.0.1:1", old, nats_server.url))
                await broker.close()

    @pytest.mark.parametrize("greeting", [(), (info_line("2.15.1"),)])
    async def test_a_silent_one_of_several_servers_leaves_time_for_the_others(
        self, nats_server: EmbeddedServer, greeting: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nats.aio.client.shuffle", lambda _: None)  # the silent one comes first
        async with stub_server(*greeting) as silent:
            broker = await connect(settings_for(silent, nats_server.url))
            await broker.close()

    async def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / "my.creds"
        with pytest.raises(DefinitionError, match=f"cannot read the credentials file {missing}: No such file"):
            await connect(settings_for("nats://127.0.0.1:1", creds=str(missing)))


NO_TLS = "the server offers no TLS, and the URL asks for it with tls://; "


class TestTls:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> dict[str, str]:
        make_certificates(tmp_path)
        return {"cert_file": str(tmp_path / "server.pem"), "key_file": str(tmp_path / "server.key")}

    @pytest.mark.parametrize("scheme", ["tls", "TLS"])
    async def test_a_server_without_tls_is_refused_before_it_hears_anything(self, scheme: str) -> None:
        heard: list[bytes] = []
        async with stub_server(info_line("2.15.1", auth_required=True), answers_ping=True, heard=heard) as url:
            (asked,) = split_urls(url.replace("nats://", f"{scheme}://me:sesame@"))
            message = await refusal(settings_for(asked), within=1.0)
        assert message.startswith(f"cannot use NATS at {url.replace('nats', 'tls')}: {NO_TLS}")
        assert heard == []

    async def test_one_url_of_several_asks_for_tls_with_all_of_them(self) -> None:
        heard: list[bytes] = []
        secret = {"user": "me", "password": "sesame"}
        async with stub_server(info_line("2.15.1", auth_required=True), answers_ping=True, heard=heard) as url:
            for _ in range(3):  # they are tried in random order
                assert NO_TLS in await refusal(settings_for(url, "tls://127.0.0.1:1", **secret), within=1.0)
        assert heard == []

    async def test_a_server_that_only_offers_tls_is_taken_at_its_word(
        self, tmp_path: Path, certificates: dict[str, str]
    ) -> None:
        users: dict[str, Any] = {"authorization": {"users": [ADMIN]}, "allow_non_tls": True}
        store = {"store_dir": str(tmp_path)}
        with configured_server(tmp_path, jetstream=store, tls=certificates, **users) as url:
            address = url.replace("nats://", "tls://")
            broker = await connect(settings_for(address, **ADMIN, tls_ca=str(tmp_path / "ca.pem")))
            assert isinstance(broker._wire._find_socket().get_extra_info("ssl_object"), ssl.SSLObject)
            await broker.close()

    async def test_a_server_that_offers_none_any_more_is_not_signed_in_to_again(
        self, tmp_path: Path, certificates: dict[str, str]
    ) -> None:
        heard: list[bytes] = []
        store = {"store_dir": str(tmp_path)}
        with contextlib.ExitStack() as server:
            url = server.enter_context(
                configured_server(tmp_path, jetstream=store, tls=certificates, authorization={"users": [ADMIN]})
            )
            broker = await connect(settings_for(url, **ADMIN, tls_ca=str(tmp_path / "ca.pem")))
            with capture_logs() as logs:
                server.close()
                port = int(url.rpartition(":")[2])
                plain = info_line("2.15.1", auth_required=True)
                async with stub_server(plain, answers_ping=True, port=port, heard=heard):
                    await eventually(lambda: was_warned(logs))
                    is_down(broker)
                    await broker.close()
        assert heard == []


def was_warned(logs: list[Any]) -> None:
    reasons = [entry["reason"] for entry in logs if entry["event"] == "cannot use NATS any more; keeps trying"]
    assert len(reasons) == 1
    assert reasons[0].startswith(NO_TLS)


def names_the_password(logs: list[Any]) -> None:
    """Say it once, and once only."""
    reasons = [entry["reason"] for entry in logs if entry["event"] == "cannot use NATS any more; keeps trying"]
    assert [reason for reason in reasons if "Check user, password, token or credentials" in reason] == reasons
    assert len(reasons) == 1


def was_tried(logs: list[Any], times: int) -> None:
    assert len([entry for entry in logs if entry["event"] == "NATS connection"]) >= times


ADMIN = {"user": "admin", "password": "a"}
WORKER = {"user": "worker", "password": "w"}
WORKER_RIGHTS = {
    "permissions": {
        "publish": ["$JS.API.CONSUMER.MSG.NEXT.TASKS.orders", "$JS.ACK.TASKS.orders.>", "journal.orders.>"],
        "subscribe": ["_WORKER.>"],
    },
}


class TestPermissions:
    @pytest.fixture
    async def url(self, tmp_path: Path) -> AsyncGenerator[str]:
        users = [ADMIN, WORKER | WORKER_RIGHTS]
        store = {"store_dir": str(tmp_path)}
        with configured_server(tmp_path, jetstream=store, authorization={"users": users}) as url:
            admin = await connect(settings_for(url, **ADMIN))
            await admin.ensure_stream(StreamSpec(name="JOURNAL", subjects=("journal.>",)))
            await admin.ensure_stream(StreamSpec(name="TASKS", subjects=("tasks.>",), retention="work_queue"))
            for queue in ("orders", "other"):
                await admin.ensure_consumer(consumer_of("TASKS", queue, f"tasks.{queue}.>"))
                await admin.publish(Publication(subject=f"tasks.{queue}.1", payload=queue.encode()))
            await admin.close()
            yield url

    async def test_a_wrong_password_is_said_to_be_one(self, url: str) -> None:
        message = await refusal(settings_for(url, **WORKER | {"password": "guess"}), within=1.0)
        assert "refused to sign in" in message
        assert "guess" not in message

    async def test_credentials_that_are_taken_away_are_said_to_be_until_they_are_right_again(
        self, tmp_path: Path
    ) -> None:
        port = free_port()
        with contextlib.ExitStack() as servers:

            def serve(name: str, **users: object) -> None:
                servers.close()
                (folder := tmp_path / name).mkdir()
                store = {"store_dir": str(folder)}
                servers.enter_context(configured_server(folder, port=port, jetstream=store, authorization=users))

            serve("first", users=[ADMIN])
            broker = await connect(settings_for(f"nats://127.0.0.1:{port}", **ADMIN))
            with capture_logs() as logs:
                serve("second", users=[ADMIN | {"password": "another"}])
                await eventually(lambda: names_the_password(logs))
                tries = len([entry for entry in logs if entry["event"] == "NATS connection"])
                await eventually(lambda: was_tried(logs, tries + 5))
                names_the_password(logs)
                serve("third", users=[ADMIN])
                await eventually(lambda: is_up(broker))
            await broker.close()

    async def test_a_worker_needs_no_more_than_its_own_subjects(self, url: str) -> None:
        worker = await connect(settings_for(url, **WORKER, inbox_prefix="_WORKER"))
        stored = await worker.publish(Publication(subject="journal.orders.r1.input", payload=b""))
        assert stored.sequence == 1
        async with worker.pull("TASKS", "orders") as puller:
            puller.request(1)
            (delivery,) = await puller.batch(1)
            delivery.ack()
        await worker.close()

    async def test_what_is_not_allowed_is_denied_at_once(self, url: str) -> None:
        worker = await connect(settings_for(url, **WORKER, inbox_prefix="_WORKER"))
        started = time.monotonic()
        with pytest.raises(Denied, match=r"journal\.OTHER\.r1"):
            await worker.publish(Publication(subject="journal.OTHER.r1", payload=b""))
        with pytest.raises(Denied):
            await worker.purge("JOURNAL", ">")
        with pytest.raises(Denied):
            await worker.listen("elsewhere.>", ignore)
        answers = await worker.publish_all(
            [Publication(subject=f"journal.{queue}.r2", payload=b"") for queue in ("orders", "other")]
        )
        assert isinstance(answers[0], Stored)
        assert isinstance(answers[1], Denied)
        assert time.monotonic() - started < 1
        await worker.close()


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    with configured_server(tmp_path) as url:
        assert "without JetStream" in await refusal(settings_for(url), within=2.0)


async def test_an_account_without_jetstream_is_refused(tmp_path: Path) -> None:
    accounts = {"PLAIN": {"users": [WORKER]}, "JS": {"jetstream": "enabled"}}
    with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path)}, accounts=accounts) as url:
        message = await refusal(settings_for(url, **WORKER), within=2.0)
    assert "JetStream not enabled for account" in message


async def ignore(_request: object) -> None:
    """A listener that does nothing."""


def consumer_of(stream: str, name: str, *filters: str) -> ConsumerSpec:
    return ConsumerSpec(stream=stream, name=name, filters=filters, ack_wait_seconds=30.0, max_ack_pending=1000)


class TestBrokenConnection:
    @pytest.fixture
    async def server(self, tmp_path: Path) -> AsyncGenerator[EmbeddedServer]:
        async with EmbeddedServer(tmp_path) as server:
            yield server

    @pytest.fixture
    async def broker(self, server: EmbeddedServer) -> AsyncGenerator[NatsBroker]:
        broker = await connect(settings_for(server.url), patience_seconds=5.0)
        await broker.ensure_stream(StreamSpec(name="TASKS", subjects=("tasks.>",), retention="work_queue"))
        await broker.ensure_consumer(consumer_of("TASKS", "orders", "tasks.>"))
        yield broker
        await broker.close()

    async def test_pulls_are_made_again_after_a_crash(self, server: EmbeddedServer, broker: NatsBroker) -> None:
        async with broker.pull("TASKS", "orders") as puller:
            puller.request(5)
            await eventually(lambda: has_pulls(broker))
            await crash(server, broker)
            server.restart()
            started = time.monotonic()
            await broker.publish(Publication(subject="tasks.1", payload=b"after the crash"))
            (delivery,) = await puller.batch(1)
            assert time.monotonic() - started < 1.0
            assert delivery.payload == b"after the crash"
            delivery.ack()

    async def test_what_is_under_way_fails_at_once(self, server: EmbeddedServer, broker: NatsBroker) -> None:
        os.kill(server.pid, signal.SIGSTOP)
        publishing = [
            asyncio.create_task(broker.publish(Publication(subject=f"tasks.{n}", payload=b""))) for n in range(10)
        ]
        await asyncio.sleep(0)
        all_at_once = asyncio.create_task(broker.publish_all([Publication(subject="tasks.x", payload=b"")] * 3))
        await asyncio.wait({all_at_once}, timeout=0.05)
        assert not all_at_once.done()
        started = time.monotonic()
        server.kill()
        results = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(result) for result in results] == [Ambiguous] * 10
        assert [type(result) for result in await all_at_once] == [Ambiguous] * 3
        assert time.monotonic() - started < 1.0

    async def test_what_begins_without_a_connection_waits_for_it(
        self, server: EmbeddedServer, broker: NatsBroker
    ) -> None:
        await crash(server, broker)
        publishing = asyncio.create_task(broker.publish(Publication(subject="tasks.1", payload=b"")))
        reading = asyncio.create_task(broker.stream_state("TASKS"))
        await asyncio.wait({publishing, reading}, timeout=0.05)
        assert not publishing.done()
        server.restart()
        assert (await publishing).sequence == 1
        assert (await reading).messages <= 1

    async def test_what_cannot_be_sent_in_time_is_unavailable(self, server: EmbeddedServer) -> None:
        impatient = await connect(settings_for(server.url), patience_seconds=0.2)
        await crash(server, impatient)
        with pytest.raises(Unavailable):
            await impatient.publish(Publication(subject="tasks.1", payload=b""))
        (answer,) = await impatient.publish_all([Publication(subject="tasks.1", payload=b"")])
        assert isinstance(answer, Unavailable)
        with pytest.raises(Unavailable):
            await impatient.last("TASKS", "tasks.1")
        with pytest.raises(Unavailable):
            async for _ in impatient.read("TASKS", ">"):
                pass
        with pytest.raises(Unavailable):
            await impatient.request("anything", b"", 0.1)
        await impatient.close()

    async def test_nothing_of_a_broken_connection_is_sent_later(
        self, server: EmbeddedServer, broker: NatsBroker
    ) -> None:
        server.kill()
        # Sent into the void: the loss has not been noticed yet.
        lost = asyncio.create_task(broker.publish(Publication(subject="tasks.lost", payload=b"")))
        with pytest.raises(Ambiguous):
            await lost
        server.restart()
        await broker.publish(Publication(subject="tasks.next", payload=b""))
        assert await broker.last("TASKS", "tasks.lost") is None

    async def test_listeners_hear_again_after_a_crash(self, server: EmbeddedServer, broker: NatsBroker) -> None:
        heard: list[bytes] = []

        async def listener(request: Any) -> None:
            heard.append(request.payload)
            request.respond(b"yes")

        await broker.listen("hints.>", listener)
        await crash(server, broker)
        server.restart()
        assert await broker.request("hints.a", b"still there?", 5.0) == b"yes"
        assert heard == [b"still there?"]

    async def test_a_server_that_hangs_is_left_after_some_time(
        self, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PING_SECONDS", 0.05)
        watchful = await connect(settings_for(server.url))
        await watchful.ensure_stream(StreamSpec(name="TASKS", subjects=("tasks.>",)))
        lost = asyncio.Event()
        watchful._wire.on_down.append(lost.set)
        os.kill(server.pid, signal.SIGSTOP)
        # More than the system buffers: some of it stays in the process, which must not wait until it is sent.
        publishing = asyncio.create_task(
            watchful.publish_all([Publication(subject="tasks.x", payload=bytes(1_000_000))] * 20)
        )
        async with asyncio.timeout(2.0):
            await lost.wait()
            assert all(isinstance(answer, Ambiguous) for answer in await publishing)
        os.kill(server.pid, signal.SIGCONT)
        async with asyncio.timeout(5.0):
            await watchful.publish(Publication(subject="tasks.1", payload=b""))
        await watchful.close()

    async def test_closing_does_not_wait_for_a_server_that_hangs(self, server: EmbeddedServer) -> None:
        leaving = await connect(settings_for(server.url))
        os.kill(server.pid, signal.SIGSTOP)
        # More than the system buffers: some of it stays in the process.
        publishing = asyncio.create_task(
            leaving.publish_all([Publication(subject="tasks.x", payload=bytes(1_000_000))] * 20)
        )
        await eventually(lambda: has_unsent(leaving))
        publishing.cancel()
        async with asyncio.timeout(adapter.CLOSE_SECONDS + 2.0):
            await leaving.close()
        os.kill(server.pid, signal.SIGCONT)

    async def test_an_error_of_the_server_does_not_end_the_connection_for_good(self, broker: NatsBroker) -> None:
        broker._wire._transport.write(b"NONSENSE\r\n")  # type: ignore[union-attr]
        await eventually(lambda: is_down(broker))
        await broker.publish(Publication(subject="tasks.1", payload=b""))

    async def test_a_closed_broker_says_so(self, server: EmbeddedServer) -> None:
        broker = await connect(settings_for(server.url))
        await broker.close()
        with pytest.raises(Unavailable, match="closed"):
            await broker.publish(Publication(subject="tasks.1", payload=b""))
        broker.notify("anything", b"")


class TestListening:
    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncGenerator[NatsBroker]:
        async with EmbeddedServer(tmp_path) as server:
            broker = await connect(settings_for(server.url))
            yield broker
            await broker.close()

    async def test_listeners_that_begin_together_ask_the_server_once(self, broker: NatsBroker) -> None:
        answered = broker._wire._pongs_received
        await asyncio.gather(*(broker.listen(f"hints.{number}", ignore) for number in range(50)))
        assert broker._wire._pongs_received == answered + 1

    async def test_a_listener_has_a_task_only_while_it_has_messages(self, broker: NatsBroker) -> None:
        heard: list[str] = []

        async def listener(request: Request) -> None:
            heard.append(request.subject)

        def has_heard(count: int) -> None:
            assert len(heard) == count

        before = asyncio.all_tasks()
        await broker.listen("hints.>", listener)
        for count in (1, 2, 3):
            broker.notify(f"hints.{count}", b"")
            await eventually(partial(has_heard, count))
        assert heard == ["hints.1", "hints.2", "hints.3"]
        assert asyncio.all_tasks() == before


async def test_the_insides_of_nats_py_are_where_the_wire_expects_them() -> None:
    wire, plain = Wire(lambda _info: None), Client()
    for name in ("_pending", "_pending_data_size", "_flush_queue", "_pongs", "_transport", "_sid", "_server_info"):
        assert hasattr(plain, name), f"nats-py has no {name} any more"
    taken_over = "_connect_to_server", "_process_connect_init", "_process_err", "_process_info", "_process_op_err"
    for name in (*taken_over, "_read_loop"):
        theirs, ours = inspect.signature(getattr(plain, name)), inspect.signature(getattr(wire, name))
        assert list(theirs.parameters) == list(ours.parameters), f"nats-py has changed {name}"
    tasks = "_reading_task", "_ping_interval_task", "_flusher_task", "_reconnection_task"
    for name in (*tasks, "_process_pong", "_error_cb"):
        assert hasattr(plain, name), f"nats-py has no {name} any more"
    for name in (_READER, _WRITER):
        assert hasattr(TcpTransport(), name), f"the streams of nats-py's transport are not called {name} any more"  # type: ignore[no-untyped-call]
    assert hasattr(asyncio.StreamReader(), _AT_END)


async def has_pulls(broker: NatsBroker) -> None:
    assert (await broker.consumer_state("TASKS", "orders")).waiting_pulls


def has_unsent(broker: NatsBroker) -> None:
    assert broker._wire._find_socket().get_write_buffer_size()


def is_down(broker: NatsBroker) -> None:
    assert not broker._wire.up


def is_up(broker: NatsBroker) -> None:
    assert broker._wire.up


async def crash(server: EmbeddedServer, broker: NatsBroker) -> None:
    """Kill the server, and wait until the broker has noticed."""
    server.kill()
    await eventually(lambda: is_down(broker))
