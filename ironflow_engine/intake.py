"""Takes messages in batches and acknowledges them once their effects are stored."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from ironflow.broker.protocol import Broker, BrokerError, Delivery, MessageTooLarge, Puller
from ironflow.broker.topology import ENGINE_ACK_WAIT_SECONDS
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact, RegisterWait

_log = get_logger("ironflow.engine")

BATCH = 150
"""Of larger batches a message costs little less, and whoever comes next waits longer."""
TRY_AGAIN_SECONDS = 1.0
_MISTAKE_SECONDS = 10.0
_TOO_LARGE_SECONDS = 60.0
"""No waiting helps what NATS does not carry, until somebody lets it carry more."""
_AT_ONCE = 2
"""So many batches keep the server busy; more of them would only be smaller, and each has its fixed cost."""
_RENEW_SECONDS = ENGINE_ACK_WAIT_SECONDS / 3


class Intake(ABC):
    """One consumer's loop: take a batch, turn it into facts, apply them, acknowledge.

    Args:
        broker: the connection.
        conductor: applies the facts.
        stream: the stream to take from.
        consumer: its consumer.
        prefetch: how many deliveries may be on their way to us.
        seconds: tells how time goes by, also while the process is stopped.

    """

    def __init__(
        self,
        broker: Broker,
        conductor: Conductor,
        *,
        stream: str,
        consumer: str,
        prefetch: int = 2 * BATCH,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker = broker
        self._conductor = conductor
        self.stream = stream
        # Made now, so that its first count is an increase and not the begin of a series.
        self._unreadable = conductor.metrics.unreadable.labels(stream)
        self._count_batch = conductor.metrics.batch_sizes(stream)
        self._consumer = consumer
        self._prefetch = prefetch
        self._seconds = seconds
        self._in_hand: dict[str, Delivery] = {}
        self._lapsed: set[str] = set()
        """The leases of those in hand that may have lapsed, since this process was stopped for so long."""
        self._renewed_at = 0.0
        self._applying: dict[asyncio.Task[None], set[str] | None] = {}
        """The batches that are being applied, each with the runs that it is about; None where that may be any run."""
        self._looking_back: set[asyncio.Task[None]] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self.progress = asyncio.Event()
        """Set after each batch; whoever waits for progress clears it first."""
        self.has_left = False
        """Whether no progress comes any more."""
        self._puller: Puller | None = None

    @property
    def is_pulling(self) -> bool:
        """Whether the server knows that this engine takes messages."""
        return self._puller is not None and self._puller.is_served

    @property
    def is_applying(self) -> bool:
        """Whether a batch is being applied."""
        return bool(self._applying)

    async def run(self) -> None:
        """Take batches until cancelled; what is cancelled half-way is delivered again.

        While the server stores what one batch has come to, the next one is read and applied, unless they are about
        the same run.
        """
        async with self.broker.pull(self.stream, self._consumer) as puller:
            self._puller = puller
            puller.request(self._prefetch)
            try:
                while True:
                    await self._begin(await puller.batch(BATCH))
            finally:
                await self._leave()

    async def _begin(self, batch: Sequence[Delivery]) -> None:
        """Read a batch, and have it applied as soon as that may be."""
        self._count_batch(len(batch))
        self._keep(batch)
        facts = await self._read(batch)
        runs = {fact.run for _, found in facts for fact in found}
        await self._may_apply(runs)
        has_more = self.has_more(batch)
        task = asyncio.create_task(self._finish(batch, facts))
        self._applying[task] = None if has_more else runs
        task.add_done_callback(self._applying.pop)

    async def _read(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Return what a batch means, but for what is handed back because it cannot be read now."""
        try:
            return await self.facts_of(batch)
        except BrokerError as error:
            _log.warning("batch not processed, it will come again", stream=self.stream, reason=str(error))
            self.hand_back(TRY_AGAIN_SECONDS, *batch)
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
            self._tell_mistake(batch)
            if len(batch) > 1:
                return [fact for delivery in batch for fact in await self._read([delivery])]
            self.hand_back(_MISTAKE_SECONDS, *batch)
        return []

    async def _leave(self) -> None:
        """Stop what is being applied, and hand back what is in hand: other engines need not wait until leases end."""
        applying = [*self._applying, *self._looking_back]
        for task in applying:
            task.cancel()
        try:
            await asyncio.gather(*applying, return_exceptions=True)
        finally:
            self.hand_back(0.0, *self._in_hand.values())
            if self._renewal is not None:
                self._renewal.cancel()
            self.has_left = True
            self.progress.set()

    async def _may_apply(self, runs: set[str]) -> None:
        """Wait until few enough batches are being applied, and none about one of these runs: facts have an order."""
        while len(self._applying) >= _AT_ONCE or any(
            others is None or not runs.isdisjoint(others) for others in self._applying.values()
        ):
            await asyncio.wait(self._applying, return_when=asyncio.FIRST_COMPLETED)

    async def _finish(self, batch: Sequence[Delivery], facts: list[tuple[Delivery, list[Fact]]]) -> None:
        """Apply what a batch means, and let go of it but for what needs longer."""
        kept = await self._try_to_apply(facts)
        for delivery in batch:
            if delivery.lease not in kept:
                self._in_hand.pop(delivery.lease, None)
        self._lapsed &= self._in_hand.keys()
        if self._puller is not None:
            self._puller.request(len(batch))
        self.progress.set()

    async def _try_to_apply(self, facts: list[tuple[Delivery, list[Fact]]]) -> set[str]:
        """Apply facts, and return the leases that are kept, as much is still to be done about them.

        Where it fails, see to it that their deliveries come again.
        """
        batch = [delivery for delivery, _ in facts]
        try:
            return await self._apply(facts)
        except BrokerError as error:
            _log.warning("batch not processed, it will come again", stream=self.stream, reason=str(error))
            self.hand_back(TRY_AGAIN_SECONDS, *batch)
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
            self._tell_mistake(batch)
            if len(facts) > 1:
                return {lease for each in facts for lease in await self._try_to_apply([each])}
            self.hand_back(_MISTAKE_SECONDS, *batch)
        return set()

    def _tell_mistake(self, batch: Sequence[Delivery]) -> None:
        """Log a mistake of ours. The message that we make it about must not hold up the others, so each goes alone."""
        _log.exception("batch not processed, its messages come again", stream=self.stream, messages=len(batch))

    async def _apply(self, facts: list[tuple[Delivery, list[Fact]]]) -> set[str]:
        later: list[RegisterWait] = []
        failures = await self._apply_all(facts, later)
        more = await self.more_facts(facts)
        failures |= await self._apply_all(more, later)
        deliveries = [
            (delivery, {fact.run for fact in (*found, *others)})
            for (delivery, found), (_, others) in zip(facts, more, strict=True)
        ]
        waiting = {wait.entry.run for wait in later} - failures.keys()
        kept = [each for each in deliveries if waiting & each[1]] if waiting else []
        self._finish_with([each for each in deliveries if each not in kept], failures)
        if not kept:
            return set()
        # Many events may have to be looked at for it, and others do not wait so long.
        task = asyncio.create_task(self._look_back(kept, later))
        self._looking_back.add(task)
        task.add_done_callback(self._looking_back.discard)
        return {delivery.lease for delivery, _ in kept}

    def _finish_with(self, deliveries: Sequence[tuple[Delivery, set[str]]], failures: dict[str, BrokerError]) -> None:
        self._see_what_lapsed()
        for delivery, runs in deliveries:
            failed = [failures[run] for run in runs & failures.keys()]
            if delivery.lease in self._lapsed:
                # Another engine may have it, and have died over what its own effects were to be.
                self.hand_back(0.0, delivery)
            elif not failed:
                self.let_go(delivery)
            elif all(isinstance(failure, MessageTooLarge) for failure in failed):
                self.hand_back(_TOO_LARGE_SECONDS, delivery)
            else:
                self.hand_back(TRY_AGAIN_SECONDS, delivery)

    async def _look_back(self, kept: list[tuple[Delivery, set[str]]], waits: list[RegisterWait]) -> None:
        """See whether events came before new waits, and only then let go of what registered these."""
        try:
            self._finish_with(kept, await self._conductor.look_back(waits))
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
            batch = [delivery for delivery, _ in kept]
            self._tell_mistake(batch)
            self.hand_back(_MISTAKE_SECONDS, *batch)
        for delivery, _ in kept:
            self._in_hand.pop(delivery.lease, None)
        self.progress.set()

    async def _apply_all(
        self, facts: Sequence[tuple[Delivery, list[Fact]]], later: list[RegisterWait]
    ) -> dict[str, BrokerError]:
        applied = [fact for _, found in facts for fact in found]
        if not applied:
            return {}
        failures = await self._conductor.apply(applied, self.rest_after(facts), later)
        more = await self.conclude([fact for fact in applied if fact.run not in failures])
        return self.worth_another_try(applied, failures) | more

    @abstractmethod
    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Return what each delivery means; one that means nothing has no facts and is acknowledged."""

    def has_more(self, batch: Sequence[Delivery]) -> bool:  # noqa: ARG002 - most have not
        """Tell whether some deliveries of a batch mean more than was found at once, and perhaps about any run."""
        return False

    async def more_facts(self, facts: Sequence[tuple[Delivery, list[Fact]]]) -> list[tuple[Delivery, list[Fact]]]:
        """Return what else each delivery means, once *facts* are applied."""
        return [(delivery, []) for delivery, _ in facts]

    def rest_after(self, facts: Sequence[tuple[Delivery, list[Fact]]]) -> Callable[[], Awaitable[None]] | None:  # noqa: ARG002 - most do not
        """Return what waits once all is done about facts that is urgent; None for nothing."""
        return None

    def worth_another_try(
        self,
        facts: Sequence[Fact],  # noqa: ARG002 - most try all of them again
        failures: dict[str, BrokerError],
    ) -> dict[str, BrokerError]:
        """Return those of the runs whose facts could not be applied for which it may help to try again."""
        return failures

    async def conclude(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:  # noqa: ARG002 - most do nothing
        """Do what remains once facts are applied; return the runs for which it could not be done, and why."""
        return {}

    def let_go(self, delivery: Delivery) -> None:
        """Be done with a message whose facts are applied."""
        delivery.ack()

    def hand_back(self, delay_seconds: float, *deliveries: Delivery) -> None:
        """Have messages delivered again."""
        for delivery in deliveries:
            self._in_hand.pop(delivery.lease, None)
            delivery.nak(delay_seconds)

    def _keep(self, batch: Sequence[Delivery]) -> None:
        """Keep the leases of a batch until it is let go of."""
        if not self._in_hand:
            self._renewed_at = self._seconds()
        self._in_hand |= {delivery.lease: delivery for delivery in batch}
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().call_later(_RENEW_SECONDS, self._renew)

    def _renew(self) -> None:
        """Renew what is in hand; with nothing in hand no timer is set."""
        self._renewal = None
        self._see_what_lapsed()
        self._renewed_at = self._seconds()
        for lease in self._in_hand:
            self.broker.renew(lease)
        if self._in_hand:
            self._renewal = asyncio.get_running_loop().call_later(_RENEW_SECONDS, self._renew)

    def _see_what_lapsed(self) -> None:
        if self._seconds() - self._renewed_at > ENGINE_ACK_WAIT_SECONDS:
            self._lapsed |= self._in_hand.keys()

    def unreadable(self, delivery: Delivery, error: SerializationError) -> None:
        """Say that a message cannot be read. It is acknowledged, since it never will be."""
        self._unreadable.inc()
        _log.error(
            "unreadable message dropped", subject=delivery.subject, sequence=delivery.sequence, reason=str(error)
        )
