"""Measures what waits, when a scrape asks for it."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker, BrokerError
from ironflow.logs import get_logger
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow_engine.fullness import queue_state, stored_in
from ironflow_engine.function_store import FunctionStore, queues_of
from ironflow_engine.history import Archive
from ironflow_engine.metrics import Metrics
from ironflow_engine.status import archive_view
from ironflow_engine.wait_store import WaitStore

_log = get_logger("ironflow.engine")


class Gauges:
    """What waits in a namespace: tasks, messages to the engines and to the archive, waits for events, timers.

    Args:
        broker: the connection.
        names: the namespace.
        functions: the registered functions, which have the queues.
        waits: the open waits.
        metrics: what to bring up to date.
        archive: what outlives the streams.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        functions: FunctionStore,
        waits: WaitStore,
        metrics: Metrics,
        archive: Archive | None = None,
    ) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._waits = waits
        self._metrics = metrics
        self._archive = archive

    async def sample(self) -> None:
        """Measure; what cannot be measured keeps its last value."""
        names = self._names
        intakes = (self._intake(stream) for stream in names.consumed_streams)
        results = await asyncio.gather(
            self._queues(), self._open_waits(), self._timers(), self._archived(), *intakes, return_exceptions=True
        )
        for result in results:
            if isinstance(result, BrokerError):
                _log.debug("not measured", reason=str(result))
            elif result is not None:
                raise result

    async def _queues(self) -> None:
        queues = queues_of(list((await self._functions.current()).functions.values()))
        states = await asyncio.gather(*(queue_state(self._broker, self._names, queue) for queue in queues))
        # All are known now, so those of before can go: a queue whose last function was deleted is gone.
        for gauge in (self._metrics.queue_waiting, self._metrics.queue_running):
            gauge.clear()
        for queue, state in zip(queues, states, strict=True):
            if state is not None:
                self._metrics.queue_waiting.labels(queue).set(state.pending)
                self._metrics.queue_running.labels(queue).set(state.ack_pending)

    async def _intake(self, stream: str) -> None:
        state = await self._broker.consumer_state(stream, ENGINE_CONSUMER)
        self._metrics.intake_pending.labels(stream).set(state.pending + state.ack_pending)

    async def _open_waits(self) -> None:
        self._metrics.open_waits.set(await self._waits.count())

    async def _archived(self) -> None:
        view = await archive_view(self._archive, self._broker)
        if view is None:
            return
        self._metrics.archive_unreachable.set(view.problem is not None)
        if view.problem is None:
            self._metrics.archive_pending.set(view.behind)

    async def _timers(self) -> None:
        timers = (shard.timers for shard in self._names.all_shards)
        self._metrics.timers.set(await stored_in(self._broker, timers))
