"""Fired timers end waits and back-offs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ironflow.broker.protocol import Broker, BrokerError, Delivery
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.journal import Appended, Journal
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow.records import TERMINAL, DueRecord, StepRecord, TimerRecord
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact, Woken
from ironflow_engine.intake import Intake
from ironflow_engine.run_store import RunStore


class TimerIntake(Intake):
    """Takes fired timers from TIMERS and records what they end.

    A timer is only a hint: it may come twice, or after its run has ended. The journal's first write decides,
    and a refused one is folded all the same, with the record that stands there.

    Args:
        broker: the connection.
        conductor: applies the facts.
        names: the namespace.
        store: the run states.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, conductor: Conductor, names: Names, store: RunStore, make_token: Callable[[], str]
    ) -> None:
        super().__init__(broker, conductor, stream=names.timers, consumer=ENGINE_CONSUMER)
        self._names = names
        self._store = store
        self._journal = Journal(broker, names)
        self._make_token = make_token

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Record the end of each timer's wait; all of a batch at the same time."""
        return [
            (delivery, facts)
            for delivery, facts in zip(batch, await asyncio.gather(*map(self._end_wait, batch)), strict=True)
            if facts is not None
        ]

    async def _end_wait(self, delivery: Delivery) -> list[Fact] | None:
        """Return the facts of one timer; None where it was handed back."""
        try:
            timer = decode_record(TimerRecord, delivery.payload)
            version = self._store.remembered(timer.run) or await self._store.load(timer.run)
            state = version.state
            if state is None or state.status in TERMINAL or state.queue != timer.queue:
                return []
            appended = await self._record_end(timer, delivery.time_ms)
        except SerializationError as error:
            self.unreadable(delivery, error)
            return []
        except BrokerError:
            delivery.nak(1.0)
            return None
        return [Woken(run=timer.run, queue=timer.queue, sequence=appended.sequence)]

    async def _record_end(self, timer: TimerRecord, fired_ms: int) -> Appended:
        token = self._make_token()
        if timer.wait is None:
            subject = self._names.journal_due(timer.queue, timer.run, timer.step, timer.attempt)
            return await self._journal.append(subject, DueRecord(token=token))
        wait = timer.wait
        record = StepRecord(
            name=wait.name,
            kind=wait.kind,
            scope=wait.scope,
            token=token,
            duration_ms=max(0, fired_ms - timer.waiting_since_ms),
        )
        return await self._journal.append(self._names.journal_step(timer.queue, timer.run, timer.step), record)
