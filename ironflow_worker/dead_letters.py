"""Gives up runs that no worker can do anything about, so that they show as failed and the queue flows on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from ironflow.broker.protocol import BrokerError, Delivery
from ironflow.journal import Journal
from ironflow.names import Names
from ironflow.records import BeganRecord, ErrorRecord, EventRecord, ExcusedRecord, OutcomeRecord, Task
from ironflow_worker.memo import Losses
from ironflow_worker.metrics import Metrics
from ironflow_worker.poison import MOST_DELIVERIES, delay_seconds

_log = structlog.get_logger("ironflow.worker")

_EXCUSE_SECONDS = 1.0


class DeadLetters:
    """Hands tasks back that this worker can make nothing of, and in the end has their runs fail.

    Args:
        names: the namespace.
        journal: records the ends.
        metrics: counts.
        make_token: returns a new random mark.

    """

    def __init__(self, names: Names, journal: Journal, metrics: Metrics, make_token: Callable[[], str]) -> None:
        self._names = names
        self._journal = journal
        self._metrics = metrics
        self._make_token = make_token

    async def refuse(self, queue: str, delivery: Delivery, error: ErrorRecord, event: EventRecord | None) -> None:
        """Hand a task back for other workers to try; after enough of them have had it, have its run fail."""
        if delivery.delivered < MOST_DELIVERIES:
            delivery.nak(delay_seconds(delivery.delivered))
            return
        run, number = self._names.parse_task(delivery.subject)
        await self.bury(queue, run, number, delivery, error, event)

    async def bury(
        self, queue: str, run: str, number: int, delivery: Delivery, error: ErrorRecord, event: EventRecord | None
    ) -> None:
        """Have the run of a task fail; the task is done with then."""
        outcome = OutcomeRecord(number=number, status="failed", token=self._make_token(), error=error, event=event)
        try:
            await self._journal.append(self._names.journal_outcome(queue, run, number), outcome)
        except BrokerError as trouble:
            _log.warning("a run is to be given up, and cannot be yet", run=run, reason=str(trouble))
            delivery.nak(delay_seconds(1))
            return
        delivery.ack()
        self._metrics.dead_letters.inc()
        _log.error("run given up", run=run, queue=queue, reason=f"{error.type}: {error.message}")

    async def note_begun(self, queue: str, task: Task, losses: Losses, worker: str) -> int:
        """Record that a pass which came before is begun once more; return the how-manieth time that is.

        Raises:
            BrokerError: it cannot be recorded.

        """
        count = losses.begun + 1
        record = BeganRecord(token=self._make_token(), worker=worker)
        await self._journal.append(self._names.journal_began(queue, task.run, task.number, count), record)
        return count

    async def excuse(self, queue: str, task: Task, count: int) -> None:
        """Record that this worker has survived a pass that it hands back. If it cannot be, it counts as lost."""
        subject = self._names.journal_excused(queue, task.run, task.number, count)
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(_EXCUSE_SECONDS):
                await self._journal.append(subject, ExcusedRecord(token=self._make_token()))
