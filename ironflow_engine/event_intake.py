"""Published events start runs."""

from __future__ import annotations

from collections.abc import Sequence

from ironflow.broker.protocol import Broker, Delivery
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow.records import EventRecord
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import Fact
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.intake import Intake


class EventIntake(Intake):
    """Takes events from EVENTS.

    Args:
        broker: the connection.
        conductor: applies the facts.
        names: the namespace.
        functions: the registered functions.

    """

    def __init__(self, broker: Broker, conductor: Conductor, names: Names, functions: FunctionStore) -> None:
        super().__init__(broker, conductor, stream=names.events, consumer=ENGINE_CONSUMER)
        self._functions = functions

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Match each event with the functions as they are now."""
        matcher = await self._functions.current()
        facts: list[tuple[Delivery, list[Fact]]] = []
        for delivery in batch:
            try:
                event = decode_record(EventRecord, delivery.payload)
            except SerializationError as error:
                self.unreadable(delivery, error)
                facts.append((delivery, []))
            else:
                facts.append((delivery, [*matcher.starts(event, delivery.sequence, delivery.time_ms)]))
        return facts
