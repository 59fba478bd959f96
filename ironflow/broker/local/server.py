"""The in-process server: one "nats-server" for all connections of a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Literal, Protocol, TypeAlias

from ironflow.broker.local.clock import EPOCH_MS, Clock
from ironflow.broker.local.core import Exchange, NoStreamTakesIt, check_size
from ironflow.broker.local.schedules import Lateness
from ironflow.broker.local.stream import Stream
from ironflow.broker.local.subjects import is_valid, overlap
from ironflow.broker.protocol import (
    BrokerError,
    ConsumerSpec,
    NoSuchStream,
    Publication,
    ServerInfo,
    StorageFull,
    Stored,
    StreamSpec,
)

VERSION = "in-process"
MAX_PAYLOAD = 1024 * 1024

Stage: TypeAlias = Literal["before", "after"]
Interceptor: TypeAlias = Callable[[Stage, str, str], BrokerError | None]
"""Called with the stage, the verb ("publish", "ack", …) and the subject or stream of what a client does.

An error that it returns "before" keeps the server from doing it; one returned "after" only stands in for the
answer. What is sent and not awaited ("ack", "nak", "renew", "notify") is lost "before", and has no "after".
"""

_processes = count(1)


class Client(Protocol):
    """A connection, as the server sees it."""

    def reconnected(self) -> None:
        """Listen and pull again, on a server that is up again."""
        ...

    def resume(self) -> None:
        """Pull again, also from a new consumer."""
        ...


class ServerProcess:
    """Streams, consumers and core subjects in memory, with the behaviour of a JetStream server.

    It belongs to the event loop that first uses it, and no thread but that loop's may use it.

    Args:
        epoch_ms: milliseconds since 1970 at which the loop's time is zero; default 2026-01-01 UTC.
        max_payload: the largest message that it takes, in bytes; default 1 MiB.
        max_stored_bytes: how much all streams together may hold; more is StorageFull. Default: no limit.
        schedule_lateness_ms: how late timers fire, in milliseconds; default 0, and 0 to 250 on a real server.
        interceptor: makes calls fail, for tests of what comes then; default none.

    Attributes:
        interceptor: may be set and taken away at any time.

    """

    def __init__(
        self,
        *,
        epoch_ms: int = EPOCH_MS,
        max_payload: int = MAX_PAYLOAD,
        max_stored_bytes: int | None = None,
        schedule_lateness_ms: int = 0,
        interceptor: Interceptor | None = None,
    ) -> None:
        self.clock = Clock(epoch_ms)
        self.exchange = Exchange(max_payload)
        self.interceptor = interceptor
        self._lateness = Lateness(schedule_lateness_ms)
        self._up = asyncio.Event()
        self._up.set()
        self._max_payload = max_payload
        self._max_stored_bytes = max_stored_bytes
        self._streams: dict[str, Stream] = {}
        self._connections: dict[Client, None] = {}
        self._info = self._new_process()

    @property
    def info(self) -> ServerInfo:
        """What the server says of itself; its id is that of the process that runs now or ran last."""
        return self._info

    @property
    def schedule_lateness_ms(self) -> int:
        """How late timers fire that are set from now on, in milliseconds."""
        return self._lateness.milliseconds

    @schedule_lateness_ms.setter
    def schedule_lateness_ms(self, milliseconds: int) -> None:
        self._lateness.milliseconds = milliseconds

    @property
    def running(self) -> bool:
        """Whether the server is up."""
        return self._up.is_set()

    async def wait_until_up(self) -> None:
        """Return once the server runs."""
        await self._up.wait()

    def disconnected(self, connection: Client) -> None:
        """Learn that a connection is gone."""
        self._connections.pop(connection, None)

    # Ups and downs

    def stop(self) -> None:
        """Be down, as after a crash: nothing is answered, nothing fires. Connections wait for the server."""
        self._up.clear()
        for stream in self._streams.values():
            stream.stop()

    def start(self, *, keep_delivery_counts: bool = False) -> None:
        """Be up again as a new process. Clients listen and pull again, and messages that were out come back.

        Args:
            keep_delivery_counts: whether redelivered messages still know how often they were delivered
                before. After a crash most do not, which is the default.

        """
        if self.running:
            return
        self._up.set()
        self._info = self._new_process()
        for stream in self._streams.values():
            stream.start(keep_delivery_counts=keep_delivery_counts)
        for connection in self._connections:
            connection.reconnected()

    def restart(self, *, keep_delivery_counts: bool = False) -> None:
        """Crash and come back at once: :meth:`stop`, then :meth:`start`."""
        self.stop()
        self.start(keep_delivery_counts=keep_delivery_counts)

    def _new_process(self) -> ServerInfo:
        return ServerInfo(
            id=f"LOCAL{next(_processes)}", version=VERSION, max_payload=self._max_payload, name="in-process"
        )

    # Streams

    def ensure_stream(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to *spec*."""
        for subject in spec.subjects:
            if not is_valid(subject):
                raise BrokerError(f"stream {spec.name!r}: {subject!r} is not a subject")
            for name, other in self._streams.items():
                if name != spec.name and any(overlap(subject, theirs) for theirs in other.spec.subjects):
                    raise BrokerError(f"streams {name!r} and {spec.name!r} overlap in {subject!r}")
        stream = self._streams.get(spec.name)
        if stream is None:
            self._streams[spec.name] = Stream(spec, self.clock, self._lateness)
        else:
            stream.update(spec)

    def delete_stream(self, name: str) -> None:
        """Forget a stream with its messages and consumers, as an operator has a server do by hand."""
        del self._streams[name]

    def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer, or bring an existing one to *spec*; serve those who wait for it."""
        self.stream(spec.stream).ensure_consumer(spec)
        for connection in self._connections:
            connection.resume()

    def stream(self, name: str) -> Stream:
        """Return a stream.

        Raises:
            NoSuchStream: there is none of that name.

        """
        stream = self._streams.get(name)
        if stream is None:
            raise NoSuchStream(f"there is no stream {name!r}")
        return stream

    def store(self, publication: Publication) -> Stored:
        """Store a message in the stream that takes its subject (see :meth:`Broker.publish`)."""
        if not is_valid(publication.subject):
            raise ValueError(f"{publication.subject!r} is not a subject")
        check_size(publication.subject, publication.payload, self._max_payload)
        stream = next((each for each in self._streams.values() if each.takes(publication.subject)), None)
        if stream is None:
            raise NoStreamTakesIt(f"no stream takes {publication.subject!r}")
        if self._max_stored_bytes is not None:
            stored = sum(each.state().size_bytes for each in self._streams.values())
            if stored + len(publication.payload) > self._max_stored_bytes:
                raise StorageFull(f"the server holds {stored:,} bytes and may hold no more")
        return stream.publish(publication)

    def intercept(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        """Ask the interceptor."""
        return None if self.interceptor is None else self.interceptor(stage, verb, subject)
