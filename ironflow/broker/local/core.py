"""Core messages: who listens to what. Nothing is stored, and what nobody hears is lost."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from ironflow.broker.local.subjects import is_literal, matcher
from ironflow.broker.protocol import Listener, MessageTooLarge, Unavailable

logger = logging.getLogger(__name__)

Answer = Callable[[bytes], None]


class NoStreamTakesIt(Unavailable):
    """No stream has the subject of a message."""


def check_size(subject: str, payload: bytes, limit: int) -> None:
    """Refuse what the server does not take.

    Raises:
        MessageTooLarge: it is more than *limit* bytes.

    """
    if len(payload) > limit:
        raise MessageTooLarge(f"{len(payload):,} bytes; the server takes at most {limit:,} ({subject})")


class LocalRequest:
    """A core message that may want an answer.

    Args:
        subject: what it was sent to.
        payload: its content.
        limit: the most bytes that an answer may have.
        answer: takes the answers; None where none is wanted.

    """

    __slots__ = ("_answer", "_limit", "payload", "subject")

    def __init__(self, subject: str, payload: bytes, limit: int, answer: Answer | None = None) -> None:
        self.subject = subject
        self.payload = payload
        self._limit = limit
        self._answer = answer

    def respond(self, payload: bytes) -> None:
        """Answer it; no effect where no answer is wanted."""
        if self._answer is not None:
            check_size(self.subject, payload, self._limit)
            asyncio.get_running_loop().call_soon(self._answer, payload)


class LocalSubscription:
    """A listener and the messages that it has still to hear, one after another.

    Args:
        subject: the subject or filter that it listens to.
        group: the group that shares the messages, "" for none.
        listener: called with each message; what it raises is logged and goes no further.
        unsubscribe: called once, or more often, when it ends.

    """

    def __init__(
        self,
        subject: str,
        group: str,
        listener: Listener,
        unsubscribe: Callable[[LocalSubscription], None],
    ) -> None:
        self.subject = subject
        self.group = group
        self._listener = listener
        self._unsubscribe = unsubscribe
        self._unheard: deque[LocalRequest] = deque()
        self._hearing: asyncio.Task[None] | None = None
        self._stopped = False

    async def stop(self) -> None:
        """Receive nothing more. Harmless the second time."""
        self.end()

    def end(self) -> None:
        """Stop without waiting. A listener that is running is cancelled, unless it is the one that asks."""
        self._stopped = True
        self._unheard.clear()
        self._unsubscribe(self)
        if self._hearing is not None and self._hearing is not asyncio.current_task():
            self._hearing.cancel()

    def push(self, request: LocalRequest) -> None:
        """Let the listener hear a message when it has heard the ones before."""
        if self._stopped:
            return
        self._unheard.append(request)
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear(), name=f"listener of {self.subject}")

    async def _hear(self) -> None:
        try:
            while self._unheard:
                request = self._unheard.popleft()
                try:
                    hearing = self._listener(request)
                    if hearing is not None:
                        await hearing
                except Exception:
                    logger.exception("the listener of %s failed", request.subject)
        finally:
            self._hearing = None


class Exchange:
    """All subscriptions of a server.

    Args:
        max_payload: the most bytes that a message may have.

    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._literal: dict[str, dict[LocalSubscription, None]] = {}
        self._filters: dict[LocalSubscription, Callable[[str], bool]] = {}
        self._turns: dict[str, int] = {}

    def add(self, subscription: LocalSubscription) -> None:
        """Deliver to this subscription from now on."""
        if is_literal(subscription.subject):
            self._literal.setdefault(subscription.subject, {})[subscription] = None
        else:
            self._filters[subscription] = matcher(subscription.subject)

    def remove(self, subscription: LocalSubscription) -> None:
        """Deliver nothing more to it; harmless the second time."""
        self._filters.pop(subscription, None)
        same = self._literal.get(subscription.subject)
        if same is not None:
            same.pop(subscription, None)
            if not same:
                del self._literal[subscription.subject]

    def send(self, subject: str, payload: bytes, answer: Answer | None = None) -> bool:
        """Give a message to all that listen, and to one of each group; say whether anybody does."""
        receivers = self._receivers(subject)
        for receiver in receivers:
            receiver.push(LocalRequest(subject, payload, self._max_payload, answer))
        return bool(receivers)

    def _receivers(self, subject: str) -> list[LocalSubscription]:
        listening: Iterable[LocalSubscription] = (
            *self._literal.get(subject, ()),
            *(subscription for subscription, match in self._filters.items() if match(subject)),
        )
        receivers: list[LocalSubscription] = []
        groups: dict[str, list[LocalSubscription]] = {}
        for subscription in listening:
            if subscription.group:
                groups.setdefault(subscription.group, []).append(subscription)
            else:
                receivers.append(subscription)
        receivers.extend(members[self._turn(group) % len(members)] for group, members in groups.items())
        return receivers

    def _turn(self, group: str) -> int:
        turn = self._turns[group] = self._turns.get(group, -1) + 1
        return turn
