"""Arguments that the client library refuses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest

import ironflow
from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.errors import (
    DefinitionError,
    EngineUnavailableError,
    IronflowError,
    LimitError,
    PayloadTooLargeError,
    PublishError,
    RunFailedError,
    RunNotFoundError,
    SerializationError,
)
from ironflow.names import Names
from tests.e2e.bad_input.tables import (
    DURATION_RULE,
    EVENT_ID_RULE,
    ID_RULE,
    MOST,
    NAMESPACE_RULE,
    NOBODY,
    TEXT_RULE,
    URL_RULE,
    Place,
    ids_of,
)
from tests.support.processes import Process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


class Wrong(NamedTuple):
    """One line of a table: a call, and the error that it raises."""

    call: Callable[[Any], Any]
    error: type[BaseException]
    complaint: str


class Refused:
    """What JSON cannot carry."""

    def __repr__(self) -> str:
        return "Refused()"


NESTED: list[Any] = []
NESTED.append(NESTED)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has no time zone is the point

CALLS = (
    Wrong(lambda c: c.publish(""), DefinitionError, f"event name {TEXT_RULE} ''"),
    Wrong(lambda c: c.publish(None), DefinitionError, f"event name {TEXT_RULE} None"),
    Wrong(lambda c: c.publish("order.*"), DefinitionError, "event name 'order.*' has a wildcard"),
    Wrong(lambda c: c.publish("ironflow.x"), DefinitionError, "event name 'ironflow.x' is reserved"),
    Wrong(lambda c: c.publish("\ud800"), DefinitionError, "is not valid text: surrogates not allowed"),
    Wrong(lambda c: c.publish("x" * 257), LimitError, "event name is 257 bytes long; at most 256 are allowed"),
    Wrong(
        lambda c: c.publish("a", Refused()),
        SerializationError,
        "data: Objects of type Refused cannot be written as JSON",
    ),
    Wrong(
        lambda c: c.publish("a", {"b": [1, Refused()]}), SerializationError, "data.b[1]: Objects of type Refused cannot"
    ),
    Wrong(lambda c: c.publish("a", float("nan")), SerializationError, "data: nan is not a JSON number"),
    Wrong(lambda c: c.publish("a", [{"b": float("inf")}]), SerializationError, "data[0].b: inf is not a JSON number"),
    Wrong(lambda c: c.publish("a", {(1, 2): 3}), SerializationError, "data: "),
    Wrong(lambda c: c.publish("a", NESTED), SerializationError, "data is nested too deep, or contains itself"),
    Wrong(
        lambda c: c.publish("a", "x" * (MOST - 1)),
        PayloadTooLargeError,
        "data of event 'a' is 524,289 bytes as JSON; at most 524,288 are allowed",
    ),
    Wrong(lambda c: c.publish("a", id=""), DefinitionError, f"{EVENT_ID_RULE} ''"),
    Wrong(lambda c: c.publish("a", id=5), DefinitionError, f"{EVENT_ID_RULE} 5"),
    Wrong(lambda c: c.publish("a", id="a\nb"), DefinitionError, f"{EVENT_ID_RULE} 'a\\nb'"),
    Wrong(lambda c: c.publish("a", id="ironflow:1"), DefinitionError, "event id 'ironflow:1' is reserved"),
    Wrong(lambda c: c.publish("a", id="x" * 257), LimitError, "an event id may have at most 256 bytes, got 257"),
    Wrong(lambda c: c.publish("a", source=5), DefinitionError, "source must be a text, got 5"),
    Wrong(lambda c: c.publish("a", source="x" * 300), LimitError, "source is 300 bytes; at most 256 are allowed"),
    Wrong(lambda c: c.publish("a", metadata="k=v"), DefinitionError, "metadata must map texts to texts, got 'k=v'"),
    Wrong(lambda c: c.publish("a", metadata={"k": 1}), DefinitionError, "metadata 'k' must be a text, got 1"),
    Wrong(lambda c: c.publish("a", metadata={"k": "x" * 9_000}), LimitError, "metadata is 9,001 bytes; at most 8,192"),
    Wrong(lambda c: c.start(""), DefinitionError, f"function id '' {ID_RULE}"),
    Wrong(lambda c: c.start("a b"), DefinitionError, f"function id 'a b' {ID_RULE}"),
    Wrong(lambda c: c.start("x" * 5_000), DefinitionError, ID_RULE),
    Wrong(lambda c: c.start("ironflow.x"), DefinitionError, "function id 'ironflow.x' is reserved"),
    Wrong(lambda c: c.start(5), DefinitionError, "start takes an ironflow function or its id, got 5"),
    Wrong(lambda c: c.start(print), DefinitionError, "start takes an ironflow function or its id, got <built-in"),
    Wrong(lambda c: c.start("f", float("nan")), SerializationError, "data: nan is not a JSON number"),
    Wrong(lambda c: c.start("f", "x" * MOST), PayloadTooLargeError, "is 524,290 bytes as JSON; at most 524,288 are"),
    Wrong(lambda c: c.start("f", id=""), DefinitionError, f"{EVENT_ID_RULE} ''"),
    Wrong(lambda c: c.start("f", id="x" * 257), LimitError, "an event id may have at most 256 bytes, got 257"),
    Wrong(lambda c: c.run("ABC").state(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("ABC").steps(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("ABC").result(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("a.b.*").result(), RunNotFoundError, "no run a.b.*"),
    Wrong(lambda c: c.run("").state(), RunNotFoundError, "no run ''"),
    Wrong(lambda c: c.run("x" * 10_000).wait(), RunNotFoundError, f"no run '{'x' * 60}'… (10,000 characters)"),
    Wrong(lambda c: c.run(5), DefinitionError, "a run id must be a text, got 5"),
    Wrong(lambda c: c.run(None), DefinitionError, "a run id must be a text, got None"),
    Wrong(lambda c: c.run("\ud800"), DefinitionError, "a run id is not valid text"),
    Wrong(lambda c: c.run("ABC").result("soon"), DefinitionError, f"timeout {DURATION_RULE}; got 'soon'"),
    Wrong(lambda c: c.run("ABC").result(0), DefinitionError, "timeout must be longer than zero, got 0"),
    Wrong(lambda c: c.run("ABC").result("400d"), LimitError, "timeout must be at most 366 days, got '400d'"),
    Wrong(
        lambda c: c.runs(status="done"), DefinitionError, "status must be one of 'queued', 'running', 'waiting', 'comp"
    ),
    Wrong(lambda c: c.runs(function=5), DefinitionError, "function must be a text, got 5"),
    Wrong(lambda c: c.runs(since="yesterday"), DefinitionError, "since must be an ISO 8601 time like"),
    Wrong(
        lambda c: c.runs(since="2026-01-01"), DefinitionError, "since has no time zone: '2026-01-01T00:00:00'; add one"
    ),
    Wrong(lambda c: c.runs(since=NAIVE), DefinitionError, "since has no time zone"),
    Wrong(lambda c: c.runs(limit=-1), DefinitionError, "limit must be a whole number that is not negative, got -1"),
    Wrong(
        lambda c: c.runs(limit="many"), DefinitionError, "limit must be a whole number that is not negative, got 'many'"
    ),
    Wrong(lambda c: c.runs(limit=1.5), DefinitionError, "limit must be a whole number that is not negative, got 1.5"),
    Wrong(lambda c: c.events(name="a..b"), DefinitionError, "pattern 'a..b' has an empty part"),
    Wrong(lambda c: c.events(name=5), DefinitionError, f"pattern {TEXT_RULE} 5"),
    Wrong(lambda c: c.events(limit=-1), DefinitionError, "limit must be a whole number that is not negative, got -1"),
)


CONNECTIONS = (
    Wrong(lambda connect: connect(NOBODY), EngineUnavailableError, f"cannot reach NATS at {NOBODY}: connection"),
    Wrong(lambda connect: connect("http://x"), DefinitionError, f"'http://x' {URL_RULE}"),
    Wrong(lambda connect: connect(5), DefinitionError, "url must be a text, got 5"),
    Wrong(lambda connect: connect(["nats://a"]), DefinitionError, "url must be a text, got ['nats://a']"),
    Wrong(lambda connect: connect(namespace="Prod"), DefinitionError, f"namespace 'Prod' {NAMESPACE_RULE}"),
    Wrong(lambda connect: connect(namespace=5), DefinitionError, "namespace must be a text, got 5"),
    Wrong(
        lambda connect: connect(creds="gone"),
        DefinitionError,
        "cannot read the credentials file gone: No such file",
    ),
    Wrong(lambda connect: connect(creds=5), DefinitionError, "creds must be a text, got 5"),
    Wrong(lambda connect: connect(context="gone"), DefinitionError, "there is no NATS context 'gone'"),
    Wrong(lambda connect: connect(context=5), DefinitionError, "context must be a text, got 5"),
)


async def attempt(call: Callable[[Any], Any], subject: object) -> None:
    """Make a call, and await, exhaust or enter what it returns."""
    made = call(subject)
    if hasattr(made, "__aiter__"):
        async for _ in made:
            pass
    elif hasattr(made, "__aenter__"):
        async with made:
            pass
    else:
        await made


READING: list[Callable[[Any], Any]] = [lambda c: c.runs(), lambda c: c.run("ABC").state(), lambda c: c.events()]


async def errors_of(calls: Iterable[Callable[[Any], Any]], client: Client) -> list[BaseException | None]:
    """Make calls at the same time, and return what they raise."""
    return await asyncio.gather(*(attempt(call, client) for call in calls), return_exceptions=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine once, and not for as long as it may take to come back."""
    monkeypatch.setattr("ironflow.engine_api._PATIENT_SHARE", 0.0)


