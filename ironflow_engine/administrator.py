"""Functions, queues and workers: what is registered, and what is at work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ironflow.broker.protocol import Broker
from ironflow.broker.topology import queue_consumers
from ironflow.durations import parse_duration
from ironflow.function import check_function_id, check_queue
from ironflow.logs import get_logger
from ironflow.messages import (
    DeleteFunction,
    Done,
    FunctionsPage,
    QueuesPage,
    QueueView,
    Registered,
    RegisterFunctions,
    WorkersPage,
)
from ironflow.names import Names, readable
from ironflow.records import FunctionRecord
from ironflow_engine.census import Census
from ironflow_engine.fullness import queue_state
from ironflow_engine.function_store import FunctionStore, queues_of
from ironflow_engine.views import function_view

_log = get_logger("ironflow.engine")

_ANOTHER_APP = "if another app has a function of this id, give one of them another id"


class Administrator:
    """Registers functions and shows functions, queues and workers.

    Args:
        broker: the connection.
        names: the namespace.
        functions: the registered functions.
        census: knows the workers.
        lease_seconds: how long a worker keeps a task without renewing it.

    """

    def __init__(
        self, broker: Broker, names: Names, functions: FunctionStore, census: Census, lease_seconds: float
    ) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._census = census
        self._lease_seconds = lease_seconds

    async def register(self, request: RegisterFunctions) -> Registered:
        """Make functions known. Their queues come first, so that no task is ever published to none.

        Raises:
            DefinitionError: an id or a queue is not allowed; they become parts of subjects and names.
            LimitError: a run may take longer than any may.

        """
        for function in request.functions:
            check_function_id(function.id)
            check_queue(function.queue)
            if function.timeout_ms is not None:
                parse_duration(f"{function.timeout_ms}ms", f"timeout of function {function.id!r}")
        for queue in queues_of(request.functions):
            for consumer in queue_consumers(self._names, queue, self._lease_seconds):
                await self._broker.ensure_consumer(consumer)
        known = (await self._functions.current()).functions
        warnings: list[str] = []
        for function in request.functions:
            if await self._functions.put(function):
                _log.info(
                    "function registered", function=function.id, queue=function.queue, triggers=list(function.triggers)
                )
                warnings += _takeover(known.get(function.id), function)
        for warning in warnings:
            _log.warning(warning)
        return Registered(lease_seconds=self._lease_seconds, shards=self._names.shards, warnings=tuple(warnings))

    async def delete(self, request: DeleteFunction) -> Done:
        """End a function."""
        changed = await self._functions.delete(request.id)
        if changed:
            _log.info("function deleted", function=request.id)
        return Done(changed=changed)

    async def list_functions(self) -> FunctionsPage:
        """Return all functions, by id."""
        functions = (await self._functions.current()).functions
        return FunctionsPage(functions=tuple(function_view(functions[key]) for key in sorted(functions)))

    async def list_workers(self) -> WorkersPage:
        """Return the workers that answer now."""
        return WorkersPage(workers=tuple(answer.worker for answer in await self._census.workers()))

    async def list_queues(self) -> QueuesPage:
        """Return the queues of all functions, by name."""
        functions = list((await self._functions.current()).functions.values())
        queues = queues_of(functions)
        states = await asyncio.gather(*(queue_state(self._broker, self._names, queue) for queue in queues))
        return QueuesPage(
            queues=tuple(
                QueueView(
                    name=queue,
                    waiting=state.pending if state else 0,
                    running=state.ack_pending if state else 0,
                    redelivered=state.redelivered if state else 0,
                    functions=tuple(sorted(function.id for function in functions if function.queue == queue)),
                )
                for queue, state in zip(queues, states, strict=True)
            )
        )


def _takeover(before: FunctionRecord | None, now: FunctionRecord) -> Iterator[str]:
    """Say what is done elsewhere or for other events from now on: two apps may have one id without knowing."""
    if before is None:
        return
    if before.queue != now.queue:
        yield f"function {now.id} moved from queue {before.queue} to {now.queue}; {_ANOTHER_APP}"
    if set(before.triggers) != set(now.triggers):
        old, new = (", ".join(map(readable, each.triggers)) or "nothing" for each in (before, now))
        yield f"function {now.id} is triggered by {new} now, before by {old}; {_ANOTHER_APP}"
