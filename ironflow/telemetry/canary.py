"""A write that shows whether writing works, and leaves nothing behind but one small message for ever."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker, BrokerError, Publication, SubjectTaken
from ironflow.codec import encode_record
from ironflow.records import CanaryRecord

_FRESH_SECONDS = 1.0
_ANSWER_SECONDS = 2.0


class Canary:
    """Writes to one subject.

    Where the stream keeps the first message of a subject, the very first canary of all is stored and every later one
    is refused as taken. The server says so only after all else that it asks of a write: that the account may, that
    the stream has its leader, and that there is room. So the refusal is as good as a success.

    Args:
        broker: the connection.
        subject: where to write.
        token: marks the writer.

    """

    def __init__(self, broker: Broker, subject: str, token: str) -> None:
        self._broker = broker
        self._publication = Publication(subject=subject, payload=encode_record(CanaryRecord(token=token)))
        self._lock = asyncio.Lock()
        self._sung_at = float("-inf")
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """Return why writing does not work; None where it does. Asked again within a second, it tells the same."""
        async with self._lock:
            if asyncio.get_running_loop().time() - self._sung_at > _FRESH_SECONDS:
                self._problem = await self._write()
                self._sung_at = asyncio.get_running_loop().time()
            return self._problem

    async def _write(self) -> str | None:
        subject = self._publication.subject
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._broker.publish(self._publication)
        except SubjectTaken:
            return None
        except TimeoutError:
            return f"a write to {subject} was not answered within {_ANSWER_SECONDS:g} s"
        except BrokerError as error:
            return f"a write to {subject} failed: {type(error).__name__}: {error}"
        return None
