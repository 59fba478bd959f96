"""What the steps of a pass need from the worker around them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, StorageFull, Unavailable
from ironflow.errors import RetryAfter
from ironflow.journal import Appended, Journal
from ironflow.limits import Limits
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.retry import RetryPolicy
from ironflow.server_clock import ServerClock
from ironflow_worker.bodies import Bodies
from ironflow_worker.failures import delay_after
from ironflow_worker.metrics import Metrics
from ironflow_worker.own_records import OwnRecords
from ironflow_worker.retry_after import why_unusable

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_MAY_PASS = (Ambiguous, StorageFull, Unavailable)


class LeaseLost(BrokerError):  # noqa: N818 - reads as the state that it is
    """The task may be another worker's by now; nothing more is to be recorded, and it is not ours to hand back."""


class WorkerDrains(BrokerError):  # noqa: N818 - reads as the state that it is
    """No body begins any more; what is left of the pass is another worker's."""

    def __init__(self) -> None:
        super().__init__("this worker drains, and begins no more step bodies")


class PassTools(msgspec.Struct, frozen=True, kw_only=True):
    """One pass's means of doing and recording things.

    Attributes:
        run: the run's id.
        function: the id of its function.
        queue: the queue whose workers may write to the run's journal.
        depth: how many runs stand above this one.
        token: the random mark of this pass's records.
        worker: who executes the pass.
        still_holds: tells whether the pass is surely nobody else's yet.
        chance: returns a random number in [0, 1).
        now_ms: returns what this machine's clock says.
        clock: says what the server's clock has surely reached.
        trace: the context of the run's trace.
        traced: whether anybody takes its spans.
        recorded: what the pass has recorded so far, or found recorded in its place.

    """

    run: str
    function: str
    queue: str
    token: str
    worker: str
    names: Names
    limits: Limits
    broker: Broker
    journal: Journal
    bodies: Bodies
    metrics: Metrics
    still_holds: Callable[[], bool]
    chance: Callable[[], float]
    now_ms: Callable[[], int]
    clock: ServerClock
    depth: int = 0
    trace: dict[str, str] = {}
    traced: bool = True
    recorded: OwnRecords = msgspec.field(default_factory=OwnRecords)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """What is logged about the pass; bound when it is first used, since most passes log nothing."""
        return get_logger("ironflow.worker", run=self.run, function=self.function)

    def due_ms(self, delay_ms: int) -> int:
        """Return about when something is over that begins now, in server time: never later than it is."""
        return round(self.clock.at_least_ms()) + delay_ms

    def delay_after(self, error: BaseException, policy: RetryPolicy, attempt: int) -> int | None:
        """Return after how many milliseconds a failed attempt is made again; None where it is final."""
        now_ms = self.now_ms()
        delay_ms = delay_after(error, policy, attempt, self.chance(), now_ms)
        if delay_ms is not None and isinstance(error, RetryAfter):
            reason = why_unusable(error.delay, now_ms)
            if reason is not None:
                self.log.warning("RetryAfter is not heeded, the policy's delay is", delay_ms=delay_ms, reason=reason)
        return delay_ms

    def check_lease(self) -> None:
        """Refuse to go on where others may have done so.

        Raises:
            LeaseLost: the task may be another worker's by now, so that the pass is to be left at once.

        """
        if not self.still_holds():
            self.metrics.lost_leases.inc()
            raise LeaseLost(f"this worker was stopped for longer than the lease of the task of run {self.run}")

    async def append(self, subject: str, record: msgspec.Struct) -> Appended:
        """Record a fact, or learn which one was recorded before.

        Raises:
            LeaseLost: the task may be another worker's by now, so that the pass is to be left at once.
            BrokerError: it cannot be recorded, and waiting would not help.

        """
        self.check_lease()
        try:
            appended = await self.journal.append(subject, record)
        except _MAY_PASS as error:
            appended = await self._again(lambda: self.journal.append(subject, record), error)
        if not appended.ours:
            self.metrics.refused_records.inc()
        self.recorded.add(subject, appended)
        return appended

    async def patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, until the broker has room and answers.

        What was done is not recorded yet, so giving the pass up would only have it done again.

        Raises:
            BrokerError: it is refused for good.

        """
        try:
            return await send()
        except _MAY_PASS as error:
            return await self._again(send, error)

    async def _again(self, send: Callable[[], Awaitable[T]], error: BrokerError) -> T:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self.log.warning("cannot record, will be tried again", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause * (0.75 + 0.5 * self.chance()))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                return await send()
            except _MAY_PASS as once_more:
                error = once_more
