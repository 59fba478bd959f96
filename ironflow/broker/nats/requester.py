"""Requests and their answers, over one shared inbox.

One dictionary of waiting requests, one sweeper for all time-outs, and no task for a request. Failures are
values, not exceptions: a caller that was cancelled leaves nothing behind that would be reported.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections.abc import Callable, Sequence

import msgspec

from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import Ambiguous, BrokerError, Denied, NobodyListens, Unavailable

SWEEP_SECONDS = 0.05
NO_RESPONDERS = b"NATS/1.0 503"


class Reply(msgspec.Struct, gc=False):
    """An answer. *headers* are encoded, as they came."""

    headers: bytes
    payload: bytes

    @property
    def no_responders(self) -> bool:
        """Whether the server says that nobody listens on the subject."""
        return self.headers.startswith(NO_RESPONDERS)


class Failure(enum.Enum):
    """Why there is no answer. Only after DENIED is it sure that the request took no effect."""

    TIMED_OUT = "no answer came in time"
    LOST = "the connection broke before the answer came"
    CLOSED = "the connection was closed before the answer came"
    DENIED = "the account's permissions do not allow it"

    def error(self, subject: str) -> BrokerError:
        """Return it as the contract's exception."""
        kind = Denied if self is Failure.DENIED else Ambiguous
        return kind(f"{self.value} ({subject})")


Answer = Reply | Failure


class Waiting:
    """A request that has not all of its answers."""

    __slots__ = ("answers", "deadline", "future", "is_last", "subject")

    def __init__(self, subject: str, deadline: float, future: asyncio.Future[Answer]) -> None:
        self.subject = subject
        self.deadline = deadline
        self.future = future
        self.answers: list[Reply] = []
        self.is_last: Callable[[Reply], bool] | None = None
        """Where it expects more than one answer."""

    def settle(self, answer: Answer) -> None:
        """Hand over the last answer, unless the caller has gone."""
        if not self.future.done():
            self.future.set_result(answer)


class Requester:
    """Sends requests on a connection and matches the answers to them.

    Args:
        wire: the connection.
        inbox: the subject prefix for answers, which nobody else may use.

    """

    def __init__(self, wire: Wire, inbox: str) -> None:
        self._wire = wire
        self._inbox = f"{inbox}."
        self._skip = len(self._inbox)
        self._tokens = itertools.count()
        self._waiting: dict[bytes, Waiting] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sweeping = False
        self._closed = False

        wire.attach(f"{self._inbox}*", self._receive, keep=True)
        wire.on_up.append(self._came_up)
        wire.on_down.append(self._went_down)

    @property
    def closed(self) -> bool:
        """Whether it was closed, so that asking again is of no use."""
        return self._closed

    def close(self) -> None:
        """Fail all requests, now and later."""
        self._closed = True
        self._changed.set()
        self._fail_all(Failure.CLOSED)

    def denied(self, subject: str) -> bool:
        """Fail the requests on a subject (in lower case) that the server refused; tell whether there were any."""
        tokens = [token for token, waiting in self._waiting.items() if waiting.subject.lower() == subject]
        for token in tokens:
            self._waiting.pop(token).settle(Failure.DENIED)
        return bool(tokens)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._wire.up

    async def connected(self, timeout_seconds: float) -> None:
        """Return once there is a connection; at once where there is one.

        Raises:
            Unavailable: there is none in time, or it was closed for good.

        """
        if self._wire.up:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self._decided():
                    await self._changed.wait()
        except TimeoutError:
            message = f"not connected to NATS for {timeout_seconds:.1f} s"
            raise Unavailable(message) from None
        if self._closed:
            message = "the connection to NATS was closed"
            raise Unavailable(message)

    # One answer

    def send(
        self, subject: str, payload: bytes, timeout_seconds: float, headers: bytes = b""
    ) -> asyncio.Future[Answer]:
        """Send a request, a lone one at once and others by the turn of the event loop; see :meth:`connected` first.

        The future is settled with the answer or with why there is none; it never raises by itself.
        """
        return self._send(subject, payload, timeout_seconds, headers).future

    def post_all(self, messages: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Send messages that get no answers of their own, with what else is sent in this turn.

        Args:
            messages: each a subject, encoded headers and a payload.

        """
        self._wire.send_all(messages)

    async def ask(self, subject: str, payload: bytes, timeout_seconds: float) -> Reply:
        """Send a request and return its answer. Time spent without a connection counts.

        Raises:
            Unavailable: it could not be sent, or nobody listens.
            Ambiguous: it was sent and no answer came.
            Denied: the account's permissions do not allow it.
            MessageTooLarge: it was not sent.

        """
        return (await self.collect(subject, payload, timeout_seconds))[0]

    # Many answers

    async def collect(
        self,
        subject: str,
        payload: bytes,
        timeout_seconds: float,
        is_last: Callable[[Reply], bool] | None = None,
    ) -> list[Reply]:
        """Send a request and return its answers, up to and with the one that *is_last*; the first if that is None.

        Raises:
            Unavailable, Ambiguous, Denied, MessageTooLarge: as :meth:`ask`.

        """
        deadline = self._loop.time() + timeout_seconds
        await self.connected(timeout_seconds)
        waiting = self._send(subject, payload, deadline - self._loop.time())
        waiting.is_last = is_last
        last = await waiting.future
        if isinstance(last, Failure):
            raise last.error(subject)
        if last.no_responders:
            message = f"nobody answers on {subject}"
            raise NobodyListens(message)
        return [*waiting.answers, last]

    async def survey(self, subject: str, payload: bytes, window_seconds: float) -> list[Reply]:
        """Send a request and return the answers that come within the window."""
        await self.connected(window_seconds)
        waiting = self._send(subject, payload, window_seconds)
        waiting.is_last = is_no_responders
        last = await waiting.future
        if last is Failure.DENIED:
            raise last.error(subject)
        return waiting.answers

    # Insides

    def _decided(self) -> bool:
        return self._wire.up or self._closed

    def _came_up(self) -> None:
        self._changed.set()

    def _went_down(self) -> None:
        self._changed.clear()
        # The answers would come on a subscription that is no more.
        self._fail_all(Failure.LOST)

    def _send(self, subject: str, payload: bytes, timeout_seconds: float, headers: bytes = b"") -> Waiting:
        waiting = Waiting(subject, self._loop.time() + timeout_seconds, self._loop.create_future())
        if not self._wire.up:
            waiting.settle(Failure.CLOSED if self._closed else Failure.LOST)
            return waiting
        token = f"{next(self._tokens):x}"
        # While nobody else waits for an answer, little else is on its way that could be sent together with this.
        is_lone = not self._waiting
        self._wire.send(subject, payload, self._inbox + token, headers, at_once=is_lone)
        self._waiting[token.encode()] = waiting
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return waiting

    def _receive(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        token = subject[self._skip :]
        waiting = self._waiting.get(token)
        if waiting is None:
            return
        reply = Reply(headers, payload)
        if waiting.is_last is not None and not waiting.is_last(reply):
            waiting.answers.append(reply)
            return
        del self._waiting[token]
        waiting.settle(reply)

    def _sweep(self) -> None:
        """Time out what is overdue, and come back while anything waits."""
        now = self._loop.time()
        for token in [token for token, waiting in self._waiting.items() if waiting.deadline <= now]:
            self._waiting.pop(token).settle(Failure.TIMED_OUT)
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _fail_all(self, failure: Failure) -> None:
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.settle(failure)


def is_no_responders(reply: Reply) -> bool:
    """Tell whether the server answers that nobody listens."""
    return reply.no_responders
