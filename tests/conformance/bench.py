"""What the tests of the contract run against: a server of either kind, and short names for what they need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

from ironflow.broker.local import LocalServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import (
    Broker,
    ConsumerSpec,
    Delivery,
    Publication,
    Puller,
    Schedule,
    StoredMessage,
    StreamSpec,
)

DELIVERY_SECONDS = 5.0
"""How long a delivery that must come may take."""
PATIENCE_SECONDS = 15.0
QUIET_SECONDS = 0.15
"""How long is watched for what must not happen."""


class Server(Protocol):
    """A broker's server, under the control of a test."""

    async def connect(self, *, patience_seconds: float = PATIENCE_SECONDS) -> Broker:
        """Open a connection that the test does not have to close."""
        ...

    async def stop(self) -> None:
        """Crash."""
        ...

    async def start(self) -> None:
        """Come back with what was stored."""
        ...

    async def restart(self, *, orderly: bool = False) -> None:
        """Crash (or, *orderly*, end after everything is written) and come back."""
        ...

    async def close(self) -> None:
        """Close all connections, and leave the server running."""
        ...


class LocalBench:
    """The in-process server."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self._connections: list[Broker] = []

    async def connect(self, *, patience_seconds: float = PATIENCE_SECONDS) -> Broker:
        self._connections.append(self.server.connect(patience_seconds=patience_seconds))
        return self._connections[-1]

    async def stop(self) -> None:
        self.server.stop()

    async def start(self) -> None:
        self.server.start()

    async def restart(self, *, orderly: bool = False) -> None:
        self.server.restart(keep_delivery_counts=orderly)

    async def close(self) -> None:
        self.server.start()
        for connection in self._connections:
            await connection.close()


class RealServer(Protocol):
    """A nats-server, as a process or in a container."""

    @property
    def url(self) -> str:
        """What clients connect to."""
        ...

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        ...

    def kill(self) -> None:
        """End it as a crash would."""
        ...

    def restart(self) -> None:
        """Start it again, after :meth:`kill` or out of its running."""
        ...


class NatsBench:
    """A real nats-server. Crashing is SIGKILL."""

    def __init__(self, server: RealServer) -> None:
        self.server = server
        self._connections: list[Broker] = []

    async def connect(self, *, patience_seconds: float = PATIENCE_SECONDS) -> Broker:
        settings = ConnectionSettings(urls=(self.server.url,))
        self._connections.append(await connect(settings, patience_seconds=patience_seconds))
        return self._connections[-1]

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.restart)

    async def restart(self, *, orderly: bool = False) -> None:
        if not orderly:
            await self.stop()
        await self.start()

    async def close(self) -> None:
        if not self.server.running:
            await self.start()
        for connection in self._connections:
            await connection.close()


class StreamUnderTest:
    """A stream of one test, and how it is used there."""

    def __init__(self, broker: Broker, spec: StreamSpec) -> None:
        self.broker = broker
        self.spec = spec
        self.name = spec.name

    def subject(self, rest: str) -> str:
        """Return a subject or filter within the stream."""
        return f"{self.name}.{rest}"

    def message(
        self,
        rest: str,
        payload: bytes = b"",
        *,
        message_id: str | None = None,
        expected_revision: int | None = None,
        schedule: Schedule | None = None,
    ) -> Publication:
        """Return a message for a subject of the stream."""
        return Publication(
            subject=self.subject(rest),
            payload=payload,
            message_id=message_id,
            expected_revision=expected_revision,
            schedule=schedule,
        )

    async def put(self, rest: str, payload: bytes = b"", *, message_id: str | None = None) -> int:
        """Store a message and return its sequence."""
        return (await self.broker.publish(self.message(rest, payload, message_id=message_id))).sequence

    async def put_many(self, rests: list[str]) -> list[int]:
        """Store a message on each subject and return the sequences."""
        answers = await self.broker.publish_all([self.message(rest, rest.encode()) for rest in rests])
        return [sequence_of(answer) for answer in answers]

    async def contents(self, rest: str = ">", after: int = 0) -> list[StoredMessage]:
        """Return the messages of a filter within the stream."""
        return [message async for page in self.broker.read(self.name, self.subject(rest), after) for message in page]

    async def last(self, rest: str) -> bytes | None:
        """Return the payload of a subject's last message."""
        message = await self.broker.last(self.name, self.subject(rest))
        return None if message is None else message.payload

    async def consumer(
        self,
        name: str = "worker",
        *rests: str,
        ack_wait_seconds: float = 30.0,
        max_ack_pending: int = 10_000,
    ) -> str:
        """Make a consumer of these filters, default all, and return its name."""
        await self.broker.ensure_consumer(
            ConsumerSpec(
                stream=self.name,
                name=name,
                filters=tuple(self.subject(rest) for rest in rests or (">",)),
                ack_wait_seconds=ack_wait_seconds,
                max_ack_pending=max_ack_pending,
            )
        )
        return name


