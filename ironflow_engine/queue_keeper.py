"""Keeps the consumers of queues: without one, no worker gets a task, and all of them wait for it."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker, BrokerError, ConsumerSpec, NoSuchStream
from ironflow.broker.topology import queue_consumers
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow_engine.function_store import FunctionStore, queues_of

_log = get_logger("ironflow.engine")


class QueueKeeper:
    """Makes consumers of queues anew that somebody has deleted, which workers cannot.

    Those of the engines are left to whoever restarts one: they begin with all that their streams hold, and events of
    the past may start runs of functions that were not there then. A queue holds what is still to be done.

    Args:
        broker: the connection.
        names: the namespace.
        functions: the registered functions.
        lease_seconds: how long a worker keeps a task without renewing it.

    """

    def __init__(self, broker: Broker, names: Names, functions: FunctionStore, lease_seconds: float) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._lease_seconds = lease_seconds

    async def restore(self) -> None:
        """Make what is missing; where that does not work, say so and leave it to the next time."""
        try:
            functions = list((await self._functions.current()).functions.values())
            wanted = [
                consumer
                for queue in queues_of(functions)
                for consumer in queue_consumers(self._names, queue, self._lease_seconds)
            ]
            await asyncio.gather(*map(self._restore, wanted))
        except BrokerError as error:
            _log.warning("queues not looked at, will be tried again", reason=f"{type(error).__name__}: {error}")

    async def _restore(self, consumer: ConsumerSpec) -> None:
        try:
            await self._broker.consumer_state(consumer.stream, consumer.name)
        except NoSuchStream:
            await self._broker.ensure_consumer(consumer)
            _log.warning(
                "the consumer of a queue was missing and is made anew; what workers had in hand is delivered again",
                consumer=consumer.name,
                stream=consumer.stream,
            )
