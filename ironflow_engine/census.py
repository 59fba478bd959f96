"""Asks the workers who they are and what they execute now."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.messages import WorkerCensus
from ironflow.names import Names

_WINDOW_SECONDS = 0.15
_FRESH_SECONDS = 0.2


class Census:
    """The workers of one namespace, as they answered last.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._subject = names.worker_census
        self._lock = asyncio.Lock()
        self._taken_at = float("-inf")
        self._answers: list[WorkerCensus] = []

    async def workers(self) -> list[WorkerCensus]:
        """Return the workers that answer, by id; a census that was just taken is not taken again."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._taken_at > _FRESH_SECONDS:
                self._answers = await self._take()
                self._taken_at = asyncio.get_running_loop().time()
            return self._answers

    async def running(self) -> frozenset[str]:
        """Return the ids of the runs that a worker executes now."""
        return frozenset(run for answer in await self.workers() for run in answer.runs)

    async def _take(self) -> list[WorkerCensus]:
        answers: dict[str, WorkerCensus] = {}
        for payload in await self._broker.survey(self._subject, b"", _WINDOW_SECONDS):
            try:
                answer = decode_record(WorkerCensus, payload)
            except SerializationError:
                continue  # a worker of another version; it is no reason to show none
            answers[answer.worker.id] = answer
        return [answers[worker] for worker in sorted(answers)]
