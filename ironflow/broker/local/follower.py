"""Reading a whole stream again and again; here each reading costs what is new anyway."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ironflow.broker.protocol import Broker, StoredMessage


class LocalFollower:
    """See :class:`ironflow.broker.protocol.Follower`.

    Args:
        broker: reads.
        stream: the stream's name.

    """

    def __init__(self, broker: Broker, stream: str) -> None:
        self._broker = broker
        self._stream = stream

    def read(self, after: int, up_to: int) -> AsyncIterator[list[StoredMessage]]:  # noqa: ARG002 - it reads to the end
        """Yield all messages with a sequence over *after*, in order, in pages."""
        return self._broker.read(self._stream, ">", after)
