"""Servers and engines that are away, or are none."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import ironflow
from tests.e2e.bad_input.tables import (
    DONE,
    EACH_EXECUTABLE,
    FAILED,
    NOBODY,
    UNREACHABLE,
    WITHIN_SECONDS,
    Bad,
    Place,
    assert_refused,
    complaint_of,
    make_shop,
)
from tests.support import fresh_namespace
from tests.support.commands import COMMAND, Call
from tests.support.processes import Process
from tests.support.servers import configured_server, info_line, stub_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


CONNECTING = (
    *("publish a", "runs list", "runs get ABC", "runs watch", "runs watch ABC", "runs retry ABC", "functions list"),
    *("functions delete ABC", "workers list", "queues list", "events list", "doctor"),
)
ASKING = tuple(words for words in CONNECTING if words not in ("publish a", "doctor"))


def calls(*lines: str) -> list[Call]:
    return [Call(COMMAND, tuple(line.split())) for line in lines]


async def assert_unreachable(place: Place, called: Sequence[Call], complaint: str, **environment: str) -> None:
    """Run commands at the same time, each of which shall say so within five seconds."""
    make_shop(place)
    outcomes = await asyncio.to_thread(place.commands.run_all, called, environment)
    for call, outcome in zip(called, outcomes, strict=True):
        assert_refused(outcome, Bad(str(call), complaint, UNREACHABLE))
        assert outcome.seconds < WITHIN_SECONDS, call


@pytest.fixture
def http_url() -> Iterator[str]:
    """A web server where a NATS server is looked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"nats://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestServers:
    async def test_nobody_listens(self, place: Place) -> None:
        called = [*calls(*CONNECTING), *EACH_EXECUTABLE]
        complaint = (
            f"cannot reach NATS at {NOBODY}: connection refused. Is the server running? (`ironflow dev` starts one"
        )
        await assert_unreachable(place, called, complaint, NATS_URL=NOBODY)

    async def test_an_old_server(self, place: Place) -> None:
        async with stub_server(info_line("2.10.29"), answers_ping=True) as url:
            complaint = f"cannot use NATS at {url}: the server is nats-server 2.10.29, and 2.14.3 or newer is needed"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_server_without_jetstream(self, place: Place, tmp_path: Path) -> None:
        with configured_server(tmp_path) as url:
            complaint = f"cannot use NATS at {url}: it runs without JetStream. Start nats-server with -js"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_web_server(self, place: Place, http_url: str) -> None:
        complaint = f"cannot reach NATS at {http_url}: no answer within 3.5 s. Is the server running?"
        await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=http_url)

    async def test_a_server_that_speaks_something_else(self, place: Place) -> None:
        async with stub_server(b"220 mail.example.org ESMTP\r\n") as url:
            complaint = f"cannot use NATS at {url}: what answers there is no NATS server"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_server_that_falls_silent(self, place: Place) -> None:
        async with stub_server(info_line("2.15.1")) as url:
            complaint = f"cannot reach NATS at {url}: it named its version and then said nothing within 3.5 s"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_wrong_credentials(self, place: Place, tmp_path: Path) -> None:
        users = [{"user": "ada", "password": "right"}]
        with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path)}, authorization={"users": users}) as url:
            complaint = (
                f"NATS at {url} refused to sign in: Authorization Violation. Check user, password, token or cred"
            )
            for wrong in ({"NATS_USER": "ada", "NATS_PASSWORD": "wrong"}, {"NATS_TOKEN": "wrong"}, {}):
                await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url, **wrong)

    async def test_no_engine_in_the_namespace(self, place: Place) -> None:
        namespace = fresh_namespace()
        complaint = f"no engine answers in namespace {namespace!r}; start one with 'ironflow-engine' or 'ironflow dev'"
        await assert_unreachable(place, calls(*ASKING), complaint, IRONFLOW_NAMESPACE=namespace)

    async def test_publishing_where_no_engine_has_ever_been(self, place: Place) -> None:
        namespace = fresh_namespace()
        complaint = f"event 'a' is not stored: namespace {namespace!r} has no streams yet; an engine makes them"
        await assert_unreachable(
            place, calls("publish a", "publish a --wait --json"), complaint, IRONFLOW_NAMESPACE=namespace
        )

    def test_doctor_says_that_no_engine_answers(self, place: Place) -> None:
        outcome = place.ironflow("doctor", "--json", "--namespace", fresh_namespace())
        assert (outcome.code, outcome.stderr) == (FAILED, "")
        assert any("no engine answers" in finding["text"] for finding in json.loads(outcome.stdout))
        assert outcome.seconds < WITHIN_SECONDS


class TestEnginesThatAreAway:
    async def test_events_are_stored_while_no_engine_runs(
        self, place: Place, left_alone: Process, namespace: str
    ) -> None:
        left_alone.terminate()
        outcome = await asyncio.to_thread(place.ironflow, "publish", "a", "--id", "a-1", IRONFLOW_NAMESPACE=namespace)
        assert (outcome.code, outcome.stdout, outcome.stderr) == (DONE, "a-1\n", "")
        waiting = await asyncio.to_thread(
            place.ironflow, "publish", "a", "--wait", "--json", IRONFLOW_NAMESPACE=namespace
        )
        assert complaint_of(waiting).startswith(f"no engine answers in namespace {namespace!r}")
        assert waiting.code == UNREACHABLE
        assert waiting.seconds < WITHIN_SECONDS
        assert json.loads(waiting.stdout)["runs"] == []
        async with ironflow.connect(place.url, namespace=namespace) as client:
            assert (await client.broker.stream_state(client.names.events)).messages == 2

    async def test_an_engine_that_hangs_is_not_waited_for(
        self, place: Place, left_alone: Process, namespace: str
    ) -> None:
        os.kill(left_alone.pid, signal.SIGSTOP)
        complaint = f"no engine answers in namespace {namespace!r}"
        await assert_unreachable(place, calls("runs list", "runs get ABC"), complaint, IRONFLOW_NAMESPACE=namespace)
