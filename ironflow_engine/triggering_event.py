"""Finds the event that started a run, where the run's journal does not have it."""

from __future__ import annotations

from ironflow.broker.protocol import Broker
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import Names
from ironflow.records import EventRecord, RunState


async def event_in_stream(broker: Broker, names: Names, state: RunState) -> EventRecord | None:
    """Return a run's event from the stream of events; None where it has gone from there, or cannot be read.

    Raises:
        BrokerError: it is not known whether it is there.

    """
    message = await broker.at(names.events, state.event_sequence)
    if message is None:
        return None
    try:
        event = decode_record(EventRecord, message.payload)
    except SerializationError:
        return None
    # A stream that was made anew has something else at that sequence.
    return event if event.id == state.event_id else None
