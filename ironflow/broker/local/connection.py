"""A connection to the in-process server: the broker contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from ironflow.broker.local.consumer import Consumer
from ironflow.broker.local.core import Answer, LocalSubscription, NoStreamTakesIt, check_size
from ironflow.broker.local.follower import LocalFollower
from ironflow.broker.local.puller import LocalPuller
from ironflow.broker.local.server import ServerProcess
from ironflow.broker.protocol import (
    Ambiguous,
    BrokerError,
    ConsumerSpec,
    ConsumerState,
    Listener,
    NobodyListens,
    NoSuchStream,
    Publication,
    ServerInfo,
    Stored,
    StoredMessage,
    StreamSpec,
    StreamState,
    Unavailable,
)

T = TypeVar("T")

PAGE = 500
"""Messages in a page of :meth:`LocalBroker.read`."""

RETRY_SECONDS = 0.1
"""Between two attempts to use a stream that does not exist."""


class LocalBroker:
    """A client of an in-process server; keeps :class:`ironflow.broker.protocol.Broker`.

    Each call takes a turn of the event loop to get to the server and one back, so that the calls of several
    tasks interleave. A server that restarts before it has answered a publish makes that Ambiguous; what else it
    did not answer is asked again.

    Args:
        server: what it is connected to.
        patience_seconds: seconds that a call waits for a server that is down before it is Unavailable.

    """

    def __init__(self, server: ServerProcess, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._server = server
        self._closed = False
        self._connected = 1
        self._pullers: dict[LocalPuller, None] = {}
        self._subscriptions: dict[LocalSubscription, None] = {}

    @property
    def server(self) -> ServerInfo:
        """The server that this connection has now, or had last."""
        return self._server.info

    @property
    def connections(self) -> int:
        """How often it has connected: anew to each process of the server."""
        return self._connected

    async def close(self) -> None:
        """Send what is buffered, then disconnect. Harmless the second time."""
        await asyncio.sleep(0)
        self.drop()

    def drop(self) -> None:
        """Disconnect at once, as when the client's process dies: what it has not sent is lost."""
        if self._closed:
            return
        for puller in list(self._pullers):
            puller.close(give_back=False)
        for subscription in list(self._subscriptions):
            subscription.end()
        self._closed = True
        self._server.disconnected(self)

    def reconnected(self) -> None:
        """Be connected to a server that is up again: pull again. Subscriptions stand as they were."""
        self._connected += 1
        self.resume()

    def resume(self) -> None:
        """Pull again: there may be a new consumer."""
        for puller in self._pullers:
            self.enlist(puller)

    # Writing

    async def publish(self, publication: Publication) -> Stored:
        """Store a message (see :meth:`ironflow.broker.protocol.Broker.publish`)."""
        answer = (await self.publish_all((publication,)))[0]
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        """Store messages; one answer each, in order. Not atomic."""
        deadline = self._server.clock.loop.time() + self._patience_seconds
        answers = await self._store_all(publications)
        # A stream may be about to be made. So these are tried again, and only these.
        while nowhere := [index for index, answer in enumerate(answers) if isinstance(answer, NoStreamTakesIt)]:
            if self._server.clock.loop.time() >= deadline:
                break
            await asyncio.sleep(RETRY_SECONDS)
            again = await self._store_all([publications[index] for index in nowhere])
            for index, answer in zip(nowhere, again, strict=True):
                answers[index] = answer
        return answers

    async def _store_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        try:
            process = await self._arrive()
        except Unavailable as error:
            return [error] * len(publications)
        answers = [self._store(publication) for publication in publications]
        await asyncio.sleep(0)
        if self._is_cut_off(process):
            return [Ambiguous(f"{publication.subject}: no answer came") for publication in publications]
        return answers

    async def purge(self, stream: str, subject_filter: str, up_to: int = 0) -> int:
        """Delete the messages of a filter, of sequences up to *up_to* where given; return how many there were."""
        return await self._call("purge", stream, lambda: self._server.stream(stream).purge(subject_filter, up_to))

    async def delete(self, stream: str, sequence: int) -> bool:
        """Delete one message; return whether it was there."""
        return await self._call("delete", stream, lambda: self._server.stream(stream).delete(sequence))

    def _store(self, publication: Publication) -> Stored | BrokerError:
        server = self._server
        try:
            if error := server.intercept("before", "publish", publication.subject):
                return error
            server.exchange.send(publication.subject, publication.payload)
            stored = server.store(publication)
        except BrokerError as error:
            return error
        return server.intercept("after", "publish", publication.subject) or stored

    # Reading

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject."""
        return await self._call("last", stream, lambda: self._server.stream(stream).last(subject))

    async def at(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message with that sequence, or None where it is gone."""
        return await self._call("at", stream, lambda: self._server.stream(stream).at(sequence))

    async def read(
        self,
        stream: str,
        subject_filter: str,
        after: int = 0,
        *,
        one_each: bool = False,  # noqa: ARG002 - nothing here costs what stands between
    ) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages of a filter with a sequence over *after*, in order, in pages."""
        sequences = await self._call("read", stream, lambda: self._server.stream(stream).select(subject_filter, after))
        for start in range(0, len(sequences), PAGE):
            wanted = sequences[start : start + PAGE]
            page = await self._call("read", stream, partial(self._page, stream, wanted))
            if page:
                yield page

    def _page(self, stream: str, sequences: Sequence[int]) -> list[StoredMessage]:
        at = self._server.stream(stream).at
        return [message for sequence in sequences if (message := at(sequence)) is not None]

    def follow(self, stream: str) -> LocalFollower:
        """Return what reads a whole stream again and again."""
        return LocalFollower(self, stream)

    async def stream_state(self, stream: str) -> StreamState:
        """Return how full a stream is."""
        return await self._call("stream_state", stream, lambda: self._server.stream(stream).state())

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Return how far a consumer is."""
        return await self._call("consumer_state", stream, lambda: self._consumer(stream, consumer).state())

    async def server_time_ms(self, stream: str, consumer: str = "") -> int:
        """Return what the server's clock says now."""

        def now_ms() -> int:
            if consumer:
                self._consumer(stream, consumer)
            else:
                self._server.stream(stream)
            return self._server.clock.now_ms()

        return await self._call("server_time_ms", stream, now_ms)

    # Consuming

    @asynccontextmanager
    async def pull(self, stream: str, consumer: str) -> AsyncGenerator[LocalPuller]:
        """Open a consumer's deliveries; leaving the context gives back what was not handed out."""
        await asyncio.sleep(0)
        puller = LocalPuller(self, stream, consumer)
        self._pullers[puller] = None
        try:
            yield puller
        finally:
            del self._pullers[puller]
            puller.close(give_back=True)

    def ack(self, lease: str) -> None:
        """Send a delivery's acknowledgement."""
        self._send("ack", lease, lambda: self._settle(lease, Consumer.acknowledge))

    def nak(self, lease: str, delay_seconds: float) -> None:
        """Send that a delivery is handed back."""
        self._send(
            "nak",
            lease,
            lambda: self._settle(lease, lambda consumer, sequence: consumer.hand_back(sequence, delay_seconds)),
        )

    def renew(self, lease: str) -> bool:
        """Extend a delivery's lease by the consumer's ack wait; return whether there is a connection to send it on."""
        self._send("renew", lease, lambda: self._settle(lease, Consumer.renew))
        return self._is_connected()

    def hand_back(self, lease: str, stream: str, consumer: str) -> None:
        """Have a delivery of a consumer delivered again at once, whoever has it. Sent, not awaited."""
        if lease.rpartition("/")[0] == f"{stream}/{consumer}":
            self.nak(lease, 0.0)

    def enlist(self, puller: LocalPuller) -> None:
        """Send that a puller has credits."""
        self._server.clock.loop.call_soon(self._enlist, puller)

    def dismiss(self, puller: LocalPuller) -> None:
        """Take back what a puller asked for."""
        with suppress(NoSuchStream):
            self._consumer(puller.stream, puller.consumer).dismiss(puller)

    def _enlist(self, puller: LocalPuller) -> None:
        if puller.credits and puller in self._pullers and self._server.running and not self._closed:
            with suppress(NoSuchStream):
                self._consumer(puller.stream, puller.consumer).enlist(puller)

    def _settle(self, lease: str, settle: Callable[[Consumer, int], None]) -> None:
        stream, consumer, sequence = lease.split("/")
        with suppress(NoSuchStream):
            settle(self._consumer(stream, consumer), int(sequence))

    def _consumer(self, stream: str, consumer: str) -> Consumer:
        return self._server.stream(stream).consumer(consumer)

    # Provisioning

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to *spec*. Messages stay."""
        await self._call("ensure_stream", spec.name, lambda: self._server.ensure_stream(spec))

    async def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer, or bring an existing one to *spec*. Its position stays."""
        await self._call("ensure_consumer", spec.stream, lambda: self._server.ensure_consumer(spec))

    # Core messages

    def notify(self, subject: str, payload: bytes, *, at_once: bool = False) -> None:  # noqa: ARG002 - nothing is gathered here
        """Send a hint to whoever listens. Sent, not awaited; lost where nobody does."""
        check_size(subject, payload, self.server.max_payload)
        self._send("notify", subject, lambda: self._server.exchange.send(subject, payload))

    async def listen(
        self, subject: str, listener: Listener, group: str = "", *, confirm: bool = True
    ) -> LocalSubscription:
        """Call *listener* for each message of a subject; in a *group*, one of its members gets each."""
        subscription = LocalSubscription(subject, group, listener, self._unsubscribe)
        if confirm:
            await asyncio.sleep(0)
        self._check_open()
        self._subscriptions[subscription] = None
        self._server.exchange.add(subscription)
        return subscription

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        """Ask, and return the first answer."""
        first: asyncio.Future[bytes] = self._server.clock.loop.create_future()

        def answer(content: bytes) -> None:
            if not first.done():
                first.set_result(content)

        await self._question("request", subject, payload, answer)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await first
        except TimeoutError:
            raise Unavailable(f"{subject}: no answer within {timeout_seconds} s") from None

    async def survey(self, subject: str, payload: bytes, window_seconds: float) -> list[bytes]:
        """Ask, and return all answers that come within the window; at once where nobody listens."""
        answers: list[bytes] = []
        try:
            await self._question("survey", subject, payload, answers.append)
        except NobodyListens:
            return []
        await asyncio.sleep(window_seconds)
        return list(answers)

    async def _question(self, verb: str, subject: str, payload: bytes, answer: Answer) -> None:
        await self._arrive()
        check_size(subject, payload, self.server.max_payload)
        if error := self._server.intercept("before", verb, subject):
            raise error
        if not self._server.exchange.send(subject, payload, answer):
            raise NobodyListens(f"nobody listens to {subject}")

    def _unsubscribe(self, subscription: LocalSubscription) -> None:
        self._server.exchange.remove(subscription)
        self._subscriptions.pop(subscription, None)

    # To the server and back

    def _send(self, verb: str, subject: str, action: Callable[[], object]) -> None:
        def arrive() -> None:
            if not self._is_connected():
                return
            if self._server.intercept("before", verb, subject) is None:
                action()

        self._server.clock.loop.call_soon(arrive)

    async def _call(self, verb: str, subject: str, action: Callable[[], T]) -> T:
        """Do what may be done twice, and again where the server stops before it has answered."""
        while True:
            process = await self._arrive()
            if error := self._server.intercept("before", verb, subject):
                raise error
            result = action()
            if error := self._server.intercept("after", verb, subject):
                raise error
            await asyncio.sleep(0)
            if not self._is_cut_off(process):
                return result

    async def _arrive(self) -> str:
        """Get a request to the server, and return which process of it that is."""
        self._check_open()
        await asyncio.sleep(0)
        if not self._server.running:
            try:
                async with asyncio.timeout(self._patience_seconds):
                    await self._server.wait_until_up()
            except TimeoutError:
                raise Unavailable(f"the server was down for {self._patience_seconds} s") from None
        self._check_open()
        return self._server.info.id

    def _is_cut_off(self, process: str) -> bool:
        return not self._is_connected() or self._server.info.id != process

    def _is_connected(self) -> bool:
        return not self._closed and self._server.running

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the connection is closed")
