"""Gives up runs that no worker can do anything about, so that they show as failed and the queue flows on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ironflow.broker.protocol import Broker, BrokerError, Delivery
from ironflow.codec import decode_record
from ironflow.errors import SerializationError, named_error
from ironflow.journal import Journal
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.records import BeganRecord, ErrorRecord, EventRecord, ExcusedRecord, OutcomeRecord, Task
from ironflow_worker.memo import Losses, Memo
from ironflow_worker.metrics import Metrics
from ironflow_worker.poison import MOST_DELIVERIES, delay_seconds, last_outcome, worker_lost

_log = get_logger("ironflow.worker")

_EXCUSE_SECONDS = 1.0


class DeadLetters:
    """Hands tasks back that this worker can make nothing of, and in the end has their runs fail.

    Args:
        broker: the connection.
        names: the namespace.
        journal: records the ends.
        metrics: counts.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, names: Names, journal: Journal, metrics: Metrics, make_token: Callable[[], str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._journal = journal
        self._metrics = metrics
        self._make_token = make_token

    async def refuse(self, queue: str, delivery: Delivery, error: ErrorRecord, event: EventRecord | None) -> None:
        """Hand a task back for other workers to try; after enough of them have had it, have its run end.

        Nothing that the run did is undone: no worker can. It keeps that, and goes on from there once it is retried.
        """
        if delivery.delivered < MOST_DELIVERIES:
            delivery.nak(delay_seconds(delivery.delivered))
            return
        run, number = self._names.parse_task(delivery.subject)
        try:
            cause = await self._cause(queue, run)
        except BrokerError as trouble:
            _not_yet(run, delivery, trouble)
            return
        outcome = last_outcome(number, error, event, self._make_token(), cause=cause, undoable=False)
        await self._bury(queue, run, delivery, outcome, error)

    async def give_up(self, queue: str, task: Task, delivery: Delivery, memo: Memo, losses: Losses) -> None:
        """End a pass that costs one worker after the other; what the run did is undone, unless it cost them that."""
        error = worker_lost(losses)
        outcome = last_outcome(
            task.number,
            error,
            task.event if memo.event is None else None,
            self._make_token(),
            cause=memo.unwinding if task.mode == "compensate" else None,
            undoable=memo.has_results(),
        )
        await self._bury(queue, task.run, delivery, outcome, error)

    async def _bury(
        self, queue: str, run: str, delivery: Delivery, outcome: OutcomeRecord, reason: ErrorRecord
    ) -> None:
        """Record how the pass of a task has ended; the task is done with then."""
        try:
            await self._journal.append(self._names.journal_outcome(queue, run, outcome.number), outcome)
        except BrokerError as trouble:
            _not_yet(run, delivery, trouble)
            return
        delivery.ack()
        self._metrics.dead_letters.inc()
        _log.error("run given up", run=run, queue=queue, reason=named_error(reason.type, reason.message))

    async def _cause(self, queue: str, run: str) -> OutcomeRecord | None:
        """Return the outcome after which what a run did is undone; None where it is not about to be.

        Neither its task nor the rest of its journal need be readable.
        """
        newest: OutcomeRecord | None = None
        outcomes = self._names.journal_of_run(queue, run, "outcome")
        async for page in self._broker.read(self._names.shard_of(run).journal, outcomes, one_each=True):
            for message in page:
                with contextlib.suppress(SerializationError):
                    outcome = decode_record(OutcomeRecord, message.payload)
                    newest = newest if outcome.status == "suspended" else outcome
        return newest if newest is not None and newest.status == "compensating" else None

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


def _not_yet(run: str, delivery: Delivery, trouble: BrokerError) -> None:
    _log.warning("a run is to be given up, and cannot be yet", run=run, reason=str(trouble))
    delivery.nak(delay_seconds(1))
