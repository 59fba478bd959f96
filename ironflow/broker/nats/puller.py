"""Deliveries of a durable consumer: our own pull loop over the raw pull protocol.

The server sends messages on credit. ``wanted`` is the credit that the caller has asked for and has not been
served; ``outstanding`` is what the server holds of it, in one or several pulls. Whenever less than half of
what is wanted is outstanding, the rest is pulled, so that pulls overlap and a busy worker does not send one
for each message. All runs in callbacks: nothing is polled, and an idle puller costs a heartbeat now and then.

Of large messages fewer are outstanding than are wanted. The server writes all that it was asked for at once, and ends
a connection that does not read as fast once 64 MiB wait (its ``max_pending``); what was on its way comes again only
when its lease is over. A pull can be limited in bytes too, but then ends where the next message does not fit any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from ironflow.broker.nats.delivery import NatsDelivery
from ironflow.broker.nats.pacer import Pacer
from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import Delivery, Denied, Unavailable
from ironflow.logs import get_logger

EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 3.0
SILENCE_SECONDS = 2 * HEARTBEAT_SECONDS + 1.0
"""After which the pulls are taken to be lost: a consumer whose leader died takes its pulls with it."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
STRAGGLER_SECONDS = 5.0
BARRIER_SECONDS = 2.0
MOST_BYTES = 8 * 1024 * 1024
"""May be on their way to one puller, or wait in it; a connection has several. A single message may be larger."""
_BATCH_BYTES = 4 * 1024 * 1024
"""Are handed out at a time, or one larger message: what is made of a batch takes several times as much memory."""
_FIRST_COUNT = 32
"""So many are pulled before it is known how large messages are."""
_SIZE_KEPT = 0.98
"""From message to smaller message: one large one in many counts for a while as if all were."""
NO_RESPONDERS = 503
_NOBODY = "nobody serves this consumer: no engine has made it yet, or its leader is being elected"
PULL = b'{"batch":%%d,"expires":%d,"idle_heartbeat":%d}' % (
    round(EXPIRES_SECONDS * 1_000_000_000),
    round(HEARTBEAT_SECONDS * 1_000_000_000),
)

log = get_logger(__name__)


class Status(msgspec.Struct, frozen=True):
    """What the server says about a pull.

    Attributes:
        code: 100 heartbeat, 408 expired, 409 ended early or refused, 503 no such consumer, …
        text: what the server calls it.
        pending: how many of its messages it did not deliver; None where the server does not say.

    """

    code: int
    text: str
    pending: int | None

    @property
    def is_heartbeat(self) -> bool:
        """Whether the pull goes on."""
        return self.code == 100  # noqa: PLR2004 - the protocol's number

    @property
    def is_failure(self) -> bool:
        """Whether the next pull should wait a little."""
        return self.code not in {404, 408}


def parse_status(headers: bytes) -> Status | None:
    """Return the status that a message without payload carries, None for an ordinary message."""
    if not headers.startswith(b"NATS/1.0 "):
        return None
    line, _, rest = headers.partition(b"\r\n")
    _, code, *text = line.decode(errors="replace").split(" ", 2)
    _, found, pending = rest.partition(b"Nats-Pending-Messages: ")
    return Status(
        code=int(code) if code.isdigit() else 0,
        text=text[0] if text else "",
        pending=int(pending.partition(b"\r\n")[0]) if found else None,
    )


