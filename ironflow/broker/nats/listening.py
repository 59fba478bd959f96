"""Core messages that come in: hints and requests, at most once."""

from __future__ import annotations

import asyncio
import inspect
import types
from collections import deque

from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import Listener
from ironflow.logs import get_logger

MOST_WAITING = 65_536
"""Messages that wait for a slow listener; what comes beyond is dropped, as any hint may be."""

log = get_logger(__name__)


class NatsRequest:
    """See :class:`ironflow.broker.protocol.Request`."""

    __slots__ = ("_reply", "_wire", "payload", "subject")

    def __init__(self, wire: Wire, subject: bytes, reply: bytes, payload: bytes) -> None:
        self._wire = wire
        self._reply = reply
        self.subject = subject.decode(errors="replace")
        self.payload = payload

    def respond(self, payload: bytes) -> None:
        """Answer it; no effect where no answer is wanted."""
        if self._reply:
            self._wire.send(self._reply.decode(), payload)


class Listening:
    """A running :meth:`ironflow.broker.protocol.Broker.listen`: calls the listener, one message after another.

    Args:
        wire: the connection.
        subject: may have wildcards.
        listener: what to call; its exceptions are logged.
        group: the queue group, or "".

    """

    def __init__(self, wire: Wire, subject: str, listener: Listener, group: str) -> None:
        self._wire = wire
        self._subject = subject
        self._listener = listener
        # Somebody listens for each run that is waited for, and to have ``inspect`` find out takes 17 calls.
        code: types.CodeType | None = getattr(listener, "__code__", None)
        self._is_plain = code is not None and not code.co_flags & inspect.CO_COROUTINE
        self._waiting: deque[NatsRequest] = deque()
        self._denied = False
        self._subscription = wire.attach(subject, self._receive, keep=True, group=group)
        self._task: asyncio.Task[None] | None = None
        """Lives while there are messages: a client has a subscription for each run whose end it awaits."""

    async def confirm(self, timeout_seconds: float) -> bool:
        """Wait until the server has taken the subscription; return False if it refused to."""
        self._wire.on_denied.append(self._take_refusal)
        try:
            await self._wire.barrier(timeout_seconds)
        finally:
            self._wire.on_denied.remove(self._take_refusal)
        return not self._denied

    async def stop(self) -> None:
        """Receive nothing more. Harmless the second time."""
        self._wire.detach(self._subscription)
        self._wire.forget(self._subscription)
        self._waiting.clear()
        task = self._task
        if task is None:
            return
        task.cancel()
        # A listener that stops its own subscription runs in that very task.
        if task is not asyncio.current_task():
            await asyncio.wait({task})

    def _take_refusal(self, operation: str, subject: str) -> None:
        self._denied = self._denied or (operation == "subscription" and subject == self._subject.lower())

    def _receive(self, subject: bytes, reply: bytes, payload: bytes, _headers: bytes) -> None:
        if len(self._waiting) == MOST_WAITING:
            return
        request = NatsRequest(self._wire, subject, reply, payload)
        if self._is_plain:
            try:
                self._listener(request)
            except Exception:
                log.exception("a listener failed", subject=request.subject)
            return
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                request = self._waiting.popleft()
                try:
                    hearing = self._listener(request)
                    if hearing is not None:
                        await hearing
                except Exception:
                    log.exception("a listener failed", subject=request.subject)
        finally:
            self._task = None
