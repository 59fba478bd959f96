"""What Ironflow asks of a message broker.

The NATS adapter and the in-process twin both keep this contract, and one conformance suite
(tests/conformance) holds them to it.

All messages live in streams; a key-value bucket is a stream too, with one message a subject. Nothing here
retries for the caller what may have been stored: see :class:`Ambiguous`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import msgspec

# Failures. They are the broker's; the layers above turn them into ironflow.errors where users see them.


class BrokerError(Exception):
    """Base of what a broker call can fail with."""


class SubjectTaken(BrokerError):  # noqa: N818 - an answer that decides, rather than a failure
    """The subject holds its one message already: someone wrote first."""


class WrongRevision(BrokerError):  # noqa: N818 - an answer that decides, rather than a failure
    """The subject's last message is not the expected one: someone wrote in between."""


class Ambiguous(BrokerError):  # noqa: N818 - neither a failure nor a success
    """No answer came, or none that decides. The message may be stored: read back, or write again idempotently."""


class StorageFull(BrokerError):  # noqa: N818 - reads as the state of the server that it is
    """The server has no room; nothing was stored. Back off."""


class MessageTooLarge(BrokerError):  # noqa: N818 - reads as the refusal that it is
    """The server's max_payload is smaller than the message; nothing was sent or stored."""


class Unavailable(BrokerError):  # noqa: N818 - reads as the state of the server that it is
    """Nobody answers: not connected, no leader, no responder. Nothing was stored."""


class NobodyListens(Unavailable):
    """The server knows of nobody who could answer."""


class Denied(BrokerError):  # noqa: N818 - reads as the refusal that it is
    """The account's permissions do not allow it."""


class NoSuchStream(BrokerError):  # noqa: N818 - reads as the answer that it is
    """The stream or consumer does not exist."""


class WrongShards(BrokerError):  # noqa: N818 - an answer that decides, rather than a failure
    """The namespace has another number of shards than this process was told; nothing was changed.

    Args:
        told: the number that the process was told.
        standing: the number that the namespace has.
        by: what says so.

    Attributes:
        standing: as above.

    """

    def __init__(self, told: int, standing: int, by: str) -> None:
        super().__init__(
            f"this process was told --shards {told}, and {by} says that the namespace has {standing}. That number "
            f"stays what it was when the namespace was first used: start all engines and workers with --shards "
            f"{standing} (IRONFLOW_SHARDS={standing}), or use another namespace"
        )
        self.standing = standing


# What is stored where


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it shall be. Two streams with equal specs behave alike on every broker."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "work_queue"] = "limits"
    one_per_subject: Literal["no", "keep_first", "keep_last"] = "no"
    """keep_first refuses a second message on a subject (SubjectTaken); keep_last replaces the first."""
    max_age_seconds: int = 0
    age_stays_lifted: bool = False
    """One that exists and forgets nothing by age goes on like that: to forget must be somebody's decision."""
    duplicate_window_seconds: int = 120
    schedules: bool = False
    atomic_batches: bool = False
    deny_delete: bool = False
    bucket: bool = False
    """Made so that key-value clients can read it."""
    replicas: int = 1
    shards: int = 1
    """How many shards its namespace has. Whoever makes it decides that, and nobody changes it."""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer with explicit acks and unlimited deliveries."""

    stream: str
    name: str
    filters: tuple[str, ...]
    ack_wait_seconds: float
    max_ack_pending: int
    shards: int = 1
    """How many shards its namespace has, for those who may not look at streams."""


# What is written and read


class Schedule(msgspec.Struct, frozen=True):
    """Makes a message a timer: it is delivered to *target* of the same stream at *at_ms*, never earlier."""

    at_ms: int
    target: str


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A message to store.

    Attributes:
        message_id: the same id within the stream's duplicate window is stored once.
        expected_revision: the sequence of the last message on this subject; 0 where there must be none.
        schedule: makes it a timer; a later one on the same subject replaces it.

    """

    subject: str
    payload: bytes
    message_id: str | None = None
    expected_revision: int | None = None
    schedule: Schedule | None = None


class Stored(msgspec.Struct, frozen=True):
    """The server's word that a message is stored. *duplicate*: an earlier one with its id is, at that sequence."""

    sequence: int
    duplicate: bool = False


