"""One durable consumer: whose turn it is, what is out, and what comes back."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Protocol

from ironflow.broker.local.clock import US_PER_SECOND, Alarm, Clock, seconds_to_us
from ironflow.broker.local.subjects import matcher_of_any
from ironflow.broker.protocol import ConsumerSpec, ConsumerState, StoredMessage, StreamState


class Source(Protocol):
    """A stream, as its consumers see it."""

    def message(self, sequence: int) -> StoredMessage:
        """Return a message that is known to be there."""
        ...

    def select(self, subject_filter: str, after: int = 0) -> list[int]:
        """Return the sequences over *after* of the messages of a filter, in order."""
        ...

    def state(self) -> StreamState:
        """Return how full it is."""
        ...

    def acknowledged(self, sequence: int) -> None:
        """Learn that a consumer is done with a message."""
        ...


class Taker(Protocol):
    """A puller, as the consumer sees it."""

    credits: int
    """How many deliveries it has asked for and not been given."""

    def take(self, message: StoredMessage, delivered: int) -> None:
        """Get a delivery. The consumer has taken the credit off."""
        ...


class _Pending:
    """A message that was handed out and is not acknowledged.

    Attributes:
        delivered: how often it was handed out.
        until_us: when it comes back; None once it has, and waits to be handed out again.
        put_off: it comes back because a client said when, rather than because a lease ends.

    """

    __slots__ = ("delivered", "put_off", "until_us")

    def __init__(self) -> None:
        self.delivered = 0
        self.until_us: int | None = None
        self.put_off = False


class Consumer:
    """Hands out the messages of a stream, each until it is acknowledged.

    Args:
        stream: whose messages.
        spec: which of them, and for how long.
        clock: the server's.

    """

    def __init__(self, stream: Source, spec: ConsumerSpec, clock: Clock) -> None:
        self.spec = spec
        self._stream = stream
        self._clock = clock
        self._wants = matcher_of_any(spec.filters)
        self._ack_wait_us = seconds_to_us(spec.ack_wait_seconds)
        self._position = 0
        self._fresh: deque[int] = deque()
        self._undelivered: set[int] = set()
        self._pending: dict[int, _Pending] = {}
        self._returned: deque[int] = deque()
        self._leases: list[tuple[int, int]] = []
        self._alarm = Alarm(clock, self._leases_end)
        self._waiting: deque[Taker] = deque()
        self._running = True
        self._fill(after=0)

    def update(self, spec: ConsumerSpec) -> None:
        """Behave as *spec* says from now on; what was handed out is not handed out again for it."""
        if spec.filters != self.spec.filters:
            # A server's consumer has looked at all that comes before the next message that it delivers.
            looked_at = self._position if self._undelivered else self._stream.state().last_sequence
            self._wants = matcher_of_any(spec.filters)
            self.spec = spec
            self._fill(after=max(self._position, looked_at))
        self.spec = spec
        self._ack_wait_us = seconds_to_us(spec.ack_wait_seconds)
        self.pump()

    def _fill(self, after: int) -> None:
        found = {
            sequence for subject_filter in self.spec.filters for sequence in self._stream.select(subject_filter, after)
        }
        self._undelivered = found
        self._fresh = deque(sorted(found))

    # From the stream

    def offer(self, message: StoredMessage) -> None:
        """Learn of a new message."""
        if self._wants(message.subject):
            self._fresh.append(message.sequence)
            self._undelivered.add(message.sequence)
            self.pump()

    def forget(self, sequence: int) -> None:
        """Learn that a message is gone."""
        self._undelivered.discard(sequence)
        if self._settle(sequence) and self._waiting:
            # There is room for another one, but whoever removes messages is not done with the stream yet.
            self._clock.loop.call_soon(self.pump)

    # From pullers

    def enlist(self, taker: Taker) -> None:
        """Learn that a puller has credits; harmless when that is known."""
        if taker not in self._waiting:
            self._waiting.append(taker)
        self.pump()

    def dismiss(self, taker: Taker) -> None:
        """Hand nothing more to a puller; harmless the second time."""
        if taker in self._waiting:
            self._waiting.remove(taker)

    def acknowledge(self, sequence: int) -> None:
        """Be done with a message, whoever says so: an acknowledgement carries no ownership."""
        if self._settle(sequence):
            self._stream.acknowledged(sequence)
            self.pump()

    def hand_back(self, sequence: int, delay_seconds: float) -> None:
        """Deliver a message again after a delay, whoever says so."""
        pending = self._pending.get(sequence)
        if pending is None or pending.until_us is None:
            return
        if delay_seconds > 0:
            pending.put_off = True
            self._watch(sequence, pending, seconds_to_us(delay_seconds))
        else:
            self._return(sequence, pending)
            self.pump()

    def renew(self, sequence: int) -> None:
        """Start the lease of a message anew, whoever says so."""
        pending = self._pending.get(sequence)
        if pending is not None and pending.until_us is not None:
            pending.put_off = False
            self._watch(sequence, pending, self._ack_wait_us)

    def state(self) -> ConsumerState:
        """Return how far it is."""
        return ConsumerState(
            pending=len(self._undelivered),
            ack_pending=len(self._pending),
            redelivered=sum(1 for pending in self._pending.values() if pending.delivered > 1),
            ack_floor=min(self._pending) - 1 if self._pending else self._position,
            waiting_pulls=len(self._waiting),
            shards=self.spec.shards,
        )

    # Handing out

    def pump(self) -> None:
        """Hand out what can be: to pullers in turn, first what came back, then what is new, oldest first."""
        while self._waiting and self._running:
            sequence = self._next()
            if sequence is None:
                return
            taker = self._waiting.popleft()
            taker.credits -= 1
            if taker.credits:
                self._waiting.append(taker)
            self._deliver(sequence, taker)

    def _next(self) -> int | None:
        while self._returned:
            sequence = self._returned.popleft()
            pending = self._pending.get(sequence)
            if pending is not None and pending.until_us is None:
                return sequence
        if len(self._pending) >= self.spec.max_ack_pending:
            return None
        while self._fresh:
            sequence = self._fresh.popleft()
            if sequence in self._undelivered:
                self._undelivered.remove(sequence)
                self._position = sequence
                return sequence
        return None

    def _deliver(self, sequence: int, taker: Taker) -> None:
        pending = self._pending.get(sequence)
        if pending is None:
            pending = self._pending[sequence] = _Pending()
        pending.delivered += 1
        pending.put_off = False
        self._watch(sequence, pending, self._ack_wait_us)
        taker.take(self._stream.message(sequence), pending.delivered)

    # Leases

    def _watch(self, sequence: int, pending: _Pending, for_us: int) -> None:
        pending.until_us = until = self._clock.now_us() + for_us
        heapq.heappush(self._leases, (until, sequence))
        self._alarm.set(until)

    def _leases_end(self) -> None:
        now = self._clock.now_us()
        while self._leases and self._leases[0][0] <= now:
            until, sequence = heapq.heappop(self._leases)
            if self._holds(until, sequence):
                self._return(sequence, self._pending[sequence])
        self._rearm()
        self.pump()

    def _rearm(self) -> None:
        while self._leases and not self._holds(*self._leases[0]):
            heapq.heappop(self._leases)
        if self._leases:
            self._alarm.set(self._leases[0][0])

    def _holds(self, until: int, sequence: int) -> bool:
        """Say whether a lease is still what it was when it was noted; a renewed one was noted again."""
        pending = self._pending.get(sequence)
        return pending is not None and pending.until_us == until

    def _return(self, sequence: int, pending: _Pending) -> None:
        pending.until_us = None
        self._returned.append(sequence)

    def _settle(self, sequence: int) -> bool:
        if self._pending.pop(sequence, None) is None:
            return False
        if not self._pending:
            self._leases.clear()
            self._alarm.clear()
        return True

    # The server's ups and downs

    def stop(self) -> None:
        """Stand still: the server is down, and no puller is known to it any more."""
        self._running = False
        self._waiting.clear()
        self._alarm.clear()

    def start(self, *, keep_delivery_counts: bool) -> None:
        """Go on after a crash: what was out comes back at once, and what waits out a nak up to a second early."""
        self._running = True
        for sequence, pending in self._pending.items():
            if not keep_delivery_counts:
                pending.delivered = 0
            if pending.until_us is None:
                continue
            if pending.put_off:
                # That is how it is written to disk: in whole seconds.
                pending.until_us -= pending.until_us % US_PER_SECOND
                heapq.heappush(self._leases, (pending.until_us, sequence))
            else:
                self._return(sequence, pending)
        self._rearm()
