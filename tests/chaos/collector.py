"""Reads back what is stored in the end, through the broker alone: the engines are not asked about themselves."""

from __future__ import annotations

import msgspec

from ironflow.broker.protocol import Broker, NoSuchStream
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import ENGINE_CONSUMER, Names, bucket_stream, parse_journal
from ironflow.records import EventRecord, RunState, TimerRecord
from tests.chaos.history import Recorded, TimerLeft
from tests.chaos.workflow import QUEUE


class Collector:
    """Reads one namespace.

    Args:
        broker: a connection that nothing goes wrong with.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names

    async def journal(self) -> list[Recorded]:
        """Return all facts."""
        found: list[Recorded] = []
        for number, shard in enumerate(self._names.all_shards):
            async for page in self._broker.read(shard.journal, shard.every_record):
                for message in page:
                    address = parse_journal(message.subject)
                    record = msgspec.json.decode(message.payload)
                    found.append(
                        Recorded(
                            address.run, address.kind, address.rest, message.sequence, message.time_ms, record, number
                        )
                    )
        return found

    async def events(self) -> dict[int, str]:
        """Return the ids of all events, by sequence; of one that cannot be read, nothing."""
        return {
            message.sequence: _event_id(message.payload)
            async for page in self._broker.read(self._names.events, f"{self._names.namespace}.events.>")
            for message in page
        }

    async def states(self) -> dict[str, RunState]:
        """Return the states of all runs."""
        bucket = self._names.runs_bucket
        states = [
            decode_record(RunState, message.payload)
            async for page in self._broker.read(bucket_stream(bucket), f"$KV.{bucket}.>")
            for message in page
        ]
        return {state.id: state for state in states}

    async def leftovers(self) -> dict[str, int]:
        """Return how much is left of everything that is used up when all runs have ended."""
        names = self._names
        left = {
            "tasks": sum([(await self._broker.stream_state(each.tasks)).messages for each in names.all_shards]),
            "overdue timers": await self._overdue_timers(),
            "open waits": len(await self._open_waits()),
        }
        consumed = [("events", names.events, ENGINE_CONSUMER)]
        for shard in names.all_shards:
            consumed.append(("tasks", shard.tasks, QUEUE))
            consumed += [("journal", shard.journal, ENGINE_CONSUMER), ("timers", shard.timers, ENGINE_CONSUMER)]
        for what, stream, consumer in consumed:
            try:
                state = await self._broker.consumer_state(stream, consumer)
            except NoSuchStream:
                continue
            for left_how, count in (("not delivered", state.pending), ("not acknowledged", state.ack_pending)):
                left[f"{what} {left_how}"] = left.get(f"{what} {left_how}", 0) + count
        return left

    async def timers(self) -> list[TimerLeft]:
        """Return the schedules that have not fired."""
        timers = await self._timers("timers")
        return [TimerLeft(each.run, each.step, each.attempt, each.due_ms) for each in timers]

    async def _overdue_timers(self) -> int:
        now_ms = await self._broker.server_time_ms(self._names.all_shards[0].tasks)
        fired, waiting = await self._timers("fired"), await self._timers("timers")
        return len(fired) + sum(each.due_ms < now_ms for each in waiting)

    async def _timers(self, kind: str) -> list[TimerRecord]:
        return [
            decode_record(TimerRecord, message.payload)
            for shard in self._names.all_shards
            async for page in self._broker.read(
                shard.timers, shard.every_fired if kind == "fired" else shard.every_timer
            )
            for message in page
        ]

    async def _open_waits(self) -> list[str]:
        bucket = self._names.waits_bucket
        return [
            message.subject
            async for page in self._broker.read(bucket_stream(bucket), f"$KV.{bucket}.*.*.*.*.*")
            for message in page
            if message.payload
        ]


def _event_id(payload: bytes) -> str:
    try:
        return decode_record(EventRecord, payload).id
    except SerializationError:
        return ""
