"""Runs a handler once, from the top, and says how the pass ended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import structlog

from ironflow.codec import encode_value
from ironflow.context import Context, RunInfo
from ironflow.errors import PayloadTooLargeError, SerializationError
from ironflow.events import read_event
from ironflow.function import Function
from ironflow.limits import check_payload
from ironflow.names import PASS_TOKEN
from ironflow.records import ErrorRecord, EventRecord, OutcomeRecord, Task, TryRecord
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.failures import delay_after, error_record
from ironflow_worker.memo import Memo
from ironflow_worker.pass_tools import PassTools
from ironflow_worker.signals import is_pass_end
from ironflow_worker.step_client import StepClient

_UNWIND_SECONDS = 5.0
"""How long a handler may take to clean up once its pass has ended, before it is cancelled."""


class Replay:
    """One pass of one run.

    Args:
        function: whose handler runs.
        task: the pass.
        event: what started the run.
        memo: what is recorded of it.
        tools: what its steps need.

    """

    def __init__(
        self, function: Function[Any, Any], task: Task, event: EventRecord, memo: Memo, tools: PassTools
    ) -> None:
        self._function = function
        self._task = task
        self._event = event
        self._memo = memo
        self._tools = tools
        self._current = CurrentPass(memo, tools.limits)

    async def run(self) -> OutcomeRecord:
        """Run the handler until it ends or all that is left of it waits.

        All that the pass recorded is acknowledged when this returns.

        Raises:
            BrokerError: something could not be recorded; the pass is to be done again.
            CancelledError: the worker gives the pass up.

        """
        if self._memo.is_backing_off(PASS_TOKEN):
            return self._outcome("suspended")
        try:
            context = self._context()
        except SerializationError as error:
            return self._failed(error_record(error))
        handler = asyncio.create_task(self._function(context), name=f"run {self._task.run}")
        try:
            await self._until_over(handler)
        except asyncio.CancelledError:
            self._current.end()
            handler.cancel()
            await asyncio.wait([handler])
            raise
        return await self._conclude(handler)

    def _context(self) -> Context[Any]:
        task = self._task
        return Context(
            event=read_event(self._event, self._function.input_type),
            step=StepClient(self._current, self._tools, self._function.retry.policy),
            run=RunInfo(
                id=task.run,
                function_id=task.function,
                attempt=task.attempt,
                started_at=datetime.fromtimestamp(task.started_at / 1000, UTC),
            ),
            log=structlog.wrap_logger(
                self._tools.log, processors=[self._drop_on_replay]
            ),
        )

    def _drop_on_replay(self, _logger: Any, _method: str, event: Any) -> Any:
        if self._current.is_replaying:
            raise structlog.DropEvent
        return event

    async def _until_over(self, handler: asyncio.Task[Any]) -> None:
        """Wait until the handler ends, or until all that is left of it waits; then end the pass."""
        quiet = asyncio.create_task(self._current.quiet.wait())
        try:
            await asyncio.wait((handler, quiet), return_when=asyncio.FIRST_COMPLETED)
        finally:
            quiet.cancel()
        self._ended_early = not handler.done()
        self._current.end()
        if self._ended_early:
            _, unfinished = await asyncio.wait([handler], timeout=_UNWIND_SECONDS)
            if unfinished:
                handler.cancel()
                await asyncio.wait([handler])
        # Branches that the handler has left behind may still be recording something.
        await self._current.idle.wait()

    async def _conclude(self, handler: asyncio.Task[Any]) -> OutcomeRecord:
        error = handler.exception() if not handler.cancelled() else asyncio.CancelledError("the handler was cancelled")
        if error is not None and is_pass_end(error):
            return self._outcome("suspended")
        if self._ended_early:
            return self._failed(_swallowed(error))
        if error is None:
            return self._completed(handler.result())
        if isinstance(error, Exception):
            return await self._fail_or_try_again(error)
        if isinstance(error, asyncio.CancelledError):
            return await self._fail_or_try_again(RuntimeError("the handler cancelled itself"))
        raise error

    def _completed(self, result: object) -> OutcomeRecord:
        try:
            output = encode_value(result, "output")
            check_payload(bytes(output), "output", self._tools.limits.payload_bytes)
        except (SerializationError, PayloadTooLargeError) as error:
            return self._failed(error_record(error))
        return self._outcome("completed", output=output)

    async def _fail_or_try_again(self, error: Exception) -> OutcomeRecord:
        """Fail the run, or have the whole pass done again after the function's back-off."""
        earlier = self._memo.failed_attempt(PASS_TOKEN)
        attempt = 1 if earlier is None else earlier.attempt + 1
        tools = self._tools
        delay_ms = delay_after(error, self._function.retry.policy, attempt, tools.chance())
        if delay_ms is None:
            tools.log.warning("run failed", error=f"{type(error).__name__}: {error}", exc_info=error)
            return self._failed(error_record(error, attempts=attempt))
        tools.log.warning(
            "handler failed outside its steps, will be run again", attempt=attempt, delay_ms=delay_ms, exc_info=error
        )
        record = TryRecord(
            name="", kind="run", token=tools.token, attempt=attempt, delay_ms=delay_ms, error=error_record(error)
        )
        await tools.append(tools.names.journal_try(tools.queue, tools.run, PASS_TOKEN, attempt), record)
        return self._outcome("suspended")

    def _failed(self, error: ErrorRecord) -> OutcomeRecord:
        event = self._event if self._memo.event is None else None
        return self._outcome("failed", error=error, event=event)

    def _outcome(self, status: Any, **details: Any) -> OutcomeRecord:
        return OutcomeRecord(
            number=self._task.number, status=status, token=self._tools.token, seen=self._memo.seen, **details
        )


def _swallowed(error: BaseException | None) -> ErrorRecord:
    ending = "returned" if error is None else f"raised {type(error).__name__}: {error}"
    return ErrorRecord(
        type="PassEndSwallowed",
        message=(
            f"the handler caught the signal that ends a pass, and then {ending}. A step that waits raises it "
            "through the handler; let it pass: catch Exception rather than BaseException, use no bare 'except', "
            "and return nothing from a 'finally'"
        ),
    )
