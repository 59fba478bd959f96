"""An executor without a worker around it, and tasks to hand to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Broker
from ironflow.broker.topology import queue_consumers, streams
from ironflow.function import Function
from ironflow.names import Names
from ironflow_worker.bodies import Bodies
from ironflow_worker.cancellations import Cancellations
from ironflow_worker.executor import Executor
from ironflow_worker.leases import Leases
from ironflow_worker.metrics import Metrics
from ironflow_worker.presence import Presence
from ironflow_worker.slots import Slot, Slots


class Handed:
    """A delivery of a task that notes what becomes of it.

    Args:
        payload: the task.
        subject: where it stood in the queue.
        time_ms: when it was stored, in server time.
        delivered: how often it was handed out.

    Attributes:
        answers: how it was acknowledged or handed back.

    """

    sequence = 1

    def __init__(
        self, payload: bytes, *, subject: str = "test.tasks.q.r.0", time_ms: int = 0, delivered: int = 1
    ) -> None:
        self.payload = payload
        self.subject = subject
        self.time_ms = time_ms
        self.delivered = delivered
        self.lease = f"lease of {subject}"
        self.answers: list[str] = []

    def ack(self) -> None:
        """Note it."""
        self.answers.append("ack")

    def nak(self, delay_seconds: float = 0.0) -> None:
        """Note it."""
        self.answers.append(f"nak {delay_seconds:g}")


@contextlib.asynccontextmanager
async def a_queue(names: Names, queue: str) -> AsyncGenerator[tuple[LocalServer, LocalBroker]]:
    """Have a server with the streams of a namespace and the consumers of a queue, and a connection to it."""
    server = LocalServer()
    broker = server.connect()
    for stream in streams(names):
        await broker.ensure_stream(stream)
    for consumer in queue_consumers(names, queue):
        await broker.ensure_consumer(consumer)
    yield server, broker
    server.interceptor = None
    await broker.close()


def a_slot() -> Slot:
    """Return a slot that nobody else wants."""
    slots = Slots(1, lambda _: None)
    slots.fill()
    return slots.come()


def an_executor(
    broker: Broker,
    names: Names,
    functions: Mapping[str, Function[Any, Any]],
    cancellations: Cancellations | None = None,
    now_ms: Callable[[], int] = lambda: 0,
) -> Executor:
    """Return an executor to which nothing happens by chance."""
    return Executor(
        broker,
        names,
        functions,
        Bodies(ThreadPoolExecutor(1)),
        Leases(),
        Presence(broker, names, "w"),
        Metrics(),
        cancellations or Cancellations(broker, names),
        worker_id="w",
        make_token=lambda: "of this pass",
        chance=lambda: 0.5,
        now_ms=now_ms,
        monotonic=asyncio.get_running_loop().time,
    )
