"""Reading what is stored: single messages from the leader, whole filters in batches, and the state of things."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import msgspec

from ironflow.broker.nats.api import Api, ApiError
from ironflow.broker.nats.provisioner import shards_in
from ironflow.broker.nats.requester import Reply, Requester
from ironflow.broker.protocol import (
    BrokerError,
    ConsumerState,
    StoredMessage,
    StreamState,
)

PAGE_MESSAGES = 500
PAGE_BYTES = 4 * 1024 * 1024
"""Bounds a page of large messages; a direct get brings at least one all the same."""
NO_MESSAGE = 10037
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
MILLISECOND = dt.timedelta(milliseconds=1)


class _Message(msgspec.Struct):
    subject: str
    seq: int
    time: str
    data: bytes = b""


class _MessageAnswer(msgspec.Struct):
    message: _Message


class _StreamNumbers(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    consumer_count: int = 0


class _StreamAnswer(msgspec.Struct):
    state: _StreamNumbers
    created: str = ""


class _Clock(msgspec.Struct):
    ts: str


class _Position(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerAnswer(msgspec.Struct):
    ack_floor: _Position
    config: dict[str, Any] = {}
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0


class Page(msgspec.Struct, frozen=True):
    """Some messages, in order.

    Attributes:
        messages: they.
        remaining: how many come after them, as far as whoever answered knows.

    """

    messages: list[StoredMessage]
    remaining: int


_Which: TypeAlias = dict[str, str | list[str]]


def _last_of_each(subject_filter: str) -> _Which:
    return {"multi_last": [subject_filter]}


def _next_of(subject_filter: str) -> _Which:
    return {"next_by_subj": subject_filter}


class _TooManySubjects(BrokerError):  # noqa: N818 - an answer that decides, rather than a failure
    """The server answers for a thousand subjects at once, and the filter has more."""


class Reader:
    """Reads messages and states.

    Args:
        requester: carries requests and answers.
        api: JetStream's API.
        replicated: tells whether another server than a stream's leader may answer, which may lag behind it.
        answer_seconds: how long to wait for one page.
        patience_seconds: how long to keep asking for one page while there is no answer.

    """

    def __init__(
        self,
        requester: Requester,
        api: Api,
        replicated: Callable[[], bool],
        *,
        answer_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._requester = requester
        self._api = api
        self._replicated = replicated
        self._answer_seconds = answer_seconds
        self._patience_seconds = patience_seconds

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject, as the stream's leader has it."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message with that sequence, as the stream's leader has it."""
        return await self._get(stream, {"seq": sequence})

    async def page(self, stream: str, subject_filter: str, after: int) -> Page:
        """Return messages of a filter with a sequence over *after*; a replica that lags leaves out the newest."""
        return await self._page(stream, _next_of(subject_filter), after)

    async def next_after(self, stream: str, subject_filter: str, after: int) -> StoredMessage | None:
        """Return the first message of a filter with a sequence over *after*, as the stream's leader has it."""
        return await self._get(stream, {"seq": after + 1, "next_by_subj": subject_filter})

    async def read(
        self, stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False
    ) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages of a filter with a sequence over *after*, in order, in pages.

        Any replica may answer for a page, and one that lags leaves out the newest messages. So it is the leader
        who has to say that nothing follows.
        """
        # For what is next the server looks at all messages from the first one on, as far as they are in a block with
        # one that matches; for the last of each subject it has an index.
        which = _last_of_each(subject_filter) if one_each else _next_of(subject_filter)
        while True:
            try:
                page = await self._page(stream, which, after)
            except _TooManySubjects:
                which = _next_of(subject_filter)
                continue
            if page.messages:
                yield page.messages
                after = page.messages[-1].sequence
                if page.remaining:
                    continue
            missed = await self._missed(stream, subject_filter, after)
            if missed is None:
                return
            yield [missed]
            after = missed.sequence

    async def stream_state(self, stream: str) -> StreamState:
        """Return how full a stream is, as its leader has it."""
        answer = await self._stream_info(stream)
        numbers = answer.state
        return StreamState(
            numbers.messages,
            numbers.first_seq,
            numbers.last_seq,
            numbers.bytes,
            answer.created,
            numbers.consumer_count,
        )

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Return how far a consumer is."""
        answer = await self._api.call(f"CONSUMER.INFO.{stream}.{consumer}", None, _ConsumerAnswer)
        return ConsumerState(
            pending=answer.num_pending,
            ack_pending=answer.num_ack_pending,
            redelivered=answer.num_redelivered,
            ack_floor=answer.ack_floor.stream_seq,
            waiting_pulls=answer.num_waiting,
            shards=shards_in(answer.config),
        )

    async def server_time_ms(self, stream: str, consumer: str) -> int:
        """Return what the server's clock says now. The server tells it beside the state of things only."""
        verb = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
        return to_ms((await self._api.call(verb, None, _Clock)).ts)

    async def _stream_info(self, stream: str) -> _StreamAnswer:
        return await self._api.call(f"STREAM.INFO.{stream}", None, _StreamAnswer)

    async def _get(self, stream: str, which: dict[str, str | int]) -> StoredMessage | None:
        try:
            message = (await self._api.call(f"STREAM.MSG.GET.{stream}", which, _MessageAnswer)).message
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        return StoredMessage(message.subject, message.data, message.seq, to_ms(message.time))

    async def _missed(self, stream: str, subject_filter: str, after: int) -> StoredMessage | None:
        """Return the next message that the leader has and the replica that was asked did not; mostly there is none."""
        return await self.next_after(stream, subject_filter, after) if self._replicated() else None

    async def _page(self, stream: str, which: _Which, after: int) -> Page:
        """Ask for one page until it comes; a page that broke off is asked for again as a whole."""
        request = {
            **which,
            "seq": after + 1,
            "batch": PAGE_MESSAGES,
            "max_bytes": PAGE_BYTES,
        }
        subject, payload = self._api.subject(f"DIRECT.GET.{stream}"), msgspec.json.encode(request)
        answers = await self._api.pacer.persist(
            f"DIRECT.GET.{stream}",
            lambda seconds: self._requester.collect(subject, payload, seconds, has_status),
            answer_seconds=self._answer_seconds,
            patience_seconds=self._patience_seconds,
            is_closed=lambda: self._requester.closed,
        )
        return parse_page(answers, stream)


