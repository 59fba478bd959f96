"""Reading a whole stream again and again, each time on from where the last reading ended.

For each page of a direct get nats-server (2.15) counts what the stream still has, over all of its subjects: at a
million of them a tenth of a second, in which nobody can write to it. A consumer has that counted once, and then is
told of each message; so one is kept between two readings. It is the server's only in memory, needs no
acknowledgements, and is made anew wherever it is not sure how far it came.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ironflow.broker.nats.api import Api, ApiError
from ironflow.broker.nats.delivery import NatsDelivery, counts_of
from ironflow.broker.nats.puller import NO_RESPONDERS, Status, parse_status
from ironflow.broker.nats.reader import PAGE_BYTES, PAGE_MESSAGES, Page, Reader
from ironflow.broker.nats.requester import Requester
from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import Ambiguous, BrokerError, Denied, StorageFull, StoredMessage, Unavailable
from ironflow.logs import get_logger

_KEPT_SECONDS = 60
"""How long the server keeps the consumer of somebody who does not read; a few sweeps of the engine."""
_EVERYTHING = ">"
_SILENT_SECONDS = 1.0
"""After which nothing more is taken to come. Without a consumer a page costs more and comes as well, and whoever lists
runs waits three seconds."""
_MADE_SECONDS = 5.0
"""For its making, at which the server counts the stream's messages."""
_PAGES_SECONDS = 10.0
"""For so long pages are read where a consumer did not answer: the next one may be made on the same dead server."""
_REFUSED_SECONDS = 60.0
"""The same where none may be made; the server logs each attempt."""
_MOST_MISSES = 3
"""How often in a row the leader has more than the consumer, before its server is taken to lag behind."""
_LONE = b'{"batch":1,"no_wait":true}'
_PAGE = b'{"batch":%d,"max_bytes":%d,"no_wait":true}' % (PAGE_MESSAGES, PAGE_BYTES)
_NO_MORE = frozenset({404, 408})
_LARGE = "MaxBytes"
"""In the server's words about a message that is larger than a page."""

log = get_logger(__name__)


class _Created(msgspec.Struct):
    name: str


class _Consumer(msgspec.Struct, frozen=True):
    """What is kept between two pages.

    Attributes:
        name: the consumer's.
        delivered: how many messages it has handed out, all of which have come.

    """

    name: str
    delivered: int = 0


class _Pulled(Page, frozen=True):
    """What came for one pull.

    Attributes:
        is_whole: surely nothing else was on its way.

    """

    is_whole: bool = True


