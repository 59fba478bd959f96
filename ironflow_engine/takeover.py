"""Hands the tasks of workers that have died to others, long before their leases end.

When a process dies its connections go, and the server answers at once that nobody listens where it did. A worker
that reconnects looks the same for a moment. So one counts as dead only when nobody listens twice, a short while
apart, on both of its connections, while our own connection stood all the time. If that is wrong nevertheless, a
step's body runs twice, and one of the results is refused; no other harm is done.
"""

from __future__ import annotations

import asyncio
import contextlib

from ironflow.broker.protocol import Broker, BrokerError, NobodyListens, Request, Subscription
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.messages import AskForClaims, Claims
from ironflow.names import Names
from ironflow_engine.claims import ClaimBook
from ironflow_engine.duty import Duty
from ironflow_engine.metrics import Metrics

_log = get_logger("ironflow.engine")

DUTY_SECONDS = 3.0
_CLAIM_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 0.1
_ANSWER_SECONDS = 0.2
_CONNECTIONS = ("work", "leases")
_MOST_ASKED = 1_000
"""So many workers are named in one hint, which has to fit into a message; of more, all are asked."""


class Takeover:
    """Watches the workers that have taken tasks.

    Args:
        broker: the connection.
        names: the namespace.
        duty: has one engine at a time do it: a second one would take the tasks from those who got them.
        metrics: counts.
        lease_seconds: how long a worker keeps a task without renewal. Who says nothing of one for so long is asked.
        idle_seconds: how often our own connection is looked at where no worker has anything.

    """

    def __init__(
        self, broker: Broker, names: Names, duty: Duty, metrics: Metrics, *, lease_seconds: float, idle_seconds: float
    ) -> None:
        self._metrics = metrics
        self._broker = broker
        self._names = names
        self._duty = duty
        self._lease_seconds = lease_seconds
        self._idle_seconds = idle_seconds
        self._claims = ClaimBook()
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._mine = False
        self._claimed_at = float("-inf")
        self._connections = 0
        self._asks_all_at = float("inf")

    async def start(self) -> None:
        """Hear what workers take until :meth:`stop`; those that are at work already are asked."""
        self._subscription = await self._broker.listen(self._names.every_claim, self._hear)
        self._ask_where_needed()

    async def stop(self) -> None:
        """Hear no more."""
        if self._subscription is not None:
            await self._subscription.stop()

    async def run(self) -> None:
        """Look after the workers, until cancelled; where none has anything, only our own connection is looked at."""
        while True:
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_seconds):
                        await self._changed.wait()
                await asyncio.sleep(_LOOK_SECONDS)
                self._ask_where_needed()
                if not self._claims.workers:
                    self._changed.clear()
                elif await self._is_mine():
                    await self.look()
            except BrokerError as error:
                _log.debug("workers not looked after", reason=str(error))
                await asyncio.sleep(_CLAIM_SECONDS)
            except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
                _log.exception("workers not looked after")
                await asyncio.sleep(_CLAIM_SECONDS)

    async def look(self) -> None:
        """Look once whether all workers live, and hand on what the dead ones had."""
        connections = self._broker.connections
        suspects = await self._gone(self._claims.workers)
        if not suspects:
            return
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        dead = await self._gone(suspects)
        if self._broker.connections != connections:
            return
        for worker in dead:
            leases = self._claims.forget(worker)
            self._metrics.lost_workers.inc()
            self._metrics.taken_over.inc(len(leases))
            _log.warning("a worker has died, others get its tasks", worker=worker, tasks=len(leases))
            for queue, lease in leases:
                # A lease names its own stream, and is sent where it is that one.
                for shard in self._names.all_shards:
                    self._broker.hand_back(lease, shard.tasks, queue)

    def _ask_where_needed(self) -> None:
        """Ask workers what they have, where hints of theirs may have been lost."""
        now = asyncio.get_running_loop().time()
        if self._broker.connections != self._connections:
            self._connections = self._broker.connections
            self._claims = ClaimBook()
            self._ask()
            # The server may have been away for all, and some may not be there again yet.
            self._asks_all_at = now + self._lease_seconds
        elif now >= self._asks_all_at:
            self._asks_all_at = float("inf")
            self._ask()
        if workers := self._claims.to_be_asked(now, self._lease_seconds):
            self._ask(*workers)

    def _ask(self, *workers: str) -> None:
        wanted = AskForClaims(workers=workers if len(workers) <= _MOST_ASKED else ())
        self._broker.notify(self._names.ask_for_claims, encode_record(wanted))

    async def _is_mine(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._claimed_at >= _CLAIM_SECONDS:
            self._mine = await self._duty.claim()
            self._claimed_at = now
        return self._mine

    async def _gone(self, workers: tuple[str, ...]) -> tuple[str, ...]:
        """Return the workers of which no connection stands."""
        gone = await asyncio.gather(*map(self._is_gone, workers))
        return tuple(worker for worker, is_gone in zip(workers, gone, strict=True) if is_gone)

    async def _is_gone(self, worker: str) -> bool:
        return all(await asyncio.gather(*(self._nobody_at(worker, connection) for connection in _CONNECTIONS)))

    async def _nobody_at(self, worker: str, connection: str) -> bool:
        try:
            await self._broker.request(self._names.worker_ping(worker, connection), b"", _ANSWER_SECONDS)
        except NobodyListens:
            return True
        except BrokerError:
            return False  # it is too busy to answer, or we are not connected
        return False

    def _hear(self, request: Request) -> None:
        try:
            news = decode_record(Claims, request.payload)
        except SerializationError:
            return  # a worker of another version; its tasks come back when their leases end
        # The subject is what a worker's permissions bind to its queues; what it says in the message is not.
        self._claims.take_in(request.subject.rpartition(".")[2], news, asyncio.get_running_loop().time())
        self._changed.set()
