"""A broker that goes wrong on purpose, around the real one, within the processes of the harness."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ironflow.broker.protocol import (
    Ambiguous,
    Broker,
    BrokerError,
    ConsumerSpec,
    ConsumerState,
    Delivery,
    Follower,
    Listener,
    Publication,
    Puller,
    ServerInfo,
    Stored,
    StoredMessage,
    StreamSpec,
    StreamState,
    SubjectTaken,
    Subscription,
    Unavailable,
)
from tests.chaos.witness import LOADED_AT, Line, LineKind, Witness

LOOK_AGAIN_SECONDS = 0.1


class BrokerFaults(msgspec.Struct, frozen=True):
    """How likely each call goes wrong, from 0 to 1.

    Attributes:
        hidden: a write is stored, and its writer told that nobody knows.
        dropped: a write is not stored, and its writer told that nobody knows.
        refused: a write is not stored, and its writer told so.
        unread: a read fails.
        unacknowledged: what is sent and not awaited (acks, naks, renewals, hints) is lost.

    """

    hidden: float = 0.0
    dropped: float = 0.0
    refused: float = 0.0
    unread: float = 0.0
    unacknowledged: float = 0.0


NO_FAULTS = BrokerFaults()


def ambiguous(share: float) -> BrokerFaults:
    """Return faults in which that share of all calls has no answer, or none that arrives."""
    return BrokerFaults(hidden=share / 2, dropped=share / 2, unread=share, unacknowledged=share)


class FaultSwitch:
    """The faults that are on now, as a file says that the harness writes.

    Args:
        file: what to read, over and over.

    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._faults = NO_FAULTS
        self._look_at = 0.0

    def set(self, faults: BrokerFaults) -> None:
        """Have all processes go wrong that often from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(faults))
        fresh.replace(self._file)

    def now(self) -> BrokerFaults:
        """Return what is on."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
            with contextlib.suppress(FileNotFoundError):
                self._faults = msgspec.json.decode(self._file.read_bytes(), type=BrokerFaults)
        return self._faults


class CrashPoint:
    """Ends this process at its k-th durable write, as a crash would.

    Args:
        at: the number of the write, from 1; 0 for none.
        stage: before the write is sent, or after it was acknowledged.

    """

    def __init__(self, at: int, stage: Literal["before", "after"]) -> None:
        self._at = at
        self._stage = stage
        self._writes = 0

    def reached(self, stage: Literal["before", "after"]) -> None:
        """Count a write at its stage, and perhaps die."""
        # Others may be on their way by the time that one is acknowledged, so each stage has a count of its own.
        self._writes += stage == self._stage
        if self._writes == self._at and stage == self._stage:
            os.kill(os.getpid(), signal.SIGKILL)


class _FaultyDelivery:
    """A delivery whose answers may be lost."""

    def __init__(self, inner: Delivery, lost: Callable[[], bool]) -> None:
        self._inner = inner
        self._lost = lost
        self.subject = inner.subject
        self.payload = inner.payload
        self.sequence = inner.sequence
        self.time_ms = inner.time_ms
        self.delivered = inner.delivered
        self.lease = inner.lease

    def ack(self) -> None:
        if not self._lost():
            self._inner.ack()

    def nak(self, delay_seconds: float = 0.0) -> None:
        if not self._lost():
            self._inner.nak(delay_seconds)


class _FaultyPuller:
    """A puller whose deliveries are noted."""

    def __init__(self, inner: Puller, broker: FaultyBroker) -> None:
        self._inner = inner
        self._broker = broker

    def request(self, count: int) -> None:
        self._inner.request(count)

    def withdraw(self) -> None:
        self._inner.withdraw()

    @property
    def is_served(self) -> bool:
        return self._inner.is_served

    async def batch(self, limit: int) -> Sequence[Delivery]:
        deliveries = await self._inner.batch(limit)
        for delivery in deliveries:
            self._broker.note_delivery(delivery)
        return [_FaultyDelivery(delivery, self._broker.lost) for delivery in deliveries]


class _FaultyFollower:
    """A follower whose readings may fail."""

    def __init__(self, inner: Follower, may_fail: Callable[[], None]) -> None:
        self._inner = inner
        self._may_fail = may_fail

    async def read(self, after: int, up_to: int) -> AsyncIterator[list[StoredMessage]]:
        self._may_fail()
        async for page in self._inner.read(after, up_to):
            yield page


