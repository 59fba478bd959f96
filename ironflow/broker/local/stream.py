"""One stream: what it holds, and what it refuses."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import msgspec

from ironflow.broker.local.clock import US_PER_MS, US_PER_SECOND, Clock
from ironflow.broker.local.consumer import Consumer
from ironflow.broker.local.index import SubjectIndex
from ironflow.broker.local.recent import RecentIds
from ironflow.broker.local.schedules import Lateness, Schedules
from ironflow.broker.local.subjects import is_literal, matcher, matcher_of_any, overlap
from ironflow.broker.protocol import (
    BrokerError,
    ConsumerSpec,
    NoSuchStream,
    Publication,
    Schedule,
    Stored,
    StoredMessage,
    StreamSpec,
    StreamState,
    SubjectTaken,
    WrongRevision,
    WrongShards,
)

OVERHEAD_BYTES = 30
"""What a server's file store adds to a message, about."""

_numbers = itertools.count(1)


class Stream:
    """The messages of a stream and its consumers.

    Args:
        spec: how it shall behave.
        clock: the server's.
        lateness: how late its timers fire.

    """

    def __init__(self, spec: StreamSpec, clock: Clock, lateness: Lateness) -> None:
        self.spec = spec
        self.takes = matcher_of_any(spec.subjects)
        self.consumers: dict[str, Consumer] = {}
        self._clock = clock
        self._messages: dict[int, StoredMessage] = {}
        self._order: deque[int] = deque()
        self._index = SubjectIndex()
        self._last_sequence = 0
        self._size_bytes = 0
        self._created = f"stream {next(_numbers)}"
        self._recent = RecentIds(_window_us(spec))
        self._schedules = Schedules(clock, lateness, self._fire)

    def update(self, spec: StreamSpec) -> None:
        """Behave as *spec* says from now on; the messages stay.

        Raises:
            WrongShards: its namespace has another number of shards.
            BrokerError: it asks for what a server cannot change in an existing stream.

        """
        if spec.shards != self.spec.shards:
            raise WrongShards(spec.shards, self.spec.shards, f"the stream {spec.name}")
        if spec.retention != self.spec.retention or (self.spec.schedules and not spec.schedules):
            raise BrokerError(f"stream {spec.name!r} cannot change its retention or give up schedules")
        if spec.age_stays_lifted and not self.spec.max_age_seconds:
            spec = msgspec.structs.replace(spec, max_age_seconds=0)
        self.spec = spec
        self.takes = matcher_of_any(spec.subjects)
        self._recent.window_us = _window_us(spec)

    # Writing

    def publish(self, publication: Publication) -> Stored:
        """Store a message, or say why not (see :meth:`ironflow.broker.protocol.Broker.publish`)."""
        self._expire()
        subject = publication.subject
        if publication.schedule is not None:
            self._check_schedule(subject, publication.schedule)
        last = self._index.last(subject)
        expected = publication.expected_revision
        if expected is not None and expected != last:
            raise WrongRevision(f"{subject}: expected revision {expected}, it is {last}")
        now = self._clock.now_us()
        if publication.message_id is not None:
            known = self._recent.find(publication.message_id, now)
            if known is not None:
                return Stored(known, duplicate=True)
        if last and self.spec.one_per_subject == "keep_first":
            raise SubjectTaken(f"{subject} holds a message already, at {last}")
        if last:
            self._make_way(subject, last, publication.schedule)
        sequence = self._store(subject, publication.payload)
        if publication.message_id is not None:
            self._recent.add(publication.message_id, sequence, now)
        if publication.schedule is not None:
            self._schedules.add(sequence, publication.schedule)
        return Stored(sequence)

    def purge(self, subject_filter: str, up_to: int = 0) -> int:
        """Remove the messages of a filter, of sequences up to *up_to* where given; return how many there were."""
        self._expire()
        sequences = [each for each in self._index.select(subject_filter) if not up_to or each <= up_to]
        for sequence in sequences:
            self.remove(sequence)
        return len(sequences)

    def delete(self, sequence: int) -> bool:
        """Remove a message; return whether it was there."""
        self._expire()
        was_there = sequence in self._messages
        self.remove(sequence)
        return was_there

    def remove(self, sequence: int) -> None:
        """Remove a message; harmless where it is gone."""
        message = self._messages.pop(sequence, None)
        if message is None:
            return
        self._index.remove(message.subject, sequence)
        self._size_bytes -= _size(message)
        self._schedules.remove(sequence)
        for consumer in self.consumers.values():
            consumer.forget(sequence)
        while self._order and self._order[0] not in self._messages:
            self._order.popleft()

    def _make_way(self, subject: str, last: int, schedule: Schedule | None) -> None:
        if self.spec.one_per_subject == "keep_last":
            self.remove(last)
        elif schedule is not None:
            # A schedule takes the place of all that stands on its subject.
            self.purge(subject)
        else:
            # A plain message on top ends a schedule, which stays as a message.
            self._schedules.remove(last)

    def _check_schedule(self, subject: str, schedule: Schedule) -> None:
        if not self.spec.schedules:
            raise BrokerError(f"stream {self.spec.name!r} takes no schedules")
        target = schedule.target
        if target == subject or not is_literal(target) or not self.takes(target):
            raise BrokerError(f"{target!r} cannot be the target of a schedule in stream {self.spec.name!r}")

    def _store(self, subject: str, payload: bytes) -> int:
        self._last_sequence = sequence = self._last_sequence + 1
        message = StoredMessage(subject, payload, sequence, self._clock.now_ms())
        self._messages[sequence] = message
        self._order.append(sequence)
        self._index.add(subject, sequence)
        self._size_bytes += _size(message)
        for consumer in self.consumers.values():
            consumer.offer(message)
        return sequence

    def _fire(self, sequence: int, target: str) -> None:
        payload = self._messages[sequence].payload
        self.remove(sequence)
        self._store(target, payload)

    def _expire(self) -> None:
        if not self.spec.max_age_seconds:
            return
        # No timer does this: it would keep a virtual clock going when nothing else has anything to do.
        oldest_ms = (self._clock.now_us() - self.spec.max_age_seconds * US_PER_SECOND) // US_PER_MS
        while self._order and self._messages[self._order[0]].time_ms < oldest_ms:
            self.remove(self._order[0])

    # Reading

    def last(self, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject, or None."""
        self._expire()
        return self._messages.get(self._index.last(subject))

    def at(self, sequence: int) -> StoredMessage | None:
        """Return the message with that sequence, or None."""
        self._expire()
        return self._messages.get(sequence)

    def message(self, sequence: int) -> StoredMessage:
        """Return a message that is known to be there."""
        return self._messages[sequence]

    def select(self, subject_filter: str, after: int = 0) -> list[int]:
        """Return the sequences over *after* of the messages of a filter, in order."""
        self._expire()
        if self._last_sequence - after > self._index.at_most(subject_filter):
            return [sequence for sequence in self._index.select(subject_filter) if sequence > after]
        # Fewer messages came since than stand under the filter's first tokens: look at those.
        wanted = matcher(subject_filter)
        return [
            sequence
            for sequence in range(after + 1, self._last_sequence + 1)
            if (message := self._messages.get(sequence)) is not None and wanted(message.subject)
        ]

    def state(self) -> StreamState:
        """Return how full it is."""
        self._expire()
        first = self._order[0] if self._order else self._last_sequence + 1
        return StreamState(
            messages=len(self._messages),
            first_sequence=first if self._last_sequence else 0,
            last_sequence=self._last_sequence,
            size_bytes=self._size_bytes,
            created=self._created,
            consumers=len(self.consumers),
        )

    # Consumers

    def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer at the stream's first message, or change the one of that name.

        Raises:
            BrokerError: another consumer of this work queue would get some of the same messages.

        """
        if self.spec.retention == "work_queue":
            self._check_no_overlap(spec)
        consumer = self.consumers.get(spec.name)
        if consumer is None:
            self.consumers[spec.name] = Consumer(self, spec, self._clock)
        else:
            consumer.update(spec)

    def consumer(self, name: str) -> Consumer:
        """Return the consumer of that name.

        Raises:
            NoSuchStream: there is none.

        """
        self._expire()
        consumer = self.consumers.get(name)
        if consumer is None:
            raise NoSuchStream(f"stream {self.spec.name!r} has no consumer {name!r}")
        return consumer

    def acknowledged(self, sequence: int) -> None:
        """Learn that a consumer is done with a message."""
        if self.spec.retention == "work_queue":
            self.remove(sequence)

    def _check_no_overlap(self, spec: ConsumerSpec) -> None:
        for other in self.consumers.values():
            if other.spec.name != spec.name and _any_overlap(other.spec.filters, spec.filters):
                raise BrokerError(f"consumers {other.spec.name!r} and {spec.name!r} of a work queue overlap")

    # The server's ups and downs

    def stop(self) -> None:
        """Stand still: the server is down."""
        self._schedules.suspend()
        for consumer in self.consumers.values():
            consumer.stop()

    def start(self, *, keep_delivery_counts: bool) -> None:
        """Go on as a server does after its start, with what it has on disk."""
        # Ids are read back from the messages that are still there. A work queue's are not, once acknowledged.
        self._recent.keep(self._messages.__contains__)
        for consumer in self.consumers.values():
            consumer.start(keep_delivery_counts=keep_delivery_counts)
        self._schedules.resume()


def _window_us(spec: StreamSpec) -> int:
    """Return how long a message's id counts: no longer than the message lives."""
    return min(spec.duplicate_window_seconds, spec.max_age_seconds or spec.duplicate_window_seconds) * US_PER_SECOND


def _size(message: StoredMessage) -> int:
    return len(message.subject) + len(message.payload) + OVERHEAD_BYTES


def _any_overlap(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return any(overlap(our, their) for our in ours for their in theirs)
