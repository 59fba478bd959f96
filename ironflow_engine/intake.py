"""Takes messages in batches and acknowledges them once their effects are stored."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

import structlog

from ironflow.broker.protocol import Broker, BrokerError, Delivery, Puller
from ironflow.broker.topology import ENGINE_ACK_WAIT_SECONDS
from ironflow.errors import SerializationError
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact

_log = structlog.get_logger("ironflow.engine")

BATCH = 500
TRY_AGAIN_SECONDS = 1.0
_MISTAKE_SECONDS = 10.0
_RENEW_SECONDS = ENGINE_ACK_WAIT_SECONDS / 3


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
        self.stream = stream
        # Made now, so that its first count is an increase and not the begin of a series.
        self._unreadable = conductor.metrics.unreadable.labels(stream)
        self._consumer = consumer
        self._prefetch = prefetch
        self._in_hand: set[str] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self.progress = asyncio.Event()
        """Set after each batch; whoever waits for progress clears it first."""
        self._puller: Puller | None = None

    @property
    def is_pulling(self) -> bool:
        """Whether the server knows that this engine takes messages."""
        return self._puller is not None and self._puller.is_served

    async def run(self) -> None:
        """Take batches until cancelled; what is cancelled half-way is delivered again."""
        async with self.broker.pull(self.stream, self._consumer) as puller:
            self._puller = puller
            puller.request(self._prefetch)
            while True:
                batch = await puller.batch(BATCH)
                self._conductor.metrics.batch_messages.labels(self.stream).observe(len(batch))
                with self._kept(batch):
                    await self._process(batch)
                puller.request(len(batch))
                self.progress.set()

    async def _process(self, batch: Sequence[Delivery]) -> None:
        try:
            await self._apply(batch)
        except asyncio.CancelledError:
            # Other engines need not wait until our lease ends.
            self.hand_back(0.0, *batch)
            raise
        except BrokerError as error:
            _log.warning("batch not processed, it will come again", stream=self.stream, reason=str(error))
            self.hand_back(TRY_AGAIN_SECONDS, *batch)
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
            _log.exception("batch not processed, its messages come again", stream=self.stream, messages=len(batch))
            # A message that we fail on, which is a mistake of ours, must not hold up the others.
            if len(batch) > 1:
                for delivery in batch:
                    await self._process([delivery])
            else:
                self.hand_back(_MISTAKE_SECONDS, *batch)

    async def _apply(self, batch: Sequence[Delivery]) -> None:
        facts = await self.facts_of(batch)
        applied = [fact for _, found in facts for fact in found]
        failures = await self._conductor.apply(applied)
        failures |= await self.conclude([fact for fact in applied if fact.run not in failures])
        for delivery, found in facts:
            if any(fact.run in failures for fact in found):
                self.hand_back(TRY_AGAIN_SECONDS, delivery)
            else:
                delivery.ack()

    @abstractmethod
    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Return what each delivery means; one that means nothing has no facts and is acknowledged."""

    async def conclude(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:  # noqa: ARG002 - most do nothing
        """Do what remains once facts are applied; return the runs for which it could not be done, and why."""
        return {}

    def hand_back(self, delay_seconds: float, *deliveries: Delivery) -> None:
        """Have messages delivered again."""
        for delivery in deliveries:
            self._in_hand.discard(delivery.lease)
            delivery.nak(delay_seconds)

    @contextlib.contextmanager
    def _kept(self, batch: Sequence[Delivery]) -> Generator[None]:
        """Keep the leases of a batch while the block runs, but for what is handed back meanwhile."""
        self._in_hand = {delivery.lease for delivery in batch}
        self._renewal = asyncio.get_running_loop().call_later(_RENEW_SECONDS, self._renew)
        try:
            yield
        finally:
            self._renewal.cancel()

    def _renew(self) -> None:
        for lease in self._in_hand:
            self.broker.renew(lease)
        self._renewal = asyncio.get_running_loop().call_later(_RENEW_SECONDS, self._renew)

    def unreadable(self, delivery: Delivery, error: SerializationError) -> None:
        """Say that a message cannot be read. It is acknowledged, since it never will be."""
        self._unreadable.inc()
        _log.error(
            "unreadable message dropped", subject=delivery.subject, sequence=delivery.sequence, reason=str(error)
        )