class FaultyBroker:
    """Implements :class:`ironflow.broker.protocol.Broker`.

    Args:
        inner: does the work.
        switch: says how often it goes wrong.
        crash: may end this process.
        witness: is told of deliveries, of refusals, and of answers that were kept back.
        chance: makes the choices.

    """

    def __init__(
        self, inner: Broker, switch: FaultSwitch, crash: CrashPoint, witness: Witness, chance: random.Random
    ) -> None:
        self._inner = inner
        self._switch = switch
        self._crash = crash
        self._witness = witness
        self._chance = chance
        self._hidden: set[str] = set()

    @property
    def server(self) -> ServerInfo:
        return self._inner.server

    @property
    def connections(self) -> int:
        return self._inner.connections

    async def close(self) -> None:
        await self._inner.close()

    # Writing

    async def publish(self, publication: Publication) -> Stored:
        answer = (await self.publish_all((publication,)))[0]
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        failures = [self._failure_before() for _ in publications]
        sent = [each for each, failure in zip(publications, failures, strict=True) if failure is None]
        for _ in sent:
            self._crash.reached("before")
        # One by itself is what the product would send by itself, and not in a batch.
        stored = iter([await self._publish_one(sent[0])] if len(sent) == 1 else await self._inner.publish_all(sent))
        for _ in sent:
            self._crash.reached("after")
        return [
            self._answer(publication, next(stored)) if failure is None else failure
            for publication, failure in zip(publications, failures, strict=True)
        ]

    async def _publish_one(self, publication: Publication) -> Stored | BrokerError:
        try:
            return await self._inner.publish(publication)
        except BrokerError as error:
            return error

    def _failure_before(self) -> BrokerError | None:
        faults = self._switch.now()
        roll = self._chance.random()
        if roll < faults.dropped:
            return Ambiguous("no answer came, as the harness wants it")
        if roll < faults.dropped + faults.refused:
            return Unavailable("not sent, as the harness wants it")
        return None

    def _answer(self, publication: Publication, answer: Stored | BrokerError) -> Stored | BrokerError:
        if isinstance(answer, SubjectTaken):
            self._note("refused", publication.subject, own=publication.subject in self._hidden)
        elif isinstance(answer, Stored) and self._chance.random() < self._switch.now().hidden:
            self._hidden.add(publication.subject)
            self._note("hidden", publication.subject)
            return Ambiguous("it is stored, and the harness keeps the answer back")
        return answer

    async def purge(self, stream: str, subject_filter: str, up_to: int = 0) -> int:
        self._may_fail()
        return await self._inner.purge(stream, subject_filter, up_to)

    async def delete(self, stream: str, sequence: int) -> bool:
        self._may_fail()
        return await self._inner.delete(stream, sequence)

    # Reading

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        self._may_fail()
        return await self._inner.last(stream, subject)

    async def at(self, stream: str, sequence: int) -> StoredMessage | None:
        self._may_fail()
        return await self._inner.at(stream, sequence)

    async def read(
        self, stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False
    ) -> AsyncIterator[list[StoredMessage]]:
        if "_JOURNAL" in stream:
            LOADED_AT.set(self._witness.now_ms())
        self._may_fail()
        async for page in self._inner.read(stream, subject_filter, after, one_each=one_each):
            yield page

    def follow(self, stream: str) -> Follower:
        return _FaultyFollower(self._inner.follow(stream), self._may_fail)

    async def stream_state(self, stream: str) -> StreamState:
        self._may_fail()
        return await self._inner.stream_state(stream)

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        self._may_fail()
        return await self._inner.consumer_state(stream, consumer)

    async def server_time_ms(self, stream: str, consumer: str = "") -> int:
        self._may_fail()
        return await self._inner.server_time_ms(stream, consumer)

    # Consuming

    def pull(self, stream: str, consumer: str) -> AbstractAsyncContextManager[Puller]:
        return self._pull(stream, consumer)

    @contextlib.asynccontextmanager
    async def _pull(self, stream: str, consumer: str) -> AsyncGenerator[Puller]:
        async with self._inner.pull(stream, consumer) as puller:
            yield _FaultyPuller(puller, self)

    def hand_back(self, lease: str, stream: str, consumer: str) -> None:
        if not self.lost():
            self._inner.hand_back(lease, stream, consumer)

    def renew(self, lease: str) -> bool:
        return self.lost() or self._inner.renew(lease)

    # Provisioning and core messages

    async def ensure_stream(self, spec: StreamSpec) -> None:
        await self._inner.ensure_stream(spec)

    async def ensure_consumer(self, spec: ConsumerSpec) -> None:
        await self._inner.ensure_consumer(spec)

    def notify(self, subject: str, payload: bytes, *, at_once: bool = False) -> None:
        if not self.lost():
            self._inner.notify(subject, payload, at_once=at_once)

    async def listen(self, subject: str, listener: Listener, group: str = "", *, confirm: bool = True) -> Subscription:
        return await self._inner.listen(subject, listener, group, confirm=confirm)

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        return await self._inner.request(subject, payload, timeout_seconds)

    async def survey(self, subject: str, payload: bytes, window_seconds: float) -> list[bytes]:
        return await self._inner.survey(subject, payload, window_seconds)

    # What went wrong, and what was seen

    def lost(self) -> bool:
        """Tell whether something that nobody waits for gets lost."""
        return self._chance.random() < self._switch.now().unacknowledged

    def note_delivery(self, delivery: Delivery) -> None:
        """Note that a task was handed to this process."""
        if delivery.subject.split(".")[1].startswith("tasks"):
            self._witness.write(
                Line(
                    "delivered",
                    self._witness.now_ms(),
                    os.getpid(),
                    delivery.subject.split(".")[3],
                    delivery.subject,
                    sequence=delivery.sequence,
                    stored_ms=delivery.time_ms,
                )
            )

    def _may_fail(self) -> None:
        if self._chance.random() < self._switch.now().unread:
            raise Unavailable("no answer came, as the harness wants it")

    def _note(self, kind: LineKind, subject: str, *, own: bool = False) -> None:
        self._witness.write(Line(kind, self._witness.now_ms(), os.getpid(), "", subject, own=own))


if TYPE_CHECKING:
    # The type checkers hold the class to the contract here.
    _: type[Broker] = FaultyBroker
