"""What a server sends: taken from the socket and cut into messages within one call of the event loop.

nats-py reads through a stream and a task, and parses with coroutines, which costs rounds of the event loop for whatever
comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import nats.errors

from ironflow.logs import get_logger

Handler = Callable[[bytes, bytes, bytes, bytes], None]
"""Is given subject, reply subject, payload and encoded headers of each message of a subscription."""

log = get_logger(__name__)

END = b"\r\n"
LONGEST_LINE = 64 * 1024
"""INFO of a server in a large cluster has the most, with a few kilobytes."""


class Incoming(asyncio.Protocol):
    """Hands over each message to the subscription that it is for, as soon as it is there.

    Args:
        handlers: the subscriptions, by number; messages for others are dropped.
        operation: called with each line that is no message: PING, PONG, INFO, -ERR and the like.
        stream: what else is told of the connection: nats-py's stream, which waits for it to close.

    Attributes:
        lost: settled when the connection has ended, or what came on it is not NATS.

    """

    def __init__(
        self, handlers: Mapping[int, Handler], operation: Callable[[bytes], None], stream: asyncio.BaseProtocol
    ) -> None:
        self._handlers = handlers
        self._operation = operation
        self._stream = stream
        self._parts: list[bytes] = []
        self._has = 0
        self._needs = 0
        """How many bytes there must be before it is worth to look again: a large message comes in many parts."""
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._parts or self._needs:
            self._parts.append(data)
            self._has += len(data)
            if self._has < self._needs:
                return
            data = b"".join(self._parts)
        try:
            taken, self._needs = self._take(data)
        except ValueError as error:
            self._end(nats.errors.ProtocolError(), error)
            return
        self._parts = [data[taken:]] if taken < len(data) else []
        self._has = len(data) - taken

    def eof_received(self) -> None:
        """Say that nothing more will come; to close may take until what is written is sent, if it ever is."""
        self._end(nats.errors.UnexpectedEOF(), None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self._end(nats.errors.UnexpectedEOF(), exc)
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._stream.resume_writing()

    def _end(self, error: Exception, cause: BaseException | None) -> None:
        if not self.lost.done():
            error.__cause__ = cause
            self.lost.set_result(error)

    def _take(self, data: bytes) -> tuple[int, int]:
        """Handle all that is complete; return how much that was, and how much the rest needs to be, if that is known.

        Raises:
            ValueError: it is not NATS.

        """
        start = 0
        while (end := data.find(END, start)) >= 0:
            words = data[start:end].split(b" ")
            if words[0] == b"MSG":
                subject, reply, sizes = _parsed(words, 1)
                headers_at = body = end + 2
            elif words[0] == b"HMSG":
                subject, reply, sizes = _parsed(words, 2)
                headers_at = end + 2
                body = headers_at + int(sizes[0])
            else:
                self._operation(data[start:end])
                start = end + 2
                continue
            stop = headers_at + int(sizes[-1])
            if len(data) < stop + 2:
                return start, stop + 2 - start
            handler = self._handlers.get(int(words[2]))
            if handler is not None:
                try:
                    handler(subject, reply, data[body:stop], data[headers_at:body])
                except Exception:
                    # One that cannot be handled must not end the connection: it would come again on the next one.
                    log.exception("a NATS message could not be handled", subject=subject.decode(errors="replace"))
            start = stop + 2
        if len(data) - start > LONGEST_LINE:
            msg = "a line without an end"
            raise ValueError(msg)
        return start, 0


def _parsed(words: list[bytes], sizes: int) -> tuple[bytes, bytes, list[bytes]]:
    """Return subject, reply subject and the sizes, so many, of a line that begins a message.

    Raises:
        ValueError: there are not as many words as there must be.

    """
    match len(words) - sizes:
        case 3:
            return words[1], b"", words[3:]
        case 4:
            return words[1], words[3], words[4:]
        case _:
            msg = "a message with too few words, or too many"
            raise ValueError(msg)
