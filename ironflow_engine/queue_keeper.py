"""Keeps the consumers of queues: without one, no worker gets a task, and all of them wait for it."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import (
    Ambiguous,
    Broker,
    BrokerError,
    ConsumerSpec,
    NoSuchStream,
    StorageFull,
    Unavailable,
)
from ironflow.broker.topology import queue_consumers
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow_engine.function_store import FunctionStore, queues_of

_log = get_logger("ironflow.engine")

MOST_UNCHANGED = 7
"""So often in a row the number of consumers is taken for proof that they are those of before. One that was deleted may
have been made up for by somebody else's, so that each is looked at once a minute all the same."""
AT_ONCE = 20
"""So many are asked for at a time: with a thousand queues, all at once would hold up what else is asked."""

_Standing = tuple[tuple[ConsumerSpec, ...], tuple[tuple[str, int], ...]]


class QueueKeeper:
    """Makes consumers of queues anew that somebody has deleted, which workers cannot.

    The first time that it looks, it also brings those that exist to their settings: whoever has changed them by hand
    gets them back with an engine that starts.

    Those of the engines are left to whoever restarts one: they begin with all that their streams hold, and events of
    the past may start runs of functions that were not there then. A queue holds what is still to be done.

    How many consumers a stream has says in one answer what would else be a question for each queue.

    Args:
        broker: the connection.
        names: the namespace.
        functions: the registered functions.
        lease_seconds: how long a worker keeps a task without renewing it.

    Attributes:
        has_looked: whether it has looked at all of them once.

    """

    def __init__(self, broker: Broker, names: Names, functions: FunctionStore, lease_seconds: float) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._lease_seconds = lease_seconds
        self._complete: _Standing | None = None
        """How it was when nothing was missing."""
        self._unchanged = 0
        self._set_up: set[ConsumerSpec] = set()
        """Those whose settings were brought in, or cannot be."""
        self.has_looked = False

    async def restore(self) -> None:
        """Make what is missing; where that does not work, say so and leave it to the next time."""
        try:
            standing = await self._standing()
            if standing == self._complete and self._unchanged < MOST_UNCHANGED:
                self._unchanged += 1
                return
            self._complete, self._unchanged = None, 0
            consumers, _ = standing
            if not await self._restore_all(consumers):
                self._complete = standing
            self.has_looked = True
        except BrokerError as error:
            _log.warning("queues not looked at, will be tried again", reason=f"{type(error).__name__}: {error}")

    async def _standing(self) -> _Standing:
        """Return what consumers there shall be, and for each stream of tasks when it was made and how many it has."""
        functions = list((await self._functions.current()).functions.values())
        wanted = tuple(
            consumer
            for queue in queues_of(functions)
            for consumer in queue_consumers(self._names, queue, self._lease_seconds)
        )
        states = await asyncio.gather(*(self._broker.stream_state(shard.tasks) for shard in self._names.all_shards))
        return wanted, tuple((state.created, state.consumers) for state in states)

    async def _restore_all(self, consumers: tuple[ConsumerSpec, ...]) -> int:
        """Make what is missing of these; return how many that were."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def guarded(consumer: ConsumerSpec) -> bool:
            async with slots:
                return await self._restore(consumer)

        return sum(await asyncio.gather(*map(guarded, consumers)))

    async def _restore(self, consumer: ConsumerSpec) -> bool:
        """Make a consumer where it is missing; return whether it was."""
        try:
            await self._broker.consumer_state(consumer.stream, consumer.name)
        except NoSuchStream:
            await self._broker.ensure_consumer(consumer)
            _log.warning(
                "the consumer of a queue was missing and is made anew; what workers had in hand is delivered again",
                consumer=consumer.name,
                stream=consumer.stream,
            )
            self._set_up.add(consumer)
            return True
        if consumer not in self._set_up:
            await self._bring_to_settings(consumer)
        return False

    async def _bring_to_settings(self, consumer: ConsumerSpec) -> None:
        try:
            await self._broker.ensure_consumer(consumer)
        except (Ambiguous, StorageFull, Unavailable):
            raise  # it may be done in a moment
        except BrokerError as error:
            _log.warning("the consumer of a queue stays as it is", reason=str(error))
        self._set_up.add(consumer)
