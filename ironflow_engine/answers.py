"""How much one answer carries."""

from __future__ import annotations

from ironflow.broker.protocol import Broker
from ironflow.codec import encode_record
from ironflow.messages import Message

_MOST_BYTES = 600 * 1024
"""NATS takes 1 MiB, and one payload may have 512 KiB."""


class Room:
    """What is left of an answer that shows several things.

    Args:
        broker: the connection that the answer is sent on.

    Attributes:
        left: bytes; none or less where it is full.

    """

    def __init__(self, broker: Broker) -> None:
        self.left = min(_MOST_BYTES, broker.server.max_payload * 3 // 5)
        self._is_empty = True

    def takes(self, view: Message) -> bool:
        """Take a view in, if it fits. The first one is taken anyway: else whoever asks would never get past it."""
        size = len(encode_record(view))
        if size > self.left and not self._is_empty:
            return False
        self._is_empty = False
        self.left -= size
        return True