def has_status(reply: Reply) -> bool:
    """Tell whether a reply is the server's word on the request, rather than a message."""
    return reply.headers.startswith(b"NATS/1.0 ")


def parse_page(answers: list[Reply], stream: str) -> Page:
    """Return the messages of a page, and how many come after it.

    Raises:
        BrokerError: the server refused the request.

    """
    status = answers[-1].headers
    if status.startswith(b"NATS/1.0 404"):
        return Page([], 0)
    if status.startswith(b"NATS/1.0 413"):
        raise _TooManySubjects(f"cannot read {stream}: too many subjects at once")
    if not status.startswith(b"NATS/1.0 204"):
        reason = status.partition(b"\r\n")[0].decode(errors="replace")
        message = f"cannot read {stream}: {reason}"
        raise BrokerError(message)
    messages = [parse_message(answer) for answer in answers[:-1]]
    return Page(messages, int(_value(status, b"Nats-Num-Pending")) if b"Nats-Num-Pending" in status else 0)


def parse_message(reply: Reply) -> StoredMessage:
    """Return a message from its copy that a direct get sends."""
    headers = reply.headers
    return StoredMessage(
        _value(headers, b"Nats-Subject").decode(),
        reply.payload,
        int(_value(headers, b"Nats-Sequence")),
        to_ms(_value(headers, b"Nats-Time-Stamp").decode()),
    )


def _value(headers: bytes, name: bytes) -> bytes:
    """Return the value of a header; of several with one name the last, as the server appends its own.

    A worker that wakes hundreds of runs reads thousands of messages, of whose headers it needs three.

    Raises:
        ValueError: there is none.

    """
    start = headers.rindex(b"\r\n%b: " % name) + len(name) + 4
    return headers[start : headers.index(b"\r\n", start)]


def to_ms(moment: str) -> int:
    """Return an RFC 3339 time as whole milliseconds since 1970, rounded down."""
    return (dt.datetime.fromisoformat(moment) - EPOCH) // MILLISECOND