class NatsPuller:
    """The open deliveries of one consumer.

    Args:
        wire: the connection.
        pacer: paces what nobody answers.
        inbox: a subject prefix of its own for what the server sends.
        stream: the stream's name.
        consumer: the consumer's name.
        subject: where pulls go.

    """

    def __init__(self, wire: Wire, pacer: Pacer, inbox: str, *, stream: str, consumer: str, subject: str) -> None:
        self._wire = wire
        self._pacer = pacer
        self._inbox = inbox
        self._label = f"{stream}.{consumer}"
        self._subject = subject
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[NatsDelivery] = deque()
        self._awaited: asyncio.Future[None] | None = None
        self._closed = False
        self._wanted = 0
        self._outstanding = 0
        self._size = 0.0
        """How large messages are, rather more than less; 0 before there was one."""
        self._pulls: dict[bytes, tuple[int, float]] = {}
        """How much each pull asked for and when, by the subject that its status comes on."""
        self._numbers = itertools.count()
        self._subscription = 0
        self._generation = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._pause = 0.0
        self._complained = False
        self._served = False
        self._refused = False

    async def __aenter__(self) -> Self:
        """Open; nothing is delivered before it is asked for."""
        self._wire.on_up.append(self._schedule)
        self._wire.on_down.append(self._went_down)
        self._wire.on_denied.append(self._denied)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and give back what was not handed out."""
        self._closed = True
        self._wire.on_up.remove(self._schedule)
        self._wire.on_down.remove(self._went_down)
        self._wire.on_denied.remove(self._denied)
        for timer in (self._timer, self._watchdog):
            if timer is not None:
                timer.cancel()
        subscription, self._subscription = self._subscription, 0
        self._wire.detach(subscription)
        while self._buffer:
            self._buffer.popleft().nak()
        self._wake()
        # What is on its way arrives before the barrier, and is given back too.
        await self._wire.barrier(BARRIER_SECONDS)
        self._wire.forget(subscription)

    def request(self, count: int) -> None:
        """Ask for *count* more deliveries."""
        self._wanted += count
        self._schedule()

    def withdraw(self) -> None:
        """Ask for nothing more; the server forgets the pulls, and what was on its way is given back."""
        self._wanted = 0
        self._abandon_pulls()

    @property
    def is_served(self) -> bool:
        """Whether a pull is outstanding, nothing is wanted, or what has come waits."""
        return self._wire.up and (self._outstanding > 0 or not self._wanted or bool(self._buffer))

    async def batch(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; return up to *limit* that have come. Only one caller waits at a time.

        Raises:
            Unavailable: the puller was closed.
            Denied: the account's permissions do not allow it, and have not since the beginning.

        """
        while not self._buffer:
            if self._refused:
                message = f"the account's permissions do not allow it ({self._subject})"
                raise Denied(message)
            if self._closed:
                message = f"the deliveries of {self._label} were closed"
                raise Unavailable(message)
            # An event would do as well, with three times the calls between what comes and whoever waits for it.
            self._awaited = self._loop.create_future()
            await self._awaited
        batch = self._next_batch(limit)
        if self._outstanding * 2 <= self._wanted:
            self._schedule()
        return batch

    def _next_batch(self, limit: int) -> list[Delivery]:
        batch: list[Delivery] = []
        size = 0
        while self._buffer and len(batch) < limit:
            size += len(self._buffer[0].payload)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(self._buffer.popleft())
        return batch

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    # Credit

    def _schedule(self) -> None:
        """Pull what is missing at the end of this turn of the event loop, or after the pause that is due."""
        if self._timer is not None or self._closed:
            return
        if self._pause:
            self._timer = self._loop.call_later(self._pacer.delay(self._pause), self._pull)
        else:
            self._timer = self._loop.call_soon(self._pull)

    def _pull(self) -> None:
        self._timer = None
        affordable = max(1, int(MOST_BYTES / self._size)) if self._size else _FIRST_COUNT
        most = min(self._wanted, affordable - len(self._buffer))
        missing = most - self._outstanding
        if missing <= 0 or self._outstanding * 2 > most or not self._wire.up:
            return
        if not self._subscription:
            self._open_inbox()
        now = self._loop.time()
        self._drop_old_pulls(now)
        reply = f"{self._inbox}.{self._generation}.{next(self._numbers):x}"
        self._pulls[reply.encode()] = (missing, now)
        self._outstanding += missing
        self._wire.send(self._subject, PULL % missing, reply)
        if self._watchdog is None:
            self._heard = now
            self._watchdog = self._loop.call_later(SILENCE_SECONDS, self._watch)

    def _open_inbox(self) -> None:
        self._generation += 1
        receive = partial(self._receive, self._generation)
        self._subscription = self._wire.attach(f"{self._inbox}.{self._generation}.*", receive, keep=False)

    def _abandon_pulls(self) -> None:
        """Make the server forget all pulls: it drops those on whose subjects nobody listens."""
        subscription, self._subscription = self._subscription, 0
        self._forget_pulls()
        if subscription:
            self._wire.detach(subscription)
            self._loop.call_later(STRAGGLER_SECONDS, self._wire.forget, subscription)

    def _forget_pulls(self) -> None:
        self._outstanding = 0
        self._pulls.clear()

    def _drop_old_pulls(self, now: float) -> None:
        """Forget pulls that were served in full, which the server does not mention."""
        while self._pulls:
            oldest = next(iter(self._pulls))
            if self._pulls[oldest][1] + EXPIRES_SECONDS + SILENCE_SECONDS > now:
                return
            del self._pulls[oldest]

    # What the server sends

    def _receive(self, generation: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._heard = self._loop.time()
        # What is stored has a subject for its acknowledgement, whatever its headers look like.
        if reply:
            self._take_message(generation, NatsDelivery(self._wire, subject, reply, payload))
        elif (status := parse_status(headers)) is not None:
            self._take_status(subject, status)

    def _take_message(self, generation: int, delivery: NatsDelivery) -> None:
        if generation == self._generation and self._outstanding:
            self._outstanding -= 1
        self._recovered()
        if self._closed or not self._wanted:
            delivery.nak()
            return
        self._wanted -= 1
        self._size = max(len(delivery.payload), self._size * _SIZE_KEPT, 1.0)
        self._buffer.append(delivery)
        self._wake()
        if self._outstanding * 2 <= self._wanted:
            self._schedule()

    def _take_status(self, subject: bytes, status: Status) -> None:
        if status.is_heartbeat:
            self._recovered()
            return
        pull = self._pulls.pop(subject, None)
        if pull is None:
            return
        if status.pending is not None:
            self._outstanding = max(0, self._outstanding - status.pending)
        elif status.code == NO_RESPONDERS:
            self._outstanding = max(0, self._outstanding - pull[0])
        else:
            # How much of it was served is not known, and pulling too much would hold up other clients.
            self._abandon_pulls()
        if status.is_failure:
            missing = status.code == NO_RESPONDERS
            self._failed(_NOBODY if missing else f"{status.code} {status.text}")
        self._schedule()

    def _denied(self, operation: str, subject: str) -> None:
        if operation == "publish" and subject == self._subject.lower():
            self._abandon_pulls()
            # What was allowed before may be again, once whoever changes the permissions is done with it.
            if not self._served:
                self._refused = True
                self._wake()
                return
            self._failed("the account's permissions do not allow it")
            self._schedule()

    def _failed(self, reason: str) -> None:
        self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 1.5), LONGEST_PAUSE_SECONDS)
        if not self._complained:
            self._complained = True
            log.warning("cannot pull; keeps trying", consumer=self._label, reason=reason)

    def _recovered(self) -> None:
        self._served = True
        self._pause = 0.0
        self._complained = False

    def _went_down(self) -> None:
        self._wire.forget(self._subscription)
        self._subscription = 0
        self._forget_pulls()

    def _watch(self) -> None:
        self._watchdog = None
        if not self._outstanding:
            return
        remaining = self._heard + SILENCE_SECONDS - self._loop.time()
        if remaining > 0:
            self._watchdog = self._loop.call_later(remaining, self._watch)
            return
        log.warning("the server fell silent; pulls again", consumer=self._label)
        self._abandon_pulls()
        self._schedule()
