"""Asks the engine, over NATS request/reply. Clients, commands and workers share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from ironflow.broker.protocol import Broker, BrokerError, Unavailable
from ironflow.codec import decode_record, encode_record
from ironflow.errors import EngineUnavailableError, IronflowError, RunNotFoundError
from ironflow.limits import check_reason
from ironflow.messages import (
    Cancellation,
    CancelRun,
    DeleteFunction,
    Done,
    EngineView,
    EventRuns,
    EventsPage,
    Failure,
    FunctionsPage,
    GetRun,
    GetRunPart,
    GetSteps,
    ListEvents,
    ListRuns,
    Message,
    QueuesPage,
    Registered,
    RegisterFunctions,
    Reply,
    Retried,
    RetryRun,
    RunsOfEvent,
    RunsPage,
    RunView,
    StepsPage,
    StepView,
    WorkersPage,
)
from ironflow.names import Names
from ironflow.records import FunctionRecord, RunStatus

A = TypeVar("A", bound=msgspec.Struct)

DEFAULT_TIMEOUT_SECONDS = 4.0
"""A command must say within five seconds that nobody answers."""

_PATIENT_SHARE = 0.5
_ASK_AGAIN_SECONDS = 0.1


class Empty(Message, frozen=True, kw_only=True):
    """A request without arguments."""


class EngineApi:
    """Requests to whichever engine of a namespace answers.

    Every method raises :class:`EngineUnavailableError` where none does.

    Args:
        broker: the connection to ask on.
        names: the namespace.
        timeout_seconds: how long to wait for an answer.

    """

    def __init__(self, broker: Broker, names: Names, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self._broker = broker
        self._names = names
        self._timeout = timeout_seconds

    async def status(self) -> EngineView:
        """Return the engine that answers."""
        return await self._ask("engine.status", Empty(), EngineView)

    async def register(self, functions: tuple[FunctionRecord, ...]) -> Registered:
        """Make functions known; the newest registration of an id wins."""
        return await self._ask("functions.register", RegisterFunctions(functions=functions), Registered)

    async def functions(self) -> FunctionsPage:
        """Return all registered functions."""
        return await self._ask("functions.list", Empty(), FunctionsPage)

    async def delete_function(self, function_id: str) -> Done:
        """End a function: events start no more runs of it."""
        return await self._ask("functions.delete", DeleteFunction(id=function_id), Done)

    async def run(self, run_id: str) -> RunView:
        """Return a run without its steps.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        return await self.complete(await self._ask("runs.get", GetRun(id=run_id), RunView))

    async def brief_run(self, run_id: str) -> RunView:
        """Return what whoever waits for a run's end must know of it, at less cost; :meth:`complete` adds the rest.

        Raises:
            RunNotFoundError: there is none with that id.

        """
        return await self._ask("runs.get", GetRun(id=run_id, brief=True), RunView)

    async def steps(self, run_id: str) -> list[StepView]:
        """Return a run's steps in the order in which they were recorded, open ones last.

        Raises:
            RunNotFoundError: there is no run with that id.

        """
        steps: list[StepView] = []
        after: int | None = 0
        after_open = 0
        while after is not None:
            request = GetSteps(id=run_id, after=after, after_open=after_open)
            page = await self._ask("runs.steps", request, StepsPage)
            steps.extend(page.steps)
            after, after_open = page.next, page.next_open
        return steps

    async def runs(
        self,
        *,
        status: RunStatus | None = None,
        function: str | None = None,
        since_ms: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[RunView]:
        """Yield runs, newest first; with a *limit*, at most that many."""
        before: str | None = None
        left = limit
        while left is None or left > 0:
            request = ListRuns(
                status=status,
                function=function,
                since_ms=since_ms,
                limit=min(50, left) if left is not None else 50,
                before=before,
            )
            page = await self._ask("runs.list", request, RunsPage)
            for run in page.runs:
                yield await self.complete(run)
            before = page.next
            if before is None:
                return
            left = left - len(page.runs) if left is not None else None

    async def cancel(self, run_id: str, reason: str | None = None, *, compensate: bool = False) -> Cancellation:
        """Cancel a run; when this returns, it has ended, by this or otherwise, or what it did is being undone.

        Raises:
            RunNotFoundError: there is none with that id.
            LimitError: the reason is too long.

        """
        check_reason(reason)
        request = CancelRun(id=run_id, reason=reason, compensate=compensate)
        return await self._ask("runs.cancel", request, Cancellation)

    async def retry(self, run_id: str) -> Retried:
        """Have a run that has failed go on; when this returns, it does, by this or otherwise.

        Raises:
            RunNotFoundError: there is none with that id.
            IronflowError: it cannot be retried: it never had a function, or its event is gone.

        """
        return await self._ask("runs.retry", RetryRun(id=run_id), Retried)

    async def runs_of_event(self, request: RunsOfEvent) -> EventRuns:
        """Return the runs that an event started."""
        return await self._ask("runs.of_event", request, EventRuns, extra_seconds=request.wait_ms / 1000)

    async def workers(self) -> WorkersPage:
        """Return the workers that answer just now."""
        return await self._ask("workers.list", Empty(), WorkersPage)

    async def queues(self) -> QueuesPage:
        """Return the queues of all registered functions."""
        return await self._ask("queues.list", Empty(), QueuesPage)

    async def events(self, request: ListEvents) -> EventsPage:
        """Return stored events, newest first."""
        return await self._ask("events.list", request, EventsPage)

    async def complete(self, run: RunView) -> RunView:
        """Fetch the parts of a run that an answer has left out.

        Raises:
            RunNotFoundError: there is no such run any more.

        """
        if "event" in run.left_out:
            data = await self._ask_raw("runs.part", GetRunPart(id=run.id, part="event"))
            run = msgspec.structs.replace(run, event=msgspec.structs.replace(run.event, data=data))
        run = await self.with_output(run)
        return msgspec.structs.replace(run, left_out=()) if run.left_out else run

    async def with_output(self, run: RunView) -> RunView:
        """Fetch the output of a run where an answer has left it out.

        Raises:
            RunNotFoundError: there is no such run any more.

        """
        if "output" not in run.left_out:
            return run
        output = await self._ask_raw("runs.part", GetRunPart(id=run.id, part="output"))
        return msgspec.structs.replace(
            run, output=output, left_out=tuple(part for part in run.left_out if part != "output")
        )

    async def _ask(self, verb: str, request: Message, answer: type[A], extra_seconds: float = 0.0) -> A:
        return decode_record(answer, bytes(await self._ask_raw(verb, request, extra_seconds)))

    async def _ask_raw(self, verb: str, request: Message, extra_seconds: float = 0.0) -> msgspec.Raw:
        payload = await self._ask_patiently(verb, encode_record(request), self._timeout + extra_seconds)
        reply = decode_record(Reply, payload)
        if reply.failure is not None:
            raise _error_of(reply.failure)
        return reply.result

    async def _ask_patiently(self, verb: str, payload: bytes, seconds: float) -> bytes:
        """Ask again for a while where nobody listens: an engine that restarts is away for a second."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        patience = loop.time() + self._timeout * _PATIENT_SHARE
        while True:
            try:
                return await self._broker.request(self._names.api(verb), payload, max(0.1, deadline - loop.time()))
            except Unavailable as error:
                if loop.time() + _ASK_AGAIN_SECONDS > patience:
                    msg = (
                        f"no engine answers in namespace {self._names.namespace!r}; "
                        f"start one with 'ironflow-engine' or 'ironflow dev' ({error})"
                    )
                    raise EngineUnavailableError(msg) from error
            except BrokerError as error:
                msg = f"cannot ask the engine in namespace {self._names.namespace!r}: {error}"
                raise EngineUnavailableError(msg) from error
            await asyncio.sleep(_ASK_AGAIN_SECONDS)


def _error_of(failure: Failure) -> IronflowError:
    match failure.type:
        case "RunNotFound":
            return RunNotFoundError(failure.message)
        case "Unavailable":
            return EngineUnavailableError(failure.message)
        case _:
            return IronflowError(failure.message)
