"""Takes one queue's tasks, as many as there are free slots, and executes them."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from ironflow.broker.protocol import Broker, Delivery, Puller
from ironflow.logs import get_logger
from ironflow_worker.slots import Slot, Slots

_log = get_logger("ironflow.worker")

Execute = Callable[[str, Delivery, Slot], Coroutine[Any, Any, None]]


class QueueRunner:
    """The slots of one queue, or of one shard of it.

    Args:
        broker: the connection.
        stream: the stream of tasks.
        queue: the queue, whose consumer has its name.
        slots: how many tasks are executed at a time.
        execute: executes one task, in a slot that it takes; hands it back itself where that fails.

        count_running: gets how many passes more go on, or with a minus how many fewer.

    Attributes:
        stream: as above.
        queue: as above.

    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        queue: str,
        slots: int,
        execute: Execute,
        count_running: Callable[[int], object] = bool,
    ) -> None:
        self._broker = broker
        self.stream = stream
        self.queue = queue
        self._most_at_once = slots
        self._slots = Slots(slots, self._ask, count_running)
        self._execute = execute
        self._passes: dict[asyncio.Task[None], Delivery] = {}
        self._puller: Puller | None = None
        self._draining = False

    @property
    def is_pulling(self) -> bool:
        """Whether the server knows how many tasks this worker takes; with all slots taken, none."""
        return self._puller is not None and self._puller.is_served

    async def run(self) -> None:
        """Take and execute tasks until cancelled; leaving hands back what was not begun."""
        async with self._broker.pull(self.stream, self.queue) as puller:
            self._puller = puller
            self._slots.fill()
            while True:
                for delivery in await puller.batch(self._most_at_once):
                    self._begin(delivery)

    def withdraw(self) -> None:
        """Take no more tasks."""
        self._draining = True
        if self._puller is not None:
            self._puller.withdraw()

    async def finish(self) -> None:
        """Return when no task is being executed."""
        while self._passes:
            await asyncio.wait(self._passes)

    async def give_up(self) -> None:
        """Take no more tasks, stop those that are being executed, and hand them back."""
        self.withdraw()
        for task, delivery in self._passes.items():
            if _is_unbegun(task):  # what is cancelled before it begins cannot hand anything back
                delivery.nak()
            task.cancel()
        await asyncio.gather(*self._passes, return_exceptions=True)

    def _begin(self, delivery: Delivery) -> None:
        if self._draining:
            delivery.nak()
            return
        slot = self._slots.come()
        task = asyncio.get_running_loop().create_task(self._execute(self.queue, delivery, slot))
        self._passes[task] = delivery
        task.add_done_callback(functools.partial(self._end, slot))

    def _end(self, slot: Slot, task: asyncio.Task[None]) -> None:
        del self._passes[task]
        if not task.cancelled() and task.exception() is not None:
            # The executor hands tasks back by itself; what comes out of it nevertheless is a mistake of ours.
            _log.error("executing a task failed", queue=self.queue, exc_info=task.exception())
        slot.leave()

    def _ask(self, tasks: int) -> None:
        if self._puller is not None and not self._draining:
            self._puller.request(tasks)


def _is_unbegun(task: asyncio.Task[None]) -> bool:
    coro = task.get_coro()
    return inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
