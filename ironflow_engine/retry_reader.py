"""Reads what the retry of a run means from the run's journal."""

from __future__ import annotations

from ironflow.broker.protocol import Broker, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import Names, check_step_key, mark, parse_journal
from ironflow.records import WaitRecord
from ironflow_engine.facts import RunRetried, WaitRecorded


class RetryReader:
    """Makes facts of recorded retries.

    A retry means what stood in the journal before it. That never changes, so whoever reads it, and whenever,
    comes to the same fact.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names

    async def read(self, subject: str, sequence: int, time_ms: int) -> RunRetried:
        """Return the fact of a retry. It costs what the run has waited for.

        Args:
            subject: where it is recorded.
            sequence: where that stands in the journal.
            time_ms: when it was stored there.

        Raises:
            BrokerError: the run's journal cannot be read.
            SerializationError: the subject does not say which retry it is.

        """
        address = parse_journal(subject)
        epoch = address.number
        waits = [_wait_fact(message) for message in await self._before(sequence, address.queue, address.run, "wait")]
        known = [wait for wait in waits if wait is not None]
        ended: set[str] = set()
        closed: set[str] = set()
        if known:
            ended = await self._steps(sequence, address.queue, address.run, "step")
            closed = await self._steps(sequence, address.queue, address.run, "closed")
        return RunRetried(
            run=address.run,
            queue=address.queue,
            epoch=epoch,
            sequence=sequence,
            time_ms=time_ms,
            sleeps=tuple(wait for wait in known if wait.record.kind == "sleep" and wait.step not in ended | closed),
            ended_waits=frozenset(
                mark(wait.step) for wait in known if wait.record.kind == "wait_for_event" and wait.step in ended
            ),
        )

    async def _steps(self, sequence: int, queue: str, run: str, kind: str) -> set[str]:
        """Return the keys of the steps of which that kind of record stood in the journal."""
        return {parse_journal(message.subject).step for message in await self._before(sequence, queue, run, kind)}

    async def _before(self, sequence: int, queue: str, run: str, kind: str) -> list[StoredMessage]:
        wanted = self._names.journal_of_run(queue, run, kind)
        return [
            message
            async for page in self._broker.read(self._names.shard_of(run).journal, wanted, one_each=True)
            for message in page
            if message.sequence < sequence
        ]


def _wait_fact(message: StoredMessage) -> WaitRecorded | None:
    address = parse_journal(message.subject)
    try:
        step = check_step_key(address.step)
        record = decode_record(WaitRecord, message.payload)
    except SerializationError:
        return None  # nobody has set a timer for it either
    return WaitRecorded(
        run=address.run,
        queue=address.queue,
        step=step,
        record=record,
        sequence=message.sequence,
        time_ms=message.time_ms,
    )
