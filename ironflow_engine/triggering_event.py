"""Finds the event that started a run: in the run's journal, or where it was published."""

from __future__ import annotations

from ironflow.broker.protocol import Broker
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import Names
from ironflow.records import EventRecord, InputRecord, OutcomeRecord, RunState


async def recorded_event(broker: Broker, names: Names, state: RunState) -> EventRecord | None:
    """Return a run's event from its journal; None where it is not there, as while the first pass goes on.

    Raises:
        BrokerError: it is not known whether it is there.
        SerializationError: what is there cannot be read.

    """
    journal = names.shard_of(state.id).journal
    first = await broker.last(journal, names.journal_outcome(state.queue, state.id, 0))
    if first is not None and (event := decode_record(OutcomeRecord, first.payload).event) is not None:
        return event
    kept = await broker.last(journal, names.journal_input(state.queue, state.id))
    return None if kept is None else decode_record(InputRecord, kept.payload).event


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
