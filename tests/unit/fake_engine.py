"""A broker and an engine in one, which answers what a test has put into it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import msgspec
from click.testing import CliRunner, Result

from ironflow.broker.protocol import (
    Ambiguous,
    Broker,
    Listener,
    NoSuchStream,
    Publication,
    Stored,
    StoredMessage,
    StreamState,
    Unavailable,
)
from ironflow.cli.main import cli
from ironflow.client import Client
from ironflow.codec import decode_record
from ironflow.errors import EngineUnavailableError
from ironflow.messages import (
    Cancellation,
    CancelRun,
    DeleteFunction,
    Done,
    EventRuns,
    EventsPage,
    EventView,
    Failure,
    FunctionsPage,
    FunctionView,
    GetRun,
    GetRunPart,
    GetSteps,
    ListEvents,
    ListRuns,
    QueuesPage,
    QueueView,
    Reply,
    Retried,
    RetryRun,
    RunsOfEvent,
    RunsPage,
    RunView,
    StepsPage,
    StepView,
    StoredEvent,
    WorkersPage,
    WorkerView,
)
from ironflow.names import Names
from ironflow.records import NULL, TERMINAL, EventRecord, RunStatus


def raw(text: str) -> msgspec.Raw:
    """Return JSON as answers hold it."""
    return msgspec.Raw(text.encode())


def run_view(id: str = "r1", **changes: Any) -> RunView:
    """Return a completed run with some of its fields changed."""
    fields: dict[str, Any] = {
        "function": "process-order",
        "queue": "orders",
        "status": "completed",
        "compensation": None,
        "event": EventView(id="o-1", name="order.placed", data=raw('{"orderId":"o-1"}')),
        "attempt": 1,
        "output": raw('{"total":1.00}'),
        "error": None,
        "started_at": "2026-11-21T20:03:00.000Z",
        "finished_at": "2026-11-21T20:03:01.500Z",
    }
    return RunView(id=id, **{**fields, **changes})


def running_view(id: str = "r1", **changes: Any) -> RunView:
    """Return a run that goes on, with some of its fields changed."""
    return run_view(id, **{"status": "running", "output": NULL, "finished_at": None, **changes})


def step_view(name: str = "fetch", **changes: Any) -> StepView:
    """Return a completed step with some of its fields changed."""
    fields: dict[str, Any] = {
        "scope": (),
        "kind": "run",
        "status": "completed",
        "attempt": 1,
        "output": raw("1"),
        "error": None,
        "started_at": "2026-11-21T20:03:00.000Z",
        "finished_at": "2026-11-21T20:03:00.012Z",
    }
    return StepView(name=name, **{**fields, **changes})


class FakeSubscription:
    """A subscription that can be ended."""

    async def stop(self) -> None:
        """Do nothing: the fake sends what a test tells it to."""


class FakeEngine:
    """Stands in for the connection of a client.

    Attributes:
        runs: what each run shows, one view after the other; the last one stays.
        started: the runs of an event, by its name; a name that is missing was not got to yet.
        nats: whether NATS can be reached.
        up: whether an engine answers.
        asked: the verbs that were asked for.
        patience: how long each of them would have been waited for, in seconds.
        lost_answers: how many of the next events are stored without its being said.
        streams: whether an engine has ever made the streams.

    """

    def __init__(self) -> None:
        self.runs: dict[str, list[RunView]] = {}
        self.steps: dict[str, list[StepView]] = {}
        self.started: dict[str, tuple[str, ...]] = {}
        self.functions: list[FunctionView] = []
        self.workers: list[WorkerView] = []
        self.queues: list[QueueView] = []
        self.stored: list[StoredEvent] = []
        self.nats = True
        self.up = True
        self.asked: list[str] = []
        self.patience: list[float] = []
        self.requests: list[msgspec.Struct] = []
        self.published: list[EventRecord] = []
        self.connected_with: dict[str, str | None] = {}
        self.listeners: dict[str, Listener] = {}
        self.confirmed: list[bool] = []
        self.publish_error: Exception | None = None
        self.publish_seconds = 0.0
        self.lost_answers = 0
        self.streams = True

    @contextlib.asynccontextmanager
    async def connect(self, url: str | None = None, **options: str | None) -> AsyncGenerator[Client]:
        """Stand in for ironflow.connect."""
        self.connected_with = {"url": url, **options}
        if not self.nats:
            msg = "cannot reach NATS at nats://127.0.0.1:4222:\nconnection refused"
            raise EngineUnavailableError(msg)
        yield Client(cast("Broker", self), Names())

    async def publish(self, publication: Publication) -> Stored:
        """Keep an event; one whose id is there already stays as it is."""
        if self.publish_error is not None:
            raise self.publish_error
        await asyncio.sleep(self.publish_seconds)
        record = decode_record(EventRecord, publication.payload)
        ids = [event.id for event in self.published]
        if record.id in ids:
            return Stored(ids.index(record.id) + 1, duplicate=True)
        self.published.append(record)
        if self.lost_answers:
            self.lost_answers -= 1
            raise Ambiguous(publication.subject)
        return Stored(len(self.published))

    async def stream_state(self, stream: str) -> StreamState:
        """Return that a stream is there, where they are."""
        if not self.streams:
            raise NoSuchStream(stream)
        return StreamState(messages=0, first_sequence=1, last_sequence=0, size_bytes=0, created="once")

    async def at(self, _stream: str, sequence: int) -> StoredMessage | None:
        """Return a kept event."""
        payload = msgspec.json.encode(self.published[sequence - 1])
        return StoredMessage(subject="", payload=payload, sequence=sequence, time_ms=0)

    async def listen(
        self, subject: str, listener: Listener, _group: str = "", *, confirm: bool = True
    ) -> FakeSubscription:
        """Note who listens, and whether that is to be confirmed."""
        self.listeners[subject] = listener
        self.confirmed.append(confirm)
        return FakeSubscription()

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        """Answer as an engine does."""
        verb = subject.partition(".api.")[2]
        self.asked.append(verb)
        self.patience.append(timeout_seconds)
        if not self.up:
            raise Unavailable(verb)
        answer = self._answers()[verb](payload)
        if isinstance(answer, Failure):
            return msgspec.json.encode(Reply(failure=answer))
        return msgspec.json.encode(Reply(result=msgspec.Raw(msgspec.json.encode(answer))))

    def _answers(self) -> dict[str, Callable[[bytes], msgspec.Struct | msgspec.Raw]]:
        return {
            "runs.get": self._get_run,
            "runs.part": self._get_part,
            "runs.cancel": self._cancel_run,
            "runs.retry": self._retry_run,
            "runs.steps": self._get_steps,
            "runs.list": self._list_runs,
            "runs.of_event": self._runs_of_event,
            "functions.list": lambda _: FunctionsPage(functions=tuple(self.functions)),
            "functions.delete": self._delete_function,
            "workers.list": lambda _: WorkersPage(workers=tuple(self.workers)),
            "queues.list": lambda _: QueuesPage(queues=tuple(self.queues)),
            "events.list": self._list_events,
        }

    def _get_run(self, payload: bytes) -> RunView | Failure:
        views = self.runs.get(msgspec.json.decode(payload, type=GetRun).id)
        if not views:
            return Failure(type="RunNotFound", message="there is no such run")
        return views.pop(0) if len(views) > 1 else views[0]

    def _get_part(self, payload: bytes) -> msgspec.Raw:
        request = msgspec.json.decode(payload, type=GetRunPart)
        view = self.runs[request.id][0]
        return view.event.data if request.part == "event" else view.output

    def _cancel_run(self, payload: bytes) -> Cancellation | Failure:
        request = msgspec.json.decode(payload, type=CancelRun)
        self.requests.append(request)
        views = self.runs.get(request.id)
        if not views:
            return Failure(type="RunNotFound", message="there is no such run")
        status = views[0].status
        recorded = status not in TERMINAL and status != "compensating"
        after: RunStatus = "compensating" if request.compensate else "cancelled"
        return Cancellation(recorded=recorded, status=after if recorded else status)

    def _retry_run(self, payload: bytes) -> Retried | Failure:
        request = msgspec.json.decode(payload, type=RetryRun)
        self.requests.append(request)
        views = self.runs.get(request.id)
        if not views:
            return Failure(type="RunNotFound", message="there is no such run")
        view = views[0]
        recorded = view.status == "failed"
        return Retried(
            recorded=recorded, status="queued" if recorded else view.status, attempt=view.attempt + int(recorded)
        )

    def _get_steps(self, payload: bytes) -> StepsPage:
        request = msgspec.json.decode(payload, type=GetSteps)
        return StepsPage(steps=tuple(self.steps.get(request.id, ())), next=None)

    def _list_runs(self, payload: bytes) -> RunsPage:
        request = msgspec.json.decode(payload, type=ListRuns)
        self.requests.append(request)
        views = [views.pop(0) if len(views) > 1 else views[0] for views in self.runs.values()]
        return RunsPage(runs=tuple(reversed(views))[: request.limit], next=None)

    def _runs_of_event(self, payload: bytes) -> EventRuns:
        runs = self.started.get(msgspec.json.decode(payload, type=RunsOfEvent).name)
        return EventRuns(runs=runs or (), matched=runs is not None)

    def _delete_function(self, payload: bytes) -> Done:
        gone = msgspec.json.decode(payload, type=DeleteFunction).id
        left = [function for function in self.functions if function.id != gone]
        changed = len(left) < len(self.functions)
        self.functions = left
        return Done(changed=changed)

    def _list_events(self, payload: bytes) -> EventsPage:
        request = msgspec.json.decode(payload, type=ListEvents)
        self.requests.append(request)
        return EventsPage(events=tuple(self.stored[: request.limit]), next=None)


class Shell:
    """Runs command lines against a fake engine."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def __call__(self, *words: str, stdin: str | bytes = "", env: dict[str, str] | None = None) -> Result:
        """Run ``ironflow`` with these words."""
        return CliRunner().invoke(cli, list(words), input=stdin, env=env, prog_name="ironflow")

    def json(self, *words: str) -> Any:
        """Run ``ironflow`` with these words and ``--json``; return what it prints where it succeeds."""
        result = self(*words, "--json")
        assert result.exit_code == 0, result.stderr
        return msgspec.json.decode(result.stdout_bytes)
