"""Facts that workers record move runs on."""

from __future__ import annotations

from collections.abc import Sequence

from ironflow.broker.protocol import Broker, Delivery, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import ENGINE_CONSUMER, Names, check_step_key, parse_journal
from ironflow.records import ClosedRecord, OutcomeRecord, TryRecord, WaitRecord
from ironflow.shards import Shard
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact, OutcomeRecorded, TryRecorded, WaitClosed, WaitRecorded
from ironflow_engine.intake import Intake
from ironflow_engine.retry_reader import RetryReader


class JournalIntake(Intake):
    """Takes waits, tries, outcomes, retries and the like from the JOURNAL of a shard.

    Args:
        broker: the connection.
        conductor: applies the facts.
        names: the namespace.
        shard: the one whose journal it is.

    """

    def __init__(self, broker: Broker, conductor: Conductor, names: Names, shard: Shard) -> None:
        super().__init__(broker, conductor, stream=shard.journal, consumer=ENGINE_CONSUMER)
        self._retries = RetryReader(broker, names)

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Read each record as the fact that its subject says it is."""
        facts: list[tuple[Delivery, list[Fact]]] = []
        for delivery in batch:
            try:
                facts.append((delivery, [await self._fact(delivery)]))
            except SerializationError as error:
                self.unreadable(delivery, error)
                facts.append((delivery, []))
        return facts

    async def _fact(self, delivery: Delivery) -> Fact:
        if parse_journal(delivery.subject).kind == "retry":
            return await self._retries.read(delivery.subject, delivery.sequence, delivery.time_ms)
        return read_fact(delivery)


def read_fact(delivery: Delivery | StoredMessage) -> Fact:
    """Return the fact that a journal message records by itself.

    Raises:
        SerializationError: it cannot be read.

    """
    address = parse_journal(delivery.subject)
    match address.kind:
        case "outcome":
            return OutcomeRecorded(
                run=address.run,
                queue=address.queue,
                record=decode_record(OutcomeRecord, delivery.payload),
                sequence=delivery.sequence,
                time_ms=delivery.time_ms,
            )
        case "wait":
            return WaitRecorded(
                run=address.run,
                queue=address.queue,
                step=check_step_key(address.step),
                record=decode_record(WaitRecord, delivery.payload),
                sequence=delivery.sequence,
                time_ms=delivery.time_ms,
            )
        case "closed":
            return WaitClosed(
                run=address.run,
                queue=address.queue,
                step=check_step_key(address.step),
                wait=decode_record(ClosedRecord, delivery.payload).wait,
            )
        case "try":
            return TryRecorded(
                run=address.run,
                queue=address.queue,
                step=check_step_key(address.step),
                record=decode_record(TryRecord, delivery.payload),
                sequence=delivery.sequence,
                time_ms=delivery.time_ms,
            )
        case _:
            msg = f"nothing is known of journal records like {delivery.subject}"
            raise SerializationError(msg)