class StoredMessage(msgspec.Struct, frozen=True):
    """A message read from a stream."""

    subject: str
    payload: bytes
    sequence: int
    time_ms: int
    """When the server stored it, by the server's clock, rounded down."""


class StreamState(msgspec.Struct, frozen=True):
    """How full a stream is.

    Attributes:
        created: when it was made, in the server's words: another one where it was deleted and made anew, with
            sequences that begin at 1 again.
        consumers: how many consumers it has.

    """

    messages: int
    first_sequence: int
    last_sequence: int
    size_bytes: int
    created: str
    consumers: int = 0


class ConsumerState(msgspec.Struct, frozen=True):
    """How far a consumer is. All up to *ack_floor* is acknowledged."""

    pending: int
    ack_pending: int
    redelivered: int
    ack_floor: int
    waiting_pulls: int
    shards: int = 1
    """How many shards its namespace has, by who made it."""


class ServerInfo(msgspec.Struct, frozen=True):
    """The server that a broker is connected to now. *id* changes whenever a server process starts."""

    id: str
    version: str
    max_payload: int
    name: str = ""


class Delivery(Protocol):
    """A message handed to a consumer, until it is acknowledged or its lease ends.

    The three answers are sent and not awaited: an acknowledgement can be lost, which costs a redelivery.
    """

    subject: str
    payload: bytes
    sequence: int
    time_ms: int
    delivered: int
    """How often it was handed out so far, this time included; a server crash may forget the count."""
    lease: str
    """Names this delivery for :meth:`Broker.renew`, on any connection."""

    def ack(self) -> None:
        """Tell the broker that it is done with."""
        ...

    def nak(self, delay_seconds: float = 0.0) -> None:
        """Hand it back: to be delivered again, *delay_seconds* from now.

        A crash of the server may cut the delay short by up to a second, or make it the consumer's ack wait.
        """
        ...


