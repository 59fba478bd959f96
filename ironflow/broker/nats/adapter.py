"""The broker contract over one NATS connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ironflow.broker.nats.api import Api
from ironflow.broker.nats.delivery import NAK, PROGRESS, names_delivery
from ironflow.broker.nats.follower import Follower
from ironflow.broker.nats.listening import Listening
from ironflow.broker.nats.pacer import Pacer
from ironflow.broker.nats.provisioner import Provisioner
from ironflow.broker.nats.publisher import Publisher
from ironflow.broker.nats.puller import NatsPuller
from ironflow.broker.nats.reader import Reader
from ironflow.broker.nats.requester import Requester
from ironflow.broker.nats.settings import API_PREFIX
from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import (
    Ambiguous,
    Broker,
    BrokerError,
    ConsumerSpec,
    ConsumerState,
    Denied,
    Listener,
    Publication,
    Puller,
    ServerInfo,
    Stored,
    StoredMessage,
    StreamSpec,
    StreamState,
    Subscription,
    Unavailable,
)
from ironflow.logs import get_logger

ANSWER_SECONDS = 5.0
"""What was sent to a leader that died is not answered, so this is how long its writers stand still."""
PATIENCE_SECONDS = 15.0
"""Longer than a cluster takes to elect the leader of a stream."""
CLOSE_SECONDS = 2.0
LISTEN_SECONDS = 5.0
MOST_REFUSALS_LOGGED = 100

log = get_logger(__name__)


class NatsBroker:
    """Implements :class:`ironflow.broker.protocol.Broker`; made by :func:`ironflow.broker.nats.connect`.

    Args:
        wire: an open connection.
        answer_seconds: how long to wait for one answer of the server.
        patience_seconds: how long to keep trying where the server cannot answer for now.
        api_prefix: what stands in place of "$JS.API" where JetStream is in another account.

    """

    def __init__(
        self,
        wire: Wire,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        api_prefix: str = API_PREFIX,
    ) -> None:
        self._wire = wire
        self._inbox = wire.new_inbox()
        self._pullers = 0
        self._followers = 0
        self._listenings: WeakSet[Listening] = WeakSet()
        self._refused: set[tuple[str, str]] = set()
        self._deaf = False
        self._closing = False
        self._connections = 1
        self._introduced: dict[str, Any] | None = None
        """What ``_server`` was read from; each connection brings another."""
        self._server = ServerInfo("", "", 0)
        self._patience_seconds = patience_seconds
        self._requester = Requester(wire, f"{self._inbox}.r")
        self._pacer = Pacer()
        self.api = Api(
            self._requester,
            self._pacer,
            answer_seconds=answer_seconds,
            patience_seconds=patience_seconds,
            prefix=api_prefix,
        )
        self._publisher = Publisher(
            self._requester,
            self._pacer,
            lambda: wire.max_payload,
            answer_seconds=answer_seconds,
            patience_seconds=patience_seconds,
        )
        self._reader = Reader(
            self._requester,
            self.api,
            # What is reached through another account's prefix may be a cluster that this server says nothing of.
            lambda: "cluster" in wire.server_info or api_prefix != API_PREFIX,
            answer_seconds=answer_seconds,
            patience_seconds=patience_seconds,
        )
        self._provisioner = Provisioner(self.api)
        wire.on_denied.append(self._denied)
        wire.on_up.append(self._count_connection)

    @property
    def server(self) -> ServerInfo:
        """The server that this connection has now, or had last."""
        info = self._wire.server_info
        if info is not self._introduced:
            self._introduced = info
            self._server = ServerInfo(
                id=info.get("server_id", ""),
                version=info.get("version", ""),
                max_payload=self._wire.max_payload,
                name=info.get("server_name", ""),
            )
        return self._server

    @property
    def connections(self) -> int:
        """How often it has connected."""
        return self._connections

    async def hears_answers(self) -> bool:
        """Tell whether the account's permissions allow to listen where answers come."""
        await self._wire.barrier(LISTEN_SECONDS)
        return not self._deaf

    async def close(self) -> None:
        """Send what is buffered, then disconnect. Harmless the second time."""
        if self._closing:
            return
        self._closing = True
        is_flushed = False
        try:
            for listening in list(self._listenings):
                await listening.stop()
            # Unread answers in the socket would make the close a reset, and the server drop what it has not read.
            is_flushed = await self._wire.barrier(CLOSE_SECONDS)
        finally:
            self._requester.close()
            self._pacer.close()
            await self._wire.shut(is_flushed=is_flushed)

    # Writing

    def publish(self, publication: Publication) -> Coroutine[Any, Any, Stored]:
        """Store a message."""
        return self._publisher.publish(publication)

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        """Store messages; one answer each, in order."""
        return await self._publisher.publish_all(publications)

    async def purge(self, stream: str, subject_filter: str, up_to: int = 0) -> int:
        """Delete the messages of a filter, of sequences up to *up_to* where given; return how many there were."""
        return await self._provisioner.purge(stream, subject_filter, up_to)

    async def delete(self, stream: str, sequence: int) -> bool:
        """Delete one message; return whether it was there."""
        return await self._provisioner.delete(stream, sequence)

    # Reading

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject, as the stream's leader has it."""
        return await self._reader.last(stream, subject)

    async def at(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message with that sequence, or None where it is gone."""
        return await self._reader.at(stream, sequence)

    def read(
        self, stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False
    ) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages of a filter with a sequence over *after*, in order, in pages."""
        return self._reader.read(stream, subject_filter, after, one_each=one_each)

    def follow(self, stream: str) -> Follower:
        """Return what reads a whole stream again and again."""
        self._followers += 1
        return Follower(
            self._wire,
            self._requester,
            self.api,
            self._reader,
            stream=stream,
            inbox=f"{self._inbox}.f{self._followers}",
            patience_seconds=self._patience_seconds,
        )

    async def stream_state(self, stream: str) -> StreamState:
        """Return how full a stream is, as its leader has it."""
        return await self._reader.stream_state(stream)

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Return how far a consumer is."""
        return await self._reader.consumer_state(stream, consumer)

    async def server_time_ms(self, stream: str, consumer: str = "") -> int:
        """Return what the server's clock says now."""
        return await self._reader.server_time_ms(stream, consumer)

    # Consuming

    def pull(self, stream: str, consumer: str) -> AbstractAsyncContextManager[Puller]:
        """Open a consumer's deliveries."""
        self._pullers += 1
        subject = self.api.subject(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")
        inbox = f"{self._inbox}.p{self._pullers}"
        return NatsPuller(self._wire, self._pacer, inbox, stream=stream, consumer=consumer, subject=subject)

    def renew(self, lease: str) -> bool:
        """Extend a delivery's lease by the consumer's ack wait; return whether there is a connection to send it on."""
        self._wire.send(lease, PROGRESS)
        return self._wire.up

    def hand_back(self, lease: str, stream: str, consumer: str) -> None:
        """Have a delivery of a consumer delivered again at once, whoever has it."""
        if names_delivery(lease, stream, consumer):
            self._wire.send(lease, NAK)

    # Provisioning

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to *spec*."""
        await self._provisioner.ensure_stream(spec)

    async def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer, or bring an existing one to *spec*."""
        await self._provisioner.ensure_consumer(spec)

    # Core messages

    def notify(self, subject: str, payload: bytes, *, at_once: bool = False) -> None:
        """Send a hint to whoever listens."""
        self._wire.send(subject, payload, at_once=at_once)

    async def listen(self, subject: str, listener: Listener, group: str = "", *, confirm: bool = True) -> Subscription:
        """Call *listener* for each message of a subject, one after another.

        Raises:
            Denied: the account's permissions do not allow it.
            Unavailable: there is no connection.

        """
        await self._requester.connected(self._patience_seconds)

        listening = Listening(self._wire, subject, listener, group)
        self._listenings.add(listening)
        stands = not confirm
        try:
            stands = stands or await listening.confirm(LISTEN_SECONDS)
        finally:
            # Whoever is cancelled here has nothing to stop it by.
            if not stands:
                await listening.stop()
        if stands:
            return listening
        message = f"the account's permissions do not allow to listen on {subject}"
        raise Denied(message)

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        """Ask, and return the first answer."""
        try:
            return (await self._requester.ask(subject, payload, timeout_seconds)).payload
        except Ambiguous as error:
            raise Unavailable(str(error)) from error

    async def survey(self, subject: str, payload: bytes, window_seconds: float) -> list[bytes]:
        """Ask, and return all answers that come within the window."""
        return [reply.payload for reply in await self._requester.survey(subject, payload, window_seconds)]

    def _count_connection(self) -> None:
        self._connections += 1

    def _denied(self, operation: str, subject: str) -> None:
        if operation == "publish" and self._requester.denied(subject):
            return
        self._deaf = self._deaf or (operation == "subscription" and subject.startswith(self._inbox.lower()))
        # Nobody awaits an acknowledgement or a hint, so the log is where it shows; once, since it goes on.
        if (operation, subject) not in self._refused and len(self._refused) < MOST_REFUSALS_LOGGED:
            self._refused.add((operation, subject))
            log.error("NATS permissions do not allow it", operation=operation, subject=subject)


if TYPE_CHECKING:
    # The type checkers hold the class to the contract here.
    _: type[Broker] = NatsBroker
