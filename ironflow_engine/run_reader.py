"""Reads runs, their parts and their steps for the API."""

from __future__ import annotations

import base64
import binascii
import contextlib

import msgspec

from ironflow.broker.protocol import Broker
from ironflow.codec import decode_record, encode_record
from ironflow.errors import DefinitionError, RunNotFoundError, SerializationError
from ironflow.messages import GetRun, GetRunPart, GetSteps, ListRuns, RunsPage, RunView, StepsPage, StepView
from ironflow.names import Names, readable
from ironflow.records import NULL, TERMINAL, EventRecord, InputRecord, OutcomeRecord, RunState, RunStatus
from ironflow_engine import epochs
from ironflow_engine.census import Census
from ironflow_engine.read_model import Place, ReadModel, RunQuery
from ironflow_engine.run_store import RunStore
from ironflow_engine.views import StepHistory, brief_view, run_view

ANSWER_BYTES = 600 * 1024
"""What an answer may carry at the most; NATS takes 1 MiB, and one payload may have 512 KiB."""

MOST_RUNS = 500


class RunReader:
    """Shows runs.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        census: knows which runs are being executed.
        read_model: finds runs by status, function and time.

    """

    def __init__(self, broker: Broker, names: Names, store: RunStore, census: Census, read_model: ReadModel) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._census = census
        self._read_model = read_model

    async def get(self, request: GetRun) -> RunView:
        """Return a run without its steps.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        state = await self.state(request.id)
        if request.brief:
            return brief_view(state, await self._output(state), ANSWER_BYTES)
        status = state.status
        if status == "queued" and state.id in await self._census.running():
            status = "running"
        return await self._view(state, status, ANSWER_BYTES)

    async def state(self, run: str) -> RunState:
        """Return the state of a run as it is stored.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        # Any text may be asked for, and only what can be a run's id may become part of a subject.
        version = await self._store.load(run) if run.isascii() and run.isalnum() else None
        if version is None or version.state is None:
            msg = f"no run {readable(run)}"
            raise RunNotFoundError(msg)
        return version.state

    async def part(self, request: GetRunPart) -> msgspec.Raw:
        """Return the JSON of one large part of a run.

        Raises:
            RunNotFoundError: there is no run with that id.

        """
        state = await self.state(request.id)
        return await self._event_data(state) if request.part == "event" else await self._output(state)

    async def page(self, request: ListRuns) -> RunsPage:
        """Return runs, newest first.

        Raises:
            DefinitionError: the limit or the place to go on from makes no sense.

        """
        if not 1 <= request.limit <= MOST_RUNS:
            msg = f"limit must be from 1 to {MOST_RUNS}, got {request.limit}"
            raise DefinitionError(msg)
        running = await self._census.running() if request.status in (None, "queued", "running") else frozenset[str]()
        await self._read_model.catch_up()
        states = self._read_model.query(_query(request, running))
        views: list[RunView] = []
        room = ANSWER_BYTES
        for state in states:
            status: RunStatus = "running" if state.status == "queued" and state.id in running else state.status
            view = await self._view(state, status, room)
            room -= len(view.event.data) + len(view.output)
            views.append(view)
        more = len(states) == request.limit
        return RunsPage(runs=tuple(views), next=_place_text(states[-1]) if more else None)

    async def steps(self, request: GetSteps) -> StepsPage:
        """Return the steps of a run after a place, as many as one answer carries.

        Raises:
            RunNotFoundError: there is no run with that id.

        """
        state = await self.state(request.id)
        outcome = await self._outcome(state) if state.status == "completed" else None
        history = StepHistory(epochs.current(state), frozenset(outcome.unasked) if outcome is not None else ())
        async for page in self._broker.read(self._names.journal, self._names.journal_of_run(state.queue, state.id)):
            history.read(page)
        ended = state.status in TERMINAL
        steps: list[StepView] = []
        room = ANSWER_BYTES
        last = request.after
        for sequence, step in history.recorded(with_open=not ended):
            if sequence <= request.after:
                continue
            size = len(encode_record(step))
            if steps and size > room:
                return StepsPage(steps=tuple(steps), next=last)
            room -= size
            last = sequence
            steps.append(step)
        open_steps = [] if ended else history.open_steps()
        return StepsPage(steps=(*steps, *open_steps), next=None)

    async def _view(self, state: RunState, status: RunStatus, room: int) -> RunView:
        """Return a run with as many of its large parts as there is room for."""
        left_out: list[str] = []
        data = await self._event_data(state)
        if len(data) > room:
            data, left_out = NULL, ["event"]
        output = await self._output(state)
        if len(data) + len(output) > room:
            output, left_out = NULL, [*left_out, "output"]
        view = run_view(state, status=status, event_data=data, output=output)
        return msgspec.structs.replace(view, left_out=tuple(left_out)) if left_out else view

    async def _event_data(self, state: RunState) -> msgspec.Raw:
        """Return the triggering event's data from wherever it still is; null where it is gone."""
        message = await self._broker.at(self._names.events, state.event_sequence)
        if message is not None:
            with contextlib.suppress(SerializationError):  # such a one ends its run at once
                event = decode_record(EventRecord, message.payload)
                if event.id == state.event_id:
                    return event.data
        if not state.queue:  # the run never had a function, and so no journal
            return NULL
        message = await self._broker.last(self._names.journal, self._names.journal_input(state.queue, state.id))
        if message is not None:
            return decode_record(InputRecord, message.payload).event.data
        outcome = await self._outcome(state)
        return outcome.event.data if outcome is not None and outcome.event is not None else NULL

    async def _output(self, state: RunState) -> msgspec.Raw:
        if state.status != "completed":
            return NULL
        outcome = await self._outcome(state)
        return outcome.output if outcome is not None else NULL

    async def _outcome(self, state: RunState) -> OutcomeRecord | None:
        if state.status not in TERMINAL or not state.queue:
            return None
        subject = self._names.journal_outcome(state.queue, state.id, state.number)
        message = await self._broker.last(self._names.journal, subject)
        return decode_record(OutcomeRecord, message.payload) if message is not None else None


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
