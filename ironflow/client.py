"""The client: publish events, start runs, read results."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, TypeVar, get_args, overload

import msgspec

from ironflow.broker.protocol import (
    Ambiguous,
    Broker,
    BrokerError,
    Denied,
    NoSuchStream,
    Publication,
    Stored,
    StoredMessage,
    Unavailable,
)
from ironflow.clock import now_ms, parse_when, to_iso
from ironflow.codec import decode_record, encode_record
from ironflow.end_hint import Start
from ironflow.engine_api import EngineApi
from ironflow.errors import DefinitionError, EngineUnavailableError, PublishError
from ironflow.events import Event, check_event_id, check_text, make_event, read_event
from ironflow.function import Function, check_function_id
from ironflow.group_commit import GroupCommit
from ironflow.handles import ASK_AGAIN_SECONDS, RunHandle
from ironflow.limits import DEFAULT_LIMITS, Limits
from ironflow.messages import ListEvents, RunsOfEvent, StoredEvent
from ironflow.names import DEFAULT_NAMESPACE, Names, run_id, start_event_id
from ironflow.records import EventRecord, RunStatus
from ironflow.telemetry.tracing import carrier_of, span, with_context
from ironflow.triggers import INVOKED, check_event_name, check_trigger

In = TypeVar("In")
Out = TypeVar("Out")

_PUBLISH_TRIES = 3
_LOOK_SECONDS = 0.5
"""What only makes a message better must not keep anybody waiting for longer."""


class Published(msgspec.Struct, frozen=True):
    """An event that JetStream has acknowledged, and where it stands; *existed*: one with its id was stored before."""

    record: EventRecord
    sequence: int
    existed: bool = False


class Client:
    """A connection for programs that publish events, start runs and read results. Made by :func:`connect`.

    Args:
        broker: the connection.
        names: the namespace.
        limits: what is refused before it is sent.
        ask_again_seconds: how often, at the most seldom, whoever waits for a run's end asks for it: the engine says it
            unasked, which can be lost.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        limits: Limits = DEFAULT_LIMITS,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
    ) -> None:
        self.broker = broker
        self.names = names
        self.engine = EngineApi(broker, names)
        self._limits = limits
        self._ask_again_seconds = ask_again_seconds
        self._commits = GroupCommit(broker)

    async def publish(
        self,
        event: str,
        data: object = None,
        *,
        id: str | None = None,
        source: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Event[Any]:
        """Publish an event; when this returns, it is stored.

        Args:
            event: the name, like ``order.placed``.
            data: the payload; anything that JSON can carry.
            id: makes publishing it again harmless: an id that was used before has no further effect, and the
                event that exists is returned. Ids are one space for the namespace. Default a random one.
            source: who publishes; free text.
            metadata: texts beside the payload.

        Raises:
            DefinitionError: the name or the id is not allowed.
            SerializationError: the data cannot be carried as JSON.
            LimitError: the name, the id or the data is too large.
            PublishError: JetStream did not acknowledge it.

        """
        published = await self.publish_record(event, data, id=id, source=source, metadata=metadata)
        return read_event(published.record)

    async def publish_record(
        self,
        event: str,
        data: object = None,
        *,
        id: str | None = None,
        source: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Published:
        """Publish as :meth:`publish` does, and say where the event stands in the stream."""
        check_event_name(event, self._limits.event_name_bytes)
        record = make_event(
            event_id=secrets.token_hex(16) if id is None else id,
            name=event,
            data=data,
            time=to_iso(now_ms()),
            source=source,
            metadata=metadata,
            limits=self._limits,
        )
        return await self._store(record)

    @overload
    async def start(self, function: Function[In, Out], data: In, *, id: str | None = None) -> RunHandle[Out]: ...
    @overload
    async def start(self, function: Function[Any, Out], *, id: str | None = None) -> RunHandle[Out]: ...
    @overload
    async def start(self, function: str, data: object = None, *, id: str | None = None) -> RunHandle[Any]: ...
    async def start(
        self, function: Function[Any, Any] | str, data: object = None, *, id: str | None = None
    ) -> RunHandle[Any]:
        """Start a run of one function; when this returns, the start is stored.

        The run sees an event named ``ironflow.invoked`` with *data*.

        Args:
            function: the function, or its id.
            data: the event's payload.
            id: makes starting it again harmless: an id that was used before returns the run that exists. Ids
                are one space for each function. Default a random one.

        Raises:
            DefinitionError: the function's id or the run's is not allowed.
            SerializationError: the data cannot be carried as JSON.
            LimitError: the id or the data is too large.
            PublishError: JetStream did not acknowledge it.

        """
        function_id = _function_id(function)
        start_id = secrets.token_hex(16) if id is None else id
        check_event_id(start_id, self._limits)
        record = make_event(
            event_id=start_event_id(function_id, start_id),
            name=INVOKED,
            data=data,
            time=to_iso(now_ms()),
            target=function_id,
            limits=self._limits,
        )
        clock = asyncio.get_running_loop().time
        began_at = clock()
        published = await self._store(record)
        output_type = function.output_type if isinstance(function, Function) else Any
        start = Start(began_at=began_at, stored_at=clock(), is_new=not published.existed)
        return self._handle(run_id(function_id, record.id), output_type, start)

    def run(self, id: str) -> RunHandle[Any]:
        """Return a handle for a run id. Whether such a run exists shows when it is asked for something.

        Raises:
            DefinitionError: the id is no text.

        """
        return self._handle(check_text(id, "a run id"), Any)

    async def runs(
        self,
        *,
        status: RunStatus | None = None,
        function: str | None = None,
        since: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunHandle[Any]]:
        """Yield handles of runs, newest first.

        Args:
            status: only runs that have it.
            function: only runs of the function with that id.
            since: only runs created then or later; ISO 8601 with a time zone.
            limit: at most so many. Default all.

        Raises:
            EngineUnavailableError: no engine answers.
            DefinitionError: a value is not one that is possible; *since* needs a time zone.

        """
        if status is not None and status not in get_args(RunStatus):
            msg = f"status must be one of {', '.join(map(repr, get_args(RunStatus)))}, got {status!r}"
            raise DefinitionError(msg)
        if function is not None:
            check_text(function, "function")
        _check_limit(limit)
        since_ms = 0 if since is None else parse_when(since, "since")
        async for view in self.engine.runs(status=status, function=function, since_ms=since_ms, limit=limit):
            yield self._handle(view.id, Any)

    async def runs_of(self, published: Published, wait_seconds: float = 10.0) -> tuple[list[str], bool]:
        """Return the ids of the runs that an event started, and whether that is all of them.

        Args:
            published: the event.
            wait_seconds: how long to wait for the engine to get to it.

        Raises:
            EngineUnavailableError: no engine answers.

        """
        record = published.record
        found = await self.engine.runs_of_event(
            RunsOfEvent(
                id=record.id,
                name=record.name,
                sequence=published.sequence,
                target=record.target,
                wait_ms=round(wait_seconds * 1000),
            )
        )
        return list(found.runs), found.matched

    async def events(self, *, name: str | None = None, limit: int | None = None) -> AsyncIterator[StoredEvent]:
        """Yield stored events, newest first; *name* may be a pattern like a trigger.

        Raises:
            EngineUnavailableError: no engine answers.
            DefinitionError: the name or the limit is not allowed.

        """
        if name is not None:
            check_trigger(name, self._limits.event_name_bytes, "pattern")
        _check_limit(limit)
        before: int | None = None
        left = limit
        while left is None or left > 0:
            page = await self.engine.events(
                ListEvents(name=name, limit=min(50, left) if left is not None else 50, before=before)
            )
            for event in page.events:
                yield await self._whole(event)
            before = page.next
            if before is None:
                return
            left = left - len(page.events) if left is not None else None

    async def lacking_streams(self) -> str | None:
        """Return what to say where no engine has ever made this namespace's streams, and None elsewhere."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self.broker.stream_state(self.names.events)
        except NoSuchStream:
            return (
                f"namespace {self.names.namespace!r} has no streams yet; an engine makes them: start one with "
                "'ironflow-engine' or 'ironflow dev', or name another namespace"
            )
        except (BrokerError, TimeoutError):
            pass
        return None

    def _handle(self, id: str, output_type: Any, start: Start | None = None) -> RunHandle[Any]:
        return RunHandle(
            id,
            broker=self.broker,
            names=self.names,
            engine=self.engine,
            output_type=output_type,
            start=start,
            ask_again_seconds=self._ask_again_seconds,
        )

    async def _whole(self, event: StoredEvent) -> StoredEvent:
        if not event.left_out:
            return event
        message = await self._event_at(event.sequence)
        data = decode_record(EventRecord, message.payload).data if message is not None else event.data
        return msgspec.structs.replace(event, data=data, left_out=False)

    async def _store(self, record: EventRecord) -> Published:
        shown = {"ironflow.event.name": record.name, "ironflow.event.id": record.id}
        with span(f"publish {record.name}", "producer", carrier_of(record.metadata), shown) as carrier:
            return await self._store_traced(with_context(record, carrier))

    async def _store_traced(self, record: EventRecord) -> Published:
        publication = Publication(
            subject=self.names.event(record.name), payload=encode_record(record), message_id=record.id
        )
        stored, tries = await self._store_surely(publication, record)
        existed = stored.duplicate
        if existed:
            try:
                existing = await self._event_at(stored.sequence)
            except Denied:
                existing = None  # who may publish events need not be allowed to read those of others
            if existing is not None:
                # A first try whose answer got lost has stored this very event.
                existed = tries == 1 or existing.payload != publication.payload
                record = decode_record(EventRecord, existing.payload)
        return Published(record, stored.sequence, existed=existed)

    async def _event_at(self, sequence: int) -> StoredMessage | None:
        try:
            return await self.broker.at(self.names.events, sequence)
        except Denied:
            raise
        except BrokerError as error:
            msg = f"the event is stored, and cannot be read now: {error}"
            raise EngineUnavailableError(msg) from error

    async def _store_surely(self, publication: Publication, record: EventRecord) -> tuple[Stored, int]:
        """Publish; where no answer came publish again, which the event's id makes harmless. Return the tries, too."""
        for tries in range(1, _PUBLISH_TRIES + 1):
            try:
                return await self._commits.publish(publication), tries
            except Ambiguous as error:
                if tries == _PUBLISH_TRIES:
                    msg = (
                        f"event {record.name!r} was not acknowledged by JetStream and may or may not be stored; "
                        f"publish it again with id={record.id!r}, which has no second effect"
                    )
                    raise PublishError(msg) from error
            except BrokerError as error:
                lacking = await self.lacking_streams() if isinstance(error, Unavailable) else None
                msg = f"event {record.name!r} is not stored: {lacking or error}"
                raise PublishError(msg) from error
        msg = "unreachable"
        raise AssertionError(msg)


def _function_id(function: object) -> str:
    function_id = function.id if isinstance(function, Function) else function
    if not isinstance(function_id, str):
        msg = f"start takes an ironflow function or its id, got {function!r}"
        raise DefinitionError(msg)
    return check_function_id(function_id)


def _check_limit(limit: object) -> None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        msg = f"limit must be a whole number that is not negative, got {limit!r}"
        raise DefinitionError(msg)


@contextlib.asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    creds: str | None = None,
    context: str | None = None,
) -> AsyncGenerator[Client]:
    """Connect to NATS.

    Args:
        url: like ``nats://127.0.0.1:4222``; several with commas between them. Default ``NATS_URL``, else that.
        namespace: separates environments that share one NATS account. Default ``IRONFLOW_NAMESPACE``, else
            ``ironflow``.
        creds: a NATS credentials file. Default ``NATS_CREDS``.
        context: the name of a ``nats`` CLI context to take the rest from. Default ``NATS_CONTEXT``.

    Raises:
        EngineUnavailableError: NATS cannot be reached, or is too old; within five seconds.
        DefinitionError: the namespace, the URL, or what the credentials or the context hold is not allowed.

    """
    for setting, value in (("url", url), ("namespace", namespace), ("creds", creds), ("context", context)):
        if value is not None:
            check_text(value, setting)
    from ironflow.settings import connection_settings, environment_namespace  # noqa: PLC0415 - keeps "import ironflow" light

    names = Names(namespace or environment_namespace() or DEFAULT_NAMESPACE)
    from ironflow.broker.nats import connect as connect_nats  # noqa: PLC0415 - likewise

    broker = await connect_nats(connection_settings(url=url, creds=creds, context=context))
    try:
        yield Client(broker, names)
    finally:
        await broker.close()