class Arena:
    """A connected broker and names that no other test uses."""

    def __init__(self, server: Server, broker: Broker, namespace: str) -> None:
        self.server = server
        self.broker = broker
        self.namespace = namespace
        self._streams = 0

    def spec(
        self,
        *,
        retention: Literal["limits", "work_queue"] = "limits",
        one_per_subject: Literal["no", "keep_first", "keep_last"] = "no",
        max_age_seconds: int = 0,
        age_stays_lifted: bool = False,
        duplicate_window_seconds: int = 120,
        schedules: bool = False,
        atomic_batches: bool = False,
    ) -> StreamSpec:
        """Return the settings of a stream that no test has yet."""
        self._streams += 1
        name = f"{self.namespace}-{self._streams}"
        return StreamSpec(
            name=name,
            subjects=(f"{name}.>",),
            retention=retention,
            one_per_subject=one_per_subject,
            max_age_seconds=max_age_seconds,
            age_stays_lifted=age_stays_lifted,
            duplicate_window_seconds=duplicate_window_seconds,
            schedules=schedules,
            atomic_batches=atomic_batches,
        )

    async def make(self, spec: StreamSpec) -> StreamUnderTest:
        """Make a stream."""
        await self.broker.ensure_stream(spec)
        return StreamUnderTest(self.broker, spec)

    async def log(self) -> StreamUnderTest:
        """Make a plain stream, as events are kept."""
        return await self.make(self.spec(atomic_batches=True))

    async def journal(self) -> StreamUnderTest:
        """Make a stream that keeps the first message of each subject, as facts are recorded."""
        return await self.make(self.spec(one_per_subject="keep_first", atomic_batches=True))

    async def bucket(self) -> StreamUnderTest:
        """Make a stream that keeps the last message of each subject, as states are kept."""
        return await self.make(self.spec(one_per_subject="keep_last", atomic_batches=True))

    async def queue(self) -> StreamUnderTest:
        """Make a work queue that holds one message for each subject, as tasks are queued."""
        return await self.make(self.spec(retention="work_queue", one_per_subject="keep_first"))

    async def timers(self) -> StreamUnderTest:
        """Make a work queue with schedules."""
        return await self.make(self.spec(retention="work_queue", schedules=True, atomic_batches=True))

    def subject(self, rest: str) -> str:
        """Return a core subject that no other test uses and no stream takes."""
        return f"{self.namespace}.core.{rest}"


def sequence_of(answer: object) -> int:
    """Return the sequence of an answer that has to be Stored."""
    sequence = getattr(answer, "sequence", None)
    assert isinstance(sequence, int), f"not stored: {answer!r}"
    return sequence


async def receive(puller: Puller, count: int, within: float = DELIVERY_SECONDS) -> list[Delivery]:
    """Return the next *count* deliveries, which have been asked for."""
    received: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(received) < count:
            received.extend(await puller.batch(count - len(received)))
    return received


async def receive_nothing(puller: Puller, seconds: float = QUIET_SECONDS) -> None:
    """Assert that no delivery comes for a while."""
    try:
        async with asyncio.timeout(seconds):
            unexpected = await puller.batch(1)
    except TimeoutError:
        return
    raise AssertionError(f"{unexpected[0].subject} came, delivery {unexpected[0].delivered}")


def subjects_of(messages: Sequence[StoredMessage | Delivery]) -> list[str]:
    """Return the subjects without the stream's own token."""
    return [message.subject.partition(".")[2] for message in messages]


def now() -> float:
    """Return the running loop's time in seconds."""
    return asyncio.get_running_loop().time()
