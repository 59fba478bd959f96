"""Takes messages in batches and acknowledges them once their effects are stored."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

import structlog

from ironflow.broker.protocol import Broker, BrokerError, Delivery
from ironflow.errors import SerializationError
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact

_log = structlog.get_logger("ironflow.engine")

BATCH = 500
TRY_AGAIN_SECONDS = 1.0


class Intake(ABC):
    """One consumer's loop: take a batch, turn it into facts, apply them, acknowledge.

    Args:
        broker: the connection.
        conductor: applies the facts.
        stream: the stream to take from.
        consumer: its consumer.
        prefetch: how many deliveries may be on their way to us.

    """

    def __init__(
        self, broker: Broker, conductor: Conductor, *, stream: str, consumer: str, prefetch: int = 2 * BATCH
    ) -> None:
        self.broker = broker
        self._conductor = conductor
        self._stream = stream
        self._consumer = consumer
        self._prefetch = prefetch
        self.progress = asyncio.Event()
        """Set after each batch; whoever waits for progress clears it first."""

    async def run(self) -> None:
        """Take batches until cancelled; what is cancelled half-way is delivered again."""
        async with self.broker.pull(self._stream, self._consumer) as puller:
            puller.request(self._prefetch)
            while True:
                batch = await puller.batch(BATCH)
                await self._process(batch)
                puller.request(len(batch))
                self.progress.set()

    async def _process(self, batch: Sequence[Delivery]) -> None:
        try:
            facts = await self.facts_of(batch)
            failures = await self._conductor.apply([fact for _, found in facts for fact in found])
        except BrokerError as error:
            _log.warning("batch not processed, it will come again", stream=self._stream, reason=str(error))
            for delivery in batch:
                delivery.nak(TRY_AGAIN_SECONDS)
            return
        for delivery, found in facts:
            if any(fact.run in failures for fact in found):
                delivery.nak(TRY_AGAIN_SECONDS)
            else:
                delivery.ack()

    @abstractmethod
    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Return what each delivery means; one that means nothing has no facts and is acknowledged."""

    def unreadable(self, delivery: Delivery, error: SerializationError) -> None:
        """Say that a message cannot be read. It is acknowledged, since it never will be."""
        _log.error("unreadable message dropped", subject=delivery.subject, sequence=delivery.sequence, reason=str(error))
