"""Reads runs, their parts and their steps for the API."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from ironflow.broker.protocol import Broker, Unavailable
from ironflow.codec import decode_record, encode_record
from ironflow.errors import DefinitionError, RunNotFoundError, SerializationError
from ironflow.logs import get_logger
from ironflow.messages import GetRun, GetRunPart, GetSteps, ListRuns, RunsPage, RunView, StepsPage, StepView
from ironflow.names import Names, readable
from ironflow.records import NULL, TERMINAL, EventRecord, InputRecord, OutcomeRecord, RunState, RunStatus
from ironflow_engine import epochs
from ironflow_engine.answers import Room
from ironflow_engine.census import Census
from ironflow_engine.history import NO_PARTS, History, RunParts
from ironflow_engine.journal_intake import read_fact
from ironflow_engine.read_model import Place, RunQuery
from ironflow_engine.reducer import decide
from ironflow_engine.run_lists import RunLists
from ironflow_engine.run_store import RunStore
from ironflow_engine.triggering_event import recorded_event
from ironflow_engine.views import StepHistory, brief_view, run_view

_log = get_logger("ironflow.engine")

MOST_RUNS = 500
_AT_A_TIME = 20
"""The large parts of so many runs are read at a time; each may have a megabyte."""


class RunReader:
    """Shows runs.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        census: knows which runs are being executed.
        lists: finds runs by status, function and time.
        history: knows what NATS no longer holds.

    """

    def __init__(
        self, broker: Broker, names: Names, store: RunStore, census: Census, lists: RunLists, history: History
    ) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._census = census
        self._lists = lists
        self._history = history

    async def get(self, request: GetRun) -> RunView:
        """Return a run without its steps.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        state = await self.state(request.id)
        if request.brief:
            parts = (await self._archived([state])).get(state.id, NO_PARTS)
            return brief_view(state, await self._output(state, parts), Room(self._broker).left)
        status = state.status
        if status == "queued" and state.id in await self._census.running():
            status = "running"
        return await self._view(state, status, Room(self._broker).left, await self._archived([state]))

    async def state(self, run: str) -> RunState:
        """Return the state of a run as it is stored; of one that has completed, also where that is not stored yet.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        # Any text may be asked for, and only what can be a run's id may become part of a subject.
        if run.isascii() and run.isalnum():
            state = (await self._store.load(run)).state or await self._history.run(run)
            if state is not None:
                return await self._as_recorded(state) if state.live else state
        msg = f"no run {readable(run)}"
        raise RunNotFoundError(msg)

    async def _as_recorded(self, state: RunState) -> RunState:
        """Return a live run's state with what is recorded of its end: whoever asks may have been told already."""
        subject = self._names.journal_outcome(state.queue, state.id, state.number)
        message = await self._broker.last(self._names.shard_of(state.id).journal, subject)
        if message is None:
            return state
        try:
            ended = decide(state, read_fact(message)).state
        except SerializationError:
            return state  # the intake says so
        return ended if ended is not None and ended.status == "completed" else state

    async def part(self, request: GetRunPart) -> msgspec.Raw:
        """Return the JSON of one large part of a run.

        Raises:
            RunNotFoundError: there is no run with that id.

        """
        state = await self.state(request.id)
        parts = (await self._archived([state])).get(state.id, NO_PARTS)
        return await self._event_data(state, parts) if request.part == "event" else await self._output(state, parts)

    async def page(self, request: ListRuns) -> RunsPage:
        """Return runs, newest first, as many as were asked for or one answer carries.

        Raises:
            DefinitionError: the limit or the place to go on from makes no sense.

        """
        if not 1 <= request.limit <= MOST_RUNS:
            msg = f"limit must be from 1 to {MOST_RUNS}, got {request.limit}"
            raise DefinitionError(msg)
        running = await self._census.running() if request.status in (None, "queued", "running") else frozenset[str]()
        states = await self._lists.find(_query(request, running))
        views: list[RunView] = []
        room = Room(self._broker)
        archived: dict[str, RunParts] = {}
        for place, state in enumerate(states):
            if place % _AT_A_TIME == 0:
                archived = await self._archived(states[place : place + _AT_A_TIME])
            status: RunStatus = "running" if state.status == "queued" and state.id in running else state.status
            view = await self._listed(state, status, room.left, archived)
            if not room.takes(view):
                return RunsPage(runs=tuple(views), next=_place_text(states[place - 1]))
            views.append(view)
        more = len(states) == request.limit
        return RunsPage(runs=tuple(views), next=_place_text(states[-1]) if more else None)

    async def steps(self, request: GetSteps) -> StepsPage:
        """Return the steps of a run after a place, as many as one answer carries; each is shown in one answer only.

        Raises:
            RunNotFoundError: there is no run with that id.

        """
        state = await self.state(request.id)
        parts = (await self._archived([state])).get(state.id, NO_PARTS)
        outcome = await self._outcome(state, parts) if state.status == "completed" else None
        history = StepHistory(epochs.current(state), frozenset(outcome.unasked) if outcome is not None else ())
        if state.purged:
            history.read(await self._history.steps(state.id))
        else:
            subject_filter = self._names.journal_of_run(state.queue, state.id)
            async for page in self._broker.read(self._names.shard_of(state.id).journal, subject_filter, one_each=True):
                history.read(page)
        for subject, reason in history.unreadable.items():
            _log.warning("a record of a run is not shown", run=state.id, subject=subject, reason=reason)
        ended = state.status in TERMINAL
        steps: list[StepView] = []
        room = Room(self._broker)
        last, last_open = request.after, request.after_open
        for sequence, step in history.recorded(with_open=not ended, but_of=request.after_open):
            if sequence <= request.after:
                continue
            if not room.takes(step):
                return StepsPage(steps=tuple(steps), next=last, next_open=last_open)
            last = sequence
            steps.append(step)
        for sequence, step in () if ended else history.open_steps(request.after_open):
            if not room.takes(step):
                return StepsPage(steps=tuple(steps), next=last, next_open=last_open)
            last_open = sequence
            steps.append(step)
        return StepsPage(steps=tuple(steps), next=None)

    async def _listed(self, state: RunState, status: RunStatus, room: int, archived: Mapping[str, RunParts]) -> RunView:
        """Return a run as lists show it: one of which something cannot be read must not hide the others."""
        try:
            return await self._view(state, status, room, archived)
        except SerializationError:
            return run_view(state, status=status, event_data=NULL, output=NULL)

    async def _view(self, state: RunState, status: RunStatus, room: int, archived: Mapping[str, RunParts]) -> RunView:
        """Return a run with as many of its large parts as there is room for."""
        left_out: list[str] = []
        parts = archived.get(state.id, NO_PARTS)
        data = await self._event_data(state, parts)
        if len(data) > room:
            data, left_out = NULL, ["event"]
        output = await self._output(state, parts)
        if len(data) + len(output) > room:
            output, left_out = NULL, [*left_out, "output"]
        view = run_view(state, status=status, event_data=data, output=output)
        return msgspec.structs.replace(view, left_out=tuple(left_out)) if left_out else view

    async def _event_data(self, state: RunState, archived: RunParts) -> msgspec.Raw:
        """Return the triggering event's data from wherever it still is; null where it is gone, or cannot be read."""
        payload = archived.event if state.purged else await self._event(state)
        if payload is not None:
            with contextlib.suppress(SerializationError):  # such a one ends its run at once
                event = decode_record(EventRecord, payload)
                if event.id == state.event_id:
                    return event.data
        if not state.queue:  # the run never had a function, and so no journal
            return NULL
        with contextlib.suppress(SerializationError):
            recorded = _kept_event(archived) if state.purged else await recorded_event(self._broker, self._names, state)
            return recorded.data if recorded is not None else NULL
        return NULL

    async def _output(self, state: RunState, archived: RunParts) -> msgspec.Raw:
        if state.status != "completed":
            return NULL
        outcome = await self._outcome(state, archived)
        return outcome.output if outcome is not None else NULL

    async def _outcome(self, state: RunState, archived: RunParts) -> OutcomeRecord | None:
        if state.status not in TERMINAL or not state.queue:
            return None
        subject = self._names.journal_outcome(state.queue, state.id, state.number)
        payload = archived.outcome if state.purged else await self._recorded(subject)
        return decode_record(OutcomeRecord, payload) if payload is not None else None

    async def _event(self, state: RunState) -> bytes | None:
        message = await self._broker.at(self._names.events, state.event_sequence)
        if message is not None:
            return message.payload
        # EVENTS forgets sooner than the run ends. What NATS has of the run is shown in any case.
        with contextlib.suppress(Unavailable):
            return (await self._history.parts([state])).get(state.id, NO_PARTS).event
        return None

    async def _recorded(self, subject: str) -> bytes | None:
        message = await self._broker.last(self._names.shard_behind(subject).journal, subject)
        return message.payload if message is not None else None

    async def _archived(self, states: Sequence[RunState]) -> dict[str, RunParts]:
        """Return the large parts of those runs that only the history has."""
        purged = [state for state in states if state.purged]
        return await self._history.parts(purged) if purged else {}


def _kept_event(archived: RunParts) -> EventRecord | None:
    """Return the triggering event as the journal had it."""
    first, kept = archived.first_outcome, archived.input
    if first is not None and (event := decode_record(OutcomeRecord, first).event) is not None:
        return event
    return None if kept is None else decode_record(InputRecord, kept).event


def _query(request: ListRuns, running: frozenset[str]) -> RunQuery:
    query = RunQuery(
        status=request.status,
        function=request.function,
        since_ms=request.since_ms,
        before=_read_place(request.before),
        limit=request.limit,
    )
    # A live run is stored as queued; whether it has begun, only the workers know.
    match request.status:
        case "running":
            return msgspec.structs.replace(query, status="queued", include=tuple(sorted(running)))
        case "queued":
            return msgspec.structs.replace(query, exclude=tuple(sorted(running)))
        case _:
            return query


def _place_text(state: RunState) -> str:
    return base64.urlsafe_b64encode(encode_record(Place(state.started_at, state.id))).decode()


def _read_place(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        return decode_record(Place, base64.urlsafe_b64decode(text))
    except (binascii.Error, SerializationError) as error:
        msg = f"{text!r} is no place in a list of runs"
        raise DefinitionError(msg) from error
