"""Deliveries on their way from a consumer to whoever asked for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ironflow.broker.protocol import Delivery, StoredMessage, Unavailable


class Client(Protocol):
    """A connection, as its pullers and deliveries see it."""

    def ack(self, lease: str) -> None:
        """Send a delivery's acknowledgement."""
        ...

    def nak(self, lease: str, delay_seconds: float) -> None:
        """Send that a delivery is handed back."""
        ...

    def enlist(self, puller: LocalPuller) -> None:
        """Send that a puller has credits."""
        ...

    def dismiss(self, puller: LocalPuller) -> None:
        """Take back what a puller asked for."""
        ...


class LocalDelivery:
    """A message handed to a consumer, until it is acknowledged or its lease ends.

    Args:
        connection: the one that it was handed out on, and that its answers go over.
        consumer: the stream's and the consumer's name.
        message: what was stored.
        delivered: how often it was handed out so far, this time included.

    """

    __slots__ = ("_connection", "delivered", "lease", "payload", "sequence", "subject", "time_ms")

    def __init__(self, connection: Client, consumer: tuple[str, str], message: StoredMessage, delivered: int) -> None:
        self._connection = connection
        self.subject = message.subject
        self.payload = message.payload
        self.sequence = message.sequence
        self.time_ms = message.time_ms
        self.delivered = delivered
        self.lease = f"{consumer[0]}/{consumer[1]}/{message.sequence}"

    def ack(self) -> None:
        """Tell the broker that it is done with."""
        self._connection.ack(self.lease)

    def nak(self, delay_seconds: float = 0.0) -> None:
        """Hand it back: to be delivered again, *delay_seconds* from now."""
        self._connection.nak(self.lease, delay_seconds)


class LocalPuller:
    """Deliveries of one consumer, as many as were asked for and not more.

    Args:
        connection: the one that it belongs to.
        stream: the stream's name.
        consumer: the consumer's name.

    """

    def __init__(self, connection: Client, stream: str, consumer: str) -> None:
        self.credits = 0
        self.stream = stream
        self.consumer = consumer
        self._connection = connection
        self._arrived: deque[LocalDelivery] = deque()
        self._something = asyncio.Event()
        self._closed = False

    def request(self, count: int) -> None:
        """Ask for *count* more deliveries. It never blocks; what is asked for outlives restarts."""
        self.credits += count
        self._connection.enlist(self)

    def withdraw(self) -> None:
        """Ask for nothing more. Deliveries that were on their way may still come."""
        self.credits = 0
        self._connection.dismiss(self)

    @property
    def is_served(self) -> bool:
        """Whether the consumer knows of the credits; it does as soon as there are any."""
        return not self._closed

    async def batch(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; return up to *limit* that have come.

        Raises:
            Unavailable: the connection was closed.

        """
        # Also what is there already is handed out a turn of the loop later, as over a network.
        await asyncio.sleep(0)
        while not self._arrived:
            if self._closed:
                raise Unavailable("the connection is closed")
            self._something.clear()
            await self._something.wait()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    def take(self, message: StoredMessage, delivered: int) -> None:
        """Get a delivery from the consumer."""
        self._arrived.append(LocalDelivery(self._connection, (self.stream, self.consumer), message, delivered))
        self._something.set()

    def close(self, *, give_back: bool) -> None:
        """Ask for nothing more, wake whoever waits, and hand back what nobody took."""
        self.withdraw()
        self._closed = True
        if give_back:
            for delivery in self._arrived:
                delivery.nak()
        self._arrived.clear()
        self._something.set()
