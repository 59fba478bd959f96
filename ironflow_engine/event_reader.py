"""Reads events for the API: which are stored, and which runs one of them started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from ironflow.broker.protocol import Broker, BrokerError, StoredMessage, Unavailable
from ironflow.codec import decode_record
from ironflow.errors import DefinitionError, SerializationError
from ironflow.logs import get_logger
from ironflow.messages import EventRuns, EventsPage, ListEvents, RunsOfEvent, StoredEvent, stored_event
from ironflow.names import ENGINE_CONSUMER, Names, escape_token
from ironflow.records import NULL, EventRecord
from ironflow.triggers import check_trigger
from ironflow_engine.answers import Room
from ironflow_engine.event_intake import EventIntake
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.history import History
from ironflow_engine.run_store import RunStore, UnreadableState, Version

_log = get_logger("ironflow.engine")

MOST_EVENTS = 500
_LOOK_AGAIN_SECONDS = 0.05
_FIRST_WINDOW = 200


class EventReader:
    """Shows events and what they started.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        functions: the registered functions.
        intake: this engine's event intake, whose progress says when to look again.
        history: knows what EVENTS no longer holds.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        store: RunStore,
        functions: FunctionStore,
        intake: EventIntake,
        history: History,
    ) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._functions = functions
        self._intake = intake
        self._history = history

    async def page(self, request: ListEvents) -> EventsPage:
        """Return stored events, newest first, as many as were asked for or one answer carries.

        Raises:
            DefinitionError: the limit or the name makes no sense.

        """
        if not 1 <= request.limit <= MOST_EVENTS:
            msg = f"limit must be from 1 to {MOST_EVENTS}, got {request.limit}"
            raise DefinitionError(msg)
        subject_filter = _subject_filter(self._names, request.name)
        state = await self._broker.stream_state(self._names.events)
        before = min(request.before or state.last_sequence + 1, state.last_sequence + 1)
        found: list[StoredMessage] = []
        window = max(_FIRST_WINDOW, request.limit)
        # Streams are read forwards only, so ever larger windows are read from the end backwards.
        while before > state.first_sequence and len(found) < request.limit:
            start = max(state.first_sequence - 1, before - 1 - window)
            found = await self._window(subject_filter, start, before) + found
            before, window = start + 1, window * 2
        chosen = found[: -request.limit - 1 : -1]
        more = before > state.first_sequence or len(found) > len(chosen)
        if not more:
            past = await self._past(request.name, before, request.limit - len(chosen) + 1)
            more = len(chosen) + len(past) > request.limit
            chosen = [*chosen, *past][: request.limit]
        views: list[StoredEvent] = []
        room = Room(self._broker)
        for place, message in enumerate(chosen):
            view = _view(message, room.left)
            if view is None:
                continue
            if not room.takes(view):
                return EventsPage(events=tuple(views), next=chosen[place - 1].sequence)
            views.append(view)
        return EventsPage(events=tuple(views), next=chosen[-1].sequence if more and chosen else None)

    async def _past(self, name: str | None, before: int, limit: int) -> Sequence[StoredMessage]:
        """Return events that EVENTS has forgotten; none while that cannot be asked."""
        try:
            return await self._history.events(name, before, limit)
        except Unavailable as error:
            _log.warning("a list of events leaves out those that only the archive has", reason=str(error))
            return ()

    async def runs_of(self, request: RunsOfEvent) -> EventRuns:
        """Return the runs that an event started; wait until it has been matched, at most as long as asked for.

        An engine that leaves does not wait: another one may match it, and can be asked.
        """
        deadline = asyncio.get_running_loop().time() + request.wait_ms / 1000
        while True:
            self._intake.progress.clear()
            matched = await self._is_matched(request.sequence)
            runs = await self._runs(request)
            left = deadline - asyncio.get_running_loop().time()
            if matched or left <= 0 or self._intake.has_left:
                return EventRuns(runs=tuple(runs), matched=matched)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN_SECONDS)):
                    await self._intake.progress.wait()

    async def _is_matched(self, sequence: int) -> bool:
        consumer = await self._broker.consumer_state(self._names.events, ENGINE_CONSUMER)
        return consumer.ack_floor >= sequence

    async def _runs(self, request: RunsOfEvent) -> list[str]:
        event = EventRecord(id=request.id, name=request.name, time="", target=request.target)
        matcher = await self._functions.current()
        candidates = [start.run for start in matcher.starts(event, request.sequence, 0)]
        versions = await self._store.load_all(candidates)
        # A state that cannot be read now is there all the same.
        return [
            run
            for run, version in zip(candidates, versions, strict=True)
            if isinstance(version, UnreadableState) or _version(version).state is not None
        ]

    async def _window(self, subject_filter: str, after: int, before: int) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        async for page in self._broker.read(self._names.events, subject_filter, after):
            found += [message for message in page if message.sequence < before]
            if page[-1].sequence >= before:
                break
        return found


def _version(version: Version | BrokerError) -> Version:
    if isinstance(version, BrokerError):
        raise version
    return version


def _subject_filter(names: Names, name: str | None) -> str:
    if name is None:
        return f"{names.namespace}.events.>"
    check_trigger(name)
    tokens = [token if token in ("*", ">") else escape_token(token) for token in name.split(".")]
    return f"{names.namespace}.events.{'.'.join(tokens)}"


def _view(message: StoredMessage, room: int) -> StoredEvent | None:
    """Return an event as it is shown, with its data where there is room for that; None where it cannot be read."""
    try:
        view = stored_event(decode_record(EventRecord, message.payload), message.sequence)
    except SerializationError:
        return None
    return view if len(view.data) <= room else msgspec.structs.replace(view, data=NULL, left_out=True)
