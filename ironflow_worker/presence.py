"""Lets engines see that this worker lives, and what it has taken, so that its tasks need not wait for their leases.

All of it is hints. An engine asks the server whether anybody listens on the subjects here; when the process dies
its connections go, and with them its subscriptions.
"""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker, Delivery, Request, Subscription
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.messages import AskForClaims, Claim, Claims
from ironflow.names import Names
from ironflow_worker.around import Around

_ENDED_SECONDS = 0.1
"""How long the news that tasks are done with may wait for company. Nobody is in a hurry to hear it."""

_MOST_TOLD = 1_000
"""So many tasks are told of in one hint: each takes 150 bytes, and no server takes a hint of any size."""

_Claimed = tuple[str, Claim]
"""A task of a queue."""


async def be_seen(broker: Broker, names: Names, worker: str, connection: str) -> Subscription:
    """Listen where engines look whether a connection of a worker stands."""

    def answer(request: Request) -> None:
        request.respond(b"")

    return await broker.listen(names.worker_ping(worker, connection), answer)


class Presence:
    """Tells engines what this worker has taken.

    Args:
        broker: the connection that tasks come on.
        names: the namespace.
        worker: this worker's id.

    """

    def __init__(self, broker: Broker, names: Names, worker: str) -> None:
        self._broker = broker
        self._names = names
        self._worker = worker
        self._held: dict[int, _Claimed] = {}
        self._begun: list[_Claimed] = []
        self._ended: list[tuple[str, int]] = []
        self._told_of: set[str] = set()
        """The queues of which engines may know something."""
        self._anew = False
        self._sending: asyncio.Handle | None = None
        self._sends_later = False
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Be seen until :meth:`stop`."""
        self._subscriptions.append(await be_seen(self._broker, self._names, self._worker, "work"))
        self._subscriptions.append(await self._broker.listen(self._names.ask_for_claims, self._tell_all))

    async def stop(self) -> None:
        """Be seen no more; what is still held is handed back by then."""
        for subscription in self._subscriptions:
            await subscription.stop()
        # Else engines would take this worker for dead, with the tasks that it has not told the end of.
        if self._sending is not None:
            self._sending.cancel()
            self._send()

    def holds(self, queue: str, delivery: Delivery) -> Around[_Claimed]:
        """Have engines know that this worker has a task of a queue while the block runs."""
        task = self._names.task_number(delivery.subject, delivery.sequence)
        return Around(self._begins, self._ends, (queue, Claim(task=task, lease=delivery.lease)))

    def _begins(self, claim: _Claimed) -> None:
        self._held[claim[1].task] = claim
        self._begun.append(claim)
        self._send_soon(0.0)

    def _ends(self, claim: _Claimed) -> None:
        queue, task = claim[0], claim[1].task
        if self._held.get(task) is claim:  # it may have come to us a second time
            del self._held[task]
        self._ended.append((queue, task))
        self._send_soon(_ENDED_SECONDS)

    def _tell_all(self, request: Request) -> None:
        if not self._is_asked(request.payload):
            return
        self._begun = list(self._held.values())
        self._anew = True
        self._send_soon(0.0)

    def _is_asked(self, payload: bytes) -> bool:
        try:
            asked = decode_record(AskForClaims, payload).workers if payload else ()
        except SerializationError:
            return True  # by an engine of another version
        return not asked or self._worker in asked

    def _send_soon(self, seconds: float) -> None:
        """Send what there is to tell, with all that comes up until then."""
        if self._sending is not None and self._sends_later and not seconds:
            self._sending.cancel()
            self._sending = None
        if self._sending is None:
            loop = asyncio.get_running_loop()
            # Noted here, since the kinds of handles of uvloop are not those of asyncio.
            self._sends_later = bool(seconds)
            self._sending = loop.call_later(seconds, self._send) if seconds else loop.call_soon(self._send_next)

    def _send_next(self) -> None:
        """Send in the next turn of the event loop: in this one, what has just begun may come to its first record."""
        self._sending = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        # What has ended by now need not be told at all.
        begun = [(queue, claim) for queue, claim in self._begun if self._held.get(claim.task) == (queue, claim)]
        anew, self._anew = self._anew, False
        news = dict.fromkeys(queue for queue, _ in (*begun, *self._ended))
        self._told_of.update(news)
        # That it has nothing of a queue is an answer, too.
        for queue in sorted(self._told_of) if anew else news:
            taken = [claim for of, claim in begun if of == queue]
            ended = tuple(task for of, task in self._ended if of == queue)
            for first in range(0, max(len(taken), 1), _MOST_TOLD):
                some = tuple(taken[first : first + _MOST_TOLD])
                part = Claims(worker=self._worker, begun=some, ended=() if first else ended, anew=anew and not first)
                self._broker.notify(self._names.claims(queue), encode_record(part))
        self._begun.clear()
        self._ended.clear()