class TestClient:
    @pytest.mark.usefixtures("nothing_stored")
    @pytest.mark.parametrize("wrong", CALLS, ids=ids_of(wrong.complaint for wrong in CALLS))
    async def test_a_wrong_call_raises_its_error(self, place: Place, wrong: Wrong) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            with pytest.raises(IronflowError) as caught:
                await attempt(wrong.call, client)
        assert type(caught.value) is wrong.error
        assert wrong.complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError) == issubclass(wrong.error, (DefinitionError, LimitError))

    async def test_starting_a_function_that_nobody_has_fails_the_run(self, place: Place) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            run = await client.start("nobody-has-it")
            with pytest.raises(RunFailedError, match=r"FunctionNotFound: no function 'nobody-has-it' is registered"):
                await run.result("10s")

    async def test_a_result_that_does_not_come_in_time_is_a_time_out(
        self, nats_server: EmbeddedServer, left_alone: Process, namespace: str
    ) -> None:
        left_alone.terminate()
        async with ironflow.connect(nats_server.url, namespace=namespace) as client:
            run = await client.start("f")
            for timeout in ("50ms", 0.05, timedelta(milliseconds=50)):
                with pytest.raises(TimeoutError, match=f"run {run.id} has not ended within 50ms; it goes on"):
                    await run.result(timeout)

    @pytest.mark.usefixtures("impatient")
    async def test_without_an_engine_reading_fails_and_publishing_where_there_are_no_streams(
        self, nats_server: EmbeddedServer, namespace: str
    ) -> None:
        broker = await connect(ConnectionSettings(urls=(nats_server.url,)), patience_seconds=0.2)
        client = Client(broker, Names(namespace))
        unavailable, unstored = await asyncio.gather(
            errors_of(READING, client), errors_of([lambda c: c.publish("a"), lambda c: c.start("f")], client)
        )
        await broker.close()
        assert [type(error) for error in unavailable] == [EngineUnavailableError] * len(READING)
        assert all(f"no engine answers in namespace '{namespace}'" in str(error) for error in unavailable)
        assert [type(error) for error in unstored] == [PublishError] * 2
        complaint = f"is not stored: namespace {namespace!r} has no streams yet; an engine makes them: start one with "
        assert all(complaint in str(error) for error in unstored)

    @pytest.mark.usefixtures("impatient")
    async def test_a_client_that_was_closed_says_so(self, place: Place) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            pass
        with pytest.raises(PublishError, match="event 'a' is not stored: the connection to NATS was closed"):
            await client.publish("a")
        errors = await errors_of(READING, client)
        assert [type(error) for error in errors] == [EngineUnavailableError] * len(READING)
        assert all("the connection to NATS was closed" in str(error) for error in errors)

    @pytest.mark.parametrize("wrong", CONNECTIONS, ids=ids_of(wrong.complaint for wrong in CONNECTIONS))
    async def test_a_connection_that_cannot_be_made_raises_its_error(self, wrong: Wrong) -> None:
        with pytest.raises(IronflowError) as caught:
            await attempt(wrong.call, ironflow.connect)
        assert type(caught.value) is wrong.error
        assert wrong.complaint in str(caught.value)
