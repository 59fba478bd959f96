"""What the steps of a pass need from the worker around them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from ironflow.broker.protocol import Broker
from ironflow.journal import Appended, Journal
from ironflow.limits import Limits
from ironflow.names import Names
from ironflow_worker.bodies import Bodies
from ironflow_worker.metrics import Metrics


class PassTools(msgspec.Struct, frozen=True, kw_only=True):
    """One pass's means of doing and recording things.

    Attributes:
        run: the run's id.
        queue: the queue whose workers may write to the run's journal.
        token: the random mark of this pass's records.
        chance: returns a random number in [0, 1).

    """

    run: str
    queue: str
    token: str
    names: Names
    limits: Limits
    broker: Broker
    journal: Journal
    bodies: Bodies
    metrics: Metrics
    chance: Callable[[], float]
    log: structlog.stdlib.BoundLogger

    async def append(self, subject: str, record: msgspec.Struct) -> Appended:
        """Record a fact, or learn which one was recorded before."""
        appended = await self.journal.append(subject, record)
        if not appended.ours:
            self.metrics.refused_records.inc()
        return appended
