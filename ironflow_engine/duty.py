"""Duties that one engine at a time has, by a short lease in KV."""

from __future__ import annotations

from collections.abc import Callable

from ironflow.broker.protocol import Ambiguous, Broker, Publication, WrongRevision
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.names import Names, bucket_stream
from ironflow.records import DutyRecord


class Duty:
    """One engine's claim on a duty. Two engines may believe for a moment that they have it, when one was stopped.

    So it saves work, and nothing may depend on it for being right.

    Args:
        broker: the connection.
        names: the namespace.
        name: the duty.
        engine: the id of this engine.
        seconds: how long the duty is kept without being claimed again.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, names: Names, name: str, engine: str, seconds: float, make_token: Callable[[], str]
    ) -> None:
        self._broker = broker
        self._stream = bucket_stream(names.engines_bucket)
        self._subject = names.duty_key(name)
        self._engine = engine
        self._seconds = seconds
        self._make_token = make_token

    async def claim(self) -> bool:
        """Take the duty, or keep it for as long again; return whether this engine has it now.

        Raises:
            BrokerError: it is not known.

        """
        standing = await self._broker.last(self._stream, self._subject)
        revision = 0
        if standing is not None:
            revision = standing.sequence
            try:
                holder = decode_record(DutyRecord, standing.payload).engine
            except SerializationError:
                holder = ""  # of a newer engine; it keeps its time, as any other
            age_ms = await self._broker.server_time_ms(self._stream) - standing.time_ms
            if holder != self._engine and age_ms < self._seconds * 1000:
                return False
        record = DutyRecord(engine=self._engine, token=self._make_token())
        claim = Publication(subject=self._subject, payload=encode_record(record), expected_revision=revision)
        try:
            await self._broker.publish(claim)
        except (WrongRevision, Ambiguous):
            # Another engine was quicker; or it is ours, which the next claim will show.
            return False
        return True
