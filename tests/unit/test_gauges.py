"""What waits, as a scrape finds it while NATS answers and while it does not."""

from __future__ import annotations

from typing import Any, cast

from ironflow.broker.protocol import Broker, ConsumerState, Unavailable
from ironflow.names import Names
from ironflow.records import FunctionRecord
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.gauges import Gauges
from ironflow_engine.metrics import Metrics
from ironflow_engine.wait_store import WaitStore


class Nats:
    """As much of a broker as a scrape asks."""

    def __init__(self) -> None:
        self.queues = {"orders": 7, "mail": 3}
        self.away: set[str] = set()

    async def consumer_state(self, _stream: str, consumer: str) -> ConsumerState:
        if consumer in self.away:
            message = "no answer"
            raise Unavailable(message)
        return ConsumerState(self.queues.get(consumer, 0), 0, 0, 0, 0)

    async def stream_state(self, _stream: str) -> Any:
        message = "no answer"
        raise Unavailable(message)

    # The stores of functions and waits.

    async def current(self) -> Any:
        return self

    async def count(self) -> int:
        return 0

    @property
    def functions(self) -> dict[str, FunctionRecord]:
        return {queue: FunctionRecord(id=queue, queue=queue) for queue in self.queues}


def waiting(metrics: Metrics) -> dict[str, float]:
    (family,) = metrics.queue_waiting.collect()
    return {sample.labels["queue"]: sample.value for sample in family.samples}


async def test_what_cannot_be_measured_keeps_its_last_value_and_what_is_gone_goes() -> None:
    nats, metrics = Nats(), Metrics()
    gauges = Gauges(cast("Broker", nats), Names("test"), cast("FunctionStore", nats), cast("WaitStore", nats), metrics)
    await gauges.sample()
    assert waiting(metrics) == {"orders": 7, "mail": 3}
    nats.away.add("mail")
    nats.queues["orders"] = 8
    await gauges.sample()
    assert waiting(metrics) == {"orders": 7, "mail": 3}
    nats.away.clear()
    del nats.queues["mail"]
    await gauges.sample()
    assert waiting(metrics) == {"orders": 8}
