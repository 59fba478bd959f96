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
_MISTAKE_SECONDS = 10.0


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
            await self._apply(batch)
        except asyncio.CancelledError:
            # Other engines need not wait until our lease ends.
            _hand_back(batch, 0.0)
            raise
        except BrokerError as error:
            _log.warning("batch not processed, it will come again", stream=self._stream, reason=str(error))
            _hand_back(batch, TRY_AGAIN_SECONDS)
        except Exception:
            _log.exception("batch not processed, its messages come again", stream=self._stream, messages=len(batch))
            # A message that we fail on, which is a mistake of ours, must not hold up the others.
            if len(batch) > 1:
                for delivery in batch:
                    await self._process([delivery])
            else:
                _hand_back(batch, _MISTAKE_SECONDS)

    async def _apply(self, batch: Sequence[Delivery]) -> None:
        facts = await self.facts_of(batch)
        failures = await self._conductor.apply([fact for _, found in facts for fact in found])
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
        _log.error(
            "unreadable message dropped", subject=delivery.subject, sequence=delivery.sequence, reason=str(error)
        )


def _hand_back(batch: Sequence[Delivery], delay_seconds: float) -> None:
    for delivery in batch:
        delivery.nak(delay_seconds)