class Puller(Protocol):
    """Deliveries of one consumer, as many as were asked for and not more."""

    def request(self, count: int) -> None:
        """Ask for *count* more deliveries. It never blocks; what is asked for outlives reconnects."""
        ...

    def withdraw(self) -> None:
        """Ask for nothing more. Deliveries that were on their way may still come."""
        ...

    @property
    def is_served(self) -> bool:
        """Whether the server knows that deliveries are wanted, or none are."""
        ...

    async def batch(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; return up to *limit* that have come."""
        ...


class Follower(Protocol):
    """Reads a whole stream again and again; from where its last reading ended, it costs what is new."""

    def read(self, after: int, up_to: int) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages with a sequence over *after*, in order, in pages. One reading at a time.

        Args:
            after: the sequence to begin behind.
            up_to: the last sequence of the stream, as its leader has told; what has come since may come too.

        """
        ...


class Subscription(Protocol):
    """A running :meth:`Broker.listen`."""

    async def stop(self) -> None:
        """Receive nothing more. Harmless the second time."""
        ...


class Request(Protocol):
    """A core NATS message that may want an answer."""

    subject: str
    payload: bytes

    def respond(self, payload: bytes) -> None:
        """Answer it; no effect where no answer is wanted.

        Raises:
            MessageTooLarge: it is not sent; something smaller still can be.

        """
        ...


Listener = Callable[[Request], Awaitable[None]] | Callable[[Request], None]
"""Hears a message, and is given the next one once it has. A plain function must be quick, and costs no task."""


class Broker(Protocol):
    """A connection to a broker."""

    @property
    def server(self) -> ServerInfo:
        """The server that this connection has now."""
        ...

    @property
    def connections(self) -> int:
        """How often it has connected, the first time included."""
        ...

    async def close(self) -> None:
        """Send what is buffered, then disconnect. Harmless the second time."""
        ...

    # Writing

    def publish(self, publication: Publication) -> Coroutine[Any, Any, Stored]:
        """Store a message.

        Raises:
            SubjectTaken: the stream keeps the first message of a subject, and there is one.
            WrongRevision: *expected_revision* does not hold.
            Ambiguous: it may be stored.
            StorageFull, MessageTooLarge, Unavailable, Denied: it is not stored.

        """
        ...

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        """Store messages, together where that is faster; one answer each, in order. Not atomic."""
        ...

    async def purge(self, stream: str, subject_filter: str, up_to: int = 0) -> int:
        """Delete the messages of a filter, of sequences up to *up_to* where given; return how many there were.

        None of them may be in hand, see :meth:`delete`.
        """
        ...

    async def delete(self, stream: str, sequence: int) -> bool:
        """Delete one message; return whether it was there.

        Unlike :meth:`purge` it may be one that a consumer has handed out. A filtered purge of such a message has
        nats-server (2.15) take others that are in hand for acknowledged, and then never deliver them again.
        """
        ...

    # Reading

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject, as the stream's leader has it."""
        ...

    async def at(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message with that sequence, or None where it is gone."""
        ...

    def read(
        self, stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False
    ) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages of a filter with a sequence over *after*, in order, in pages.

        Args:
            stream: the stream's name.
            subject_filter: may have wildcards.
            after: the sequence to begin behind.
            one_each: the caller knows that no subject of the filter holds more than one message, as it is in the
                journal and in buckets. Then up to a thousand cost what they are, and not what stands between them.

        """
        ...

    def follow(self, stream: str) -> Follower:
        """Return what reads a whole stream again and again. It needs no closing."""
        ...

    async def stream_state(self, stream: str) -> StreamState:
        """Return how full a stream is, as its leader has it.

        Raises:
            NoSuchStream: there is none.

        """
        ...

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Return how far a consumer is.

        Raises:
            NoSuchStream: there is none.

        """
        ...

    async def server_time_ms(self, stream: str, consumer: str = "") -> int:
        """Return what the server's clock says now, rounded down.

        The server tells it beside the state of a stream, or of a consumer of that stream, where permissions allow
        no more.

        Raises:
            NoSuchStream: there is none.

        """
        ...

    # Consuming

    def pull(self, stream: str, consumer: str) -> AbstractAsyncContextManager[Puller]:
        """Open a consumer's deliveries; leaving the context gives back what was not handed out."""
        ...

    def renew(self, lease: str) -> bool:
        """Extend a delivery's lease by the consumer's ack wait. Sent, not awaited.

        Returns whether there was a connection to send it on; it may be lost all the same.
        """
        ...

    def hand_back(self, lease: str, stream: str, consumer: str) -> None:
        """Have a delivery of a consumer delivered again at once, whoever has it. Sent, not awaited.

        Nothing is sent where *lease* names no delivery of that consumer: it may have come from somebody else.
        """
        ...

    # Provisioning

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to *spec*. Messages stay.

        Raises:
            WrongShards: it exists, in a namespace with another number of shards.

        """
        ...

    async def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer, or bring an existing one to *spec*. Its position stays."""
        ...

    # Core messages: at most once, nothing is stored

    def notify(self, subject: str, payload: bytes, *, at_once: bool = False) -> None:
        """Send a hint to whoever listens. Sent, not awaited; lost where nobody does.

        Args:
            subject: the subject.
            payload: the message.
            at_once: spare it the wait for what else is sent in this turn of the event loop.

        Raises:
            MessageTooLarge: it is not sent.

        """
        ...

    async def listen(self, subject: str, listener: Listener, group: str = "", *, confirm: bool = True) -> Subscription:
        """Call *listener* for each message of a subject; in a *group*, one of its members gets each.

        What is published to be stored is heard too, before it is stored, and also where the stream refuses it.

        Args:
            subject: may have wildcards.
            listener: what to call.
            group: shares the messages.
            confirm: whether to return only once the server has taken it. Without, what this connection sends from now
                on still comes after it, and a refusal shows in the log only.

        Raises:
            Denied: the account's permissions do not allow it.

        """
        ...

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        """Ask, and return the first answer.

        Raises:
            NobodyListens: the server knows of nobody who could answer.
            Unavailable: no answer came in time.
            MessageTooLarge: it is not sent.

        """
        ...

    async def survey(self, subject: str, payload: bytes, window_seconds: float) -> list[bytes]:
        """Ask, and return all answers that come within the window.

        Raises:
            MessageTooLarge: it is not sent.

        """
        ...