class Follower:
    """See :class:`ironflow.broker.protocol.Follower`.

    Args:
        wire: the connection.
        requester: tells when there is a connection.
        api: JetStream's API.
        reader: reads where a consumer cannot, and asks the leader for what the consumer has not heard of.
        stream: the stream's name.
        inbox: a subject prefix of its own for what the server sends.
        patience_seconds: how long to wait for a connection.

    """

    def __init__(
        self,
        wire: Wire,
        requester: Requester,
        api: Api,
        reader: Reader,
        *,
        stream: str,
        inbox: str,
        patience_seconds: float,
    ) -> None:
        self._wire = wire
        self._requester = requester
        self._api = api
        self._reader = reader
        self._stream = stream
        self._inbox = inbox
        self._patience_seconds = patience_seconds
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._consumer: _Consumer | None = None
        self._position = 0
        """Up to where everything was handed out that the consumer has delivered."""
        self._pages_until = 0.0
        self._complained = False

    async def read(self, after: int, up_to: int) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages with a sequence over *after*, at least up to *up_to*, in order, in pages."""
        misses = 0
        while after < up_to:
            page = await self._followed(after) or await self._reader.page(self._stream, _EVERYTHING, after)
            if page.messages:
                misses = 0
                after = self._position = page.messages[-1].sequence
                yield page.messages
            if page.remaining or after >= up_to:
                continue
            # A consumer hears of what was stored a moment later, another server than the leader later still.
            missed = await self._reader.next_after(self._stream, _EVERYTHING, after)
            if missed is None:
                return
            after = self._position = missed.sequence
            misses += 1
            if misses == _MOST_MISSES:
                misses, self._consumer = 0, None
            yield [missed]

    async def _followed(self, after: int) -> Page | None:
        """Return what comes next by a consumer; None where that is of no use now."""
        await self._requester.connected(self._patience_seconds)
        began = self._loop.time()
        if began < self._pages_until:
            return None
        try:
            return await self._ask_twice(after)
        except (Unavailable, Ambiguous) as error:
            log.debug("a consumer does not answer", stream=self._stream, reason=str(error))
            self._pages_until = self._loop.time() + _PAGES_SECONDS
        except (ApiError, Denied, StorageFull) as error:
            self._complain(error)
            self._pages_until = self._loop.time() + _REFUSED_SECONDS
        except asyncio.CancelledError:
            # What took too long for one need not be found out again by the next.
            if self._loop.time() > began + _SILENT_SECONDS:
                self._pages_until = self._loop.time() + _PAGES_SECONDS
            raise
        return None

    async def _ask_twice(self, after: int) -> Page:
        try:
            return await self._ask(after)
        except Unavailable:
            # The server has forgotten it: nobody has read for a while, or it was started anew.
            return await self._ask(after)

    async def _ask(self, after: int) -> Page:
        consumer = self._consumer if self._position == after else None
        # Whoever is interrupted does not know how far the consumer came.
        self._consumer = None
        if consumer is None:
            consumer = await self._make_consumer(after)
        page = await self._pull(consumer, _PAGE)
        if page is None:
            page = await self._pull(consumer, _LONE)
        if page is None:
            message = f"the server does not hand out what follows on {after} in {self._stream}"
            raise Unavailable(message)
        if page.is_whole:
            self._consumer = _Consumer(consumer.name, consumer.delivered + len(page.messages))
            self._position = after
        # The leader may have been asked for the first of them already.
        return Page([each for each in page.messages if each.sequence > after], page.remaining)

    async def _make_consumer(self, after: int) -> _Consumer:
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _KEPT_SECONDS * 1_000_000_000,
        }
        request = msgspec.json.encode({"stream_name": self._stream, "config": config, "action": "create"})
        # The server names it, so that whoever may make such a one may not make one of a name, nor one that stays.
        made = await self._api.once(f"CONSUMER.CREATE.{self._stream}", request, _Created, _MADE_SECONDS)
        return _Consumer(made.name)

    async def _pull(self, consumer: _Consumer, request: bytes) -> _Pulled | None:
        """Return what comes; None where the next message is larger than a page."""
        subject = self._api.subject(f"CONSUMER.MSG.NEXT.{self._stream}.{consumer.name}")
        pull = _Pull(self._wire, subject, PAGE_MESSAGES if request is _PAGE else 1, consumer.delivered)
        inbox = f"{self._inbox}.{next(self._numbers):x}"
        subscription = self._wire.attach(inbox, pull.receive, keep=False)
        self._wire.on_down.append(pull.went_down)
        self._wire.on_denied.append(pull.denied)
        try:
            self._wire.send(subject, request, inbox, at_once=True)
            return await pull.wait()
        finally:
            self._wire.on_down.remove(pull.went_down)
            self._wire.on_denied.remove(pull.denied)
            self._wire.detach(subscription)
            self._wire.forget(subscription)

    def _complain(self, error: BrokerError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "cannot follow a stream with a consumer; reads it in pages, each of which costs what the stream holds",
                stream=self._stream,
                reason=str(error),
                advice="let the engine make consumers of it; 'ironflow nats-accounts' prints all that an engine may do",
            )


class _Pull:
    """What comes for one pull.

    Args:
        wire: the connection.
        subject: where the pull goes.
        wanted: how many messages it asks for.
        delivered: how many the consumer has delivered before. It delivers each once, so none may be missing.

    """

    def __init__(self, wire: Wire, subject: str, wanted: int, delivered: int) -> None:
        self._wire = wire
        self._subject = subject
        self._wanted = wanted
        self._delivered = delivered
        self._messages: list[StoredMessage] = []
        self._remaining = 0
        # A failure is a value: whoever was cancelled leaves no exception behind that nobody has seen.
        self._outcome: asyncio.Future[_Pulled | BrokerError | None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> _Pulled | None:
        """Return what has come, once that is all or nothing more comes; None where the next one exceeds a page.

        Raises:
            Unavailable: the server does not have the consumer, or has begun it anew, or something got lost.
            Ambiguous: nothing came at all.
            Denied: the account's permissions do not allow it.

        """
        come = -1
        while come < len(self._messages):
            come = len(self._messages)
            if (await asyncio.wait([self._outcome], timeout=_SILENT_SECONDS))[0]:
                if isinstance(outcome := self._outcome.result(), BrokerError):
                    raise outcome
                return outcome
        if self._messages:
            return _Pulled(self._messages, self._remaining, is_whole=False)
        message = f"no answer came in time ({self._subject})"
        raise Ambiguous(message)

    def receive(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message, which has a subject for its acknowledgement, or the server's word on the pull."""
        if reply:
            self._take_message(NatsDelivery(self._wire, subject, reply, payload))
        elif (status := parse_status(headers)) is not None:
            self._take_status(status)

    def went_down(self) -> None:
        """Learn that the connection was lost."""
        self._settle(Ambiguous(f"the connection broke before the answer came ({self._subject})"))

    def denied(self, operation: str, subject: str) -> None:
        """Learn that the server refused something."""
        if operation == "publish" and subject == self._subject.lower():
            self._settle(Denied(f"the account's permissions do not allow it ({self._subject})"))

    def _take_message(self, delivery: NatsDelivery) -> None:
        number, remaining = counts_of(delivery.lease)
        self._delivered += 1
        if number != self._delivered:
            self._settle(Unavailable(f"message {self._delivered} of the consumer is missing ({self._subject})"))
            return
        self._messages.append(StoredMessage(delivery.subject, delivery.payload, delivery.sequence, delivery.time_ms))
        self._remaining = remaining
        if len(self._messages) == self._wanted:
            self._settle(_Pulled(self._messages, remaining))

    def _take_status(self, status: Status) -> None:
        if status.is_heartbeat:
            return
        if status.code in _NO_MORE:
            self._settle(_Pulled(self._messages, 0))
        elif status.code == NO_RESPONDERS or _LARGE not in status.text:
            # The consumer is gone, or its leader is.
            self._settle(Unavailable(f"{status.code} {status.text} ({self._subject})"))
        else:
            self._settle(_Pulled(self._messages, self._remaining) if self._messages else None)

    def _settle(self, outcome: _Pulled | BrokerError | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)
