"""Runs a handler once, from the top, and says how the pass ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace

from ironflow.broker.protocol import BrokerError, MessageTooLarge
from ironflow.context import Context, RunInfo
from ironflow.errors import DefinitionError, PayloadTooLargeError, SerializationError
from ironflow.events import read_event
from ironflow.function import Function
from ironflow.logs import get_logger
from ironflow.names import PASS_TOKEN, step_key
from ironflow.records import (
    CompensationStatus,
    ErrorRecord,
    EventRecord,
    OutcomeRecord,
    OutcomeStatus,
    Task,
    TryRecord,
    WaitEnd,
)
from ironflow_worker.attempts import encoded
from ironflow_worker.bodies import leave_bodies
from ironflow_worker.calls import Unawaited
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.failures import error_record, is_parked
from ironflow_worker.lingering import Lingering
from ironflow_worker.log_bindings import logged_function, logged_run
from ironflow_worker.memo import Memo
from ironflow_worker.naps import Naps
from ironflow_worker.pass_tools import PassTools
from ironflow_worker.run_log import run_log
from ironflow_worker.signals import PassStopped, exit_text, is_pass_end
from ironflow_worker.step_client import StepClient
from ironflow_worker.strands import Strand, strand_here
from ironflow_worker.told_ends import ToldEnds
from ironflow_worker.unwinding import Unwinding
from ironflow_worker.user_frames import without_our_frames

_log = get_logger("ironflow.worker")

T = TypeVar("T")

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
        naps: waits for sleeps that end in a moment; without, the pass ends when all that is left of it sleeps.
        lingering: stays for a moment for an event; without, the pass ends when it waits for one.
        lost: of a pass that undoes: why the undo that is next fails, rather than being begun.

    """

    def __init__(
        self,
        function: Function[Any, Any],
        task: Task,
        event: EventRecord,
        memo: Memo,
        tools: PassTools,
        naps: Naps | None = None,
        lingering: Lingering | None = None,
        lost: ErrorRecord | None = None,
    ) -> None:
        self._function = function
        self._task = task
        self._event = event
        self._memo = memo
        self._tools = tools
        self._lost = lost
        max_payload = tools.broker.server.max_payload
        self._current = CurrentPass(
            memo, tools.limits, event, max_payload, unwinds=task.mode == "compensate", naps=naps, lingering=lingering
        )
        self._ends = ToldEnds(tools)
        self._pass_key = step_key(PASS_TOKEN, task.attempt - 1)
        self._running: asyncio.Task[Any] | None = None
        self._stopped = False
        self._unawaited = Unawaited()

    async def run(self) -> OutcomeRecord:
        """Run the handler until it ends or all that is left of it waits; in a pass that undoes, the undos then.

        All that the pass recorded is acknowledged when this returns.

        Raises:
            BrokerError: something could not be recorded; the pass is to be done again.
            PassStopped: :meth:`stop` was called.
            CancelledError: the worker gives the pass up.

        """
        if self._stopped:
            raise PassStopped
        try:
            if self._task.end is not None:
                self._current.follows = self._ends.take(self._task.end, by_hint=False)
            outcome = await self._run()
            await self._ends.recorded()
        finally:
            self._ends.stop()
            # How it has ended leads back here; the journal would stay until the garbage collector comes.
            self._running = None
        return outcome

    async def _run(self) -> OutcomeRecord:
        if self._current.unwinds:
            return await self._unwind()
        if self._memo.is_backing_off(self._pass_key):
            return self._suspended()
        try:
            context = self._context()
        except SerializationError as error:
            return self._unreadable_event(error)
        return await self._conclude(await self._run_handler(context))

    def tell(self, end: WaitEnd | None) -> None:
        """Let the handler go on where the pass lingers for the end of a wait, which the journal may not have yet.

        Args:
            end: of the wait; None where the pass is not to linger any more.

        """
        if end is None:
            self._current.linger_no_more()
        elif self._current.tell(end):
            # No body begins, and nothing is recorded, before the journal has it.
            self._current.follows = self._ends.take(end, by_hint=True)

    def stop(self) -> None:
        """End the pass at once, since nothing that it does counts any more; no further step begins."""
        self._stopped = True
        self._current.end()
        if self._running is not None:
            self._running.cancel()

    def too_large(self, outcome: OutcomeRecord, error: MessageTooLarge) -> OutcomeRecord:
        """Return the outcome in place of one that the server does not take, or whose event it does not take."""
        what = "output" if outcome.status == "completed" else "the triggering event"
        failure = error_record(PayloadTooLargeError(f"{what} is larger than the server takes: {error}"))
        if outcome.status == "completed":
            return self._fail(self._logged(failure))
        # Without its event the run cannot have another pass, and so none that undoes.
        undone = "failed" if outcome.status == "compensating" else None
        return replace(
            self._outcome("failed", error=outcome.error or failure, compensation=undone),
            event=None,
        )

    async def _run_handler(self, context: Context[Any]) -> asyncio.Task[Any]:
        """Run the handler until the pass is over; return its task, which has ended, or will not."""
        handler = self._start(self._handle(context))
        try:
            await self._until_over(handler)
        except asyncio.CancelledError:
            self._current.end()
            await _cancel(handler)
            raise
        if self._stopped:
            raise PassStopped
        self._unawaited = self._current.calls.end()
        return handler

    def _start(self, begun: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start what :meth:`stop` is to cancel."""
        self._running = asyncio.get_running_loop().create_task(begun, name=f"run {self._task.run}")
        return self._running

    def _bind_log(self) -> None:
        """Have also what libraries log within this task say which run it is about; it has a context of its own."""
        logged_run.set(self._task.run)
        logged_function.set(self._task.function)

    async def _unwind(self) -> OutcomeRecord:
        """Replay the handler to learn what there is to undo, undo it, and end the run as it was to end."""
        cause = self._memo.unwinding
        if cause is None:
            msg = f"the journal of run {self._task.run} does not say yet why it is unwound"
            raise BrokerError(msg)
        all_known = await self._learn_undos()
        unwinding = Unwinding(self._memo, self._tools, self._function.retry.policy, self._lost)
        undos = self._start(self._undo(unwinding))
        try:
            await asyncio.wait([undos])
        except asyncio.CancelledError:
            await _cancel(undos)
            raise
        if self._stopped:
            _ending(undos)
            raise PassStopped
        undone = undos.result()
        if unwinding.gave_up:
            return self._outcome("compensating", error=cause.error, ending=cause.ending)
        if undone == "running":
            self._current.note_due(unwinding.next_due_ms, backs_off=True)
            return self._suspended()
        compensation = undone if all_known else "failed"
        return self._outcome(cause.ending, error=cause.error, compensation=compensation)

    async def _undo(self, unwinding: Unwinding) -> CompensationStatus | None:
        self._bind_log()
        return await unwinding.run(self._current.undos)

    async def _learn_undos(self) -> bool:
        """Replay the handler; return whether it could register all undos that it has."""
        try:
            context = self._context()
        except SerializationError:
            self._tools.log.exception("undos not known: the event cannot be read any more")
            return False
        handler = await self._run_handler(context)
        error = _ending(handler)
        if self._current.failure is not None:
            raise self._current.failure
        if error is not None and is_parked(error):
            self._tools.log.error("not all undos are known: the code does not fit the run any more", reason=str(error))
            return False
        return True

    async def _handle(self, context: Context[Any]) -> Any:
        self._bind_log()
        leave_bodies()
        self._current.begin_here()
        strand = Strand()
        strand_here.set(strand)
        self._current.add(strand)
        try:
            return await self._function.handler(context)
        except (SystemExit, KeyboardInterrupt) as error:
            # A task that raises it ends the process, and so would the next worker that takes the run.
            msg = f"the handler {exit_text(error)}"
            raise RuntimeError(msg) from error
        finally:
            try:
                if self._current.unwinds:
                    # What the handler leaves behind has undos too: a gather of which one part has failed, say.
                    await self._current.quiet()
            finally:
                self._current.remove(strand)
                self._current.end()

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
            log=run_log(self._logger),
        )

    def _logger(self) -> Any:
        task = self._task
        return structlog.wrap_logger(_log, processors=[self._drop_on_replay], run=task.run, function=task.function)

    def _drop_on_replay(self, _logger: Any, _method: str, event: Any) -> Any:
        if self._current.is_replaying:
            raise structlog.DropEvent
        return event

    async def _until_over(self, handler: asyncio.Task[Any]) -> None:
        """Wait until the pass is over, because the handler has ended or all that is left of it waits."""
        await self._current.over.wait()
        if not handler.done():
            await asyncio.wait([handler], timeout=_UNWIND_SECONDS)
        if not handler.done():
            await _cancel(handler)
        if self._stopped:
            return
        # Branches that the handler has left behind may still be recording something.
        await self._current.idle()

    async def _conclude(self, handler: asyncio.Task[Any]) -> OutcomeRecord:
        # It is looked at in any case: asyncio complains about what nobody has seen.
        error = _ending(handler)
        if self._current.failure is not None:
            raise self._current.failure
        if not handler.done():
            self._tools.log.error("a handler cannot be stopped and is left to itself")
            return self._fail(self._logged(_swallowed("goes on")))
        if error is None and self._current.ended_early:
            return self._fail(self._logged(_swallowed("returned")))
        if error is None:
            error = self._forgotten()
        if error is None:
            return self._completed(handler)
        if is_pass_end(error):
            return self._suspended()
        if isinstance(error, asyncio.CancelledError):
            if self._current.ended_early:
                self._tools.log.warning("a handler took too long to clean up at the end of a pass, and was cancelled")
                return self._suspended()
            error = RuntimeError("the handler was cancelled from within")
        return await self._fail_or_try_again(error)

    def _forgotten(self) -> DefinitionError | None:
        """Return what is wrong with a handler that has returned and left a step that it called without awaiting it."""
        if self._unawaited.let_go is not None:
            self._tools.log.warning("a step was called and not awaited, nothing was done", call=self._unawaited.let_go)
        forgotten = self._unawaited.forgotten
        if forgotten is None:
            return None
        msg = f"{forgotten} was called and never awaited, so nothing was done; write 'await' in front of it"
        return DefinitionError(msg)

    def _completed(self, handler: asyncio.Task[Any]) -> OutcomeRecord:
        try:
            output = encoded(handler.result(), "output", self._tools.limits, self._function.output_type)
        except (SerializationError, PayloadTooLargeError) as error:
            return self._fail(self._logged(error_record(error)))
        return self._outcome("completed", output=output, unasked=self._current.names.unasked())

    async def _fail_or_try_again(self, error: BaseException) -> OutcomeRecord:
        """Fail the run, or have the whole pass done again after the function's back-off."""
        earlier = self._memo.failed_attempt(self._pass_key)
        attempt = 1 if earlier is None else earlier.attempt + 1
        tools = self._tools
        delay_ms = tools.delay_after(error, self._function.retry.policy, attempt)
        if delay_ms is None:
            failure = self._logged(error_record(error, attempts=attempt), without_our_frames(error))
            # A run that does not fit its code goes on where it stands, once the code is right: it keeps what it did.
            return self._end_failed(failure) if is_parked(error) else self._fail(failure)
        record = TryRecord(
            name="", kind="run", token=tools.token, attempt=attempt, delay_ms=delay_ms, error=error_record(error)
        )
        tools.log.warning(
            "handler failed outside its steps, will be run again",
            attempt=attempt,
            delay_ms=delay_ms,
            error=record.error.type,
            error_text=record.error.message,
            exc_info=without_our_frames(error),
        )
        await tools.append(tools.names.journal_try(tools.queue, tools.run, self._pass_key, attempt), record)
        self._current.note_due(tools.due_ms(delay_ms), backs_off=True)
        return self._suspended()

    def _unreadable_event(self, error: SerializationError) -> OutcomeRecord:
        # Where steps have results, earlier code could read it. Without it nobody knows what there is to undo, so the
        # run keeps what it did, and goes on there once the code is right.
        return self._end_failed(self._logged(error_record(error)))

    def _logged(self, failure: ErrorRecord, raised: BaseException | None = None) -> ErrorRecord:
        """Log that the run fails, and return why.

        Args:
            failure: why.
            raised: what has left the handler, if that is why.

        """
        self._tools.log.warning("run failed", error=failure.type, error_text=failure.message, exc_info=raised)
        return failure

    def _fail(self, error: ErrorRecord) -> OutcomeRecord:
        """Return the outcome of a run that fails; where it has something to undo, other passes do that first."""
        # What this pass did not come to, in a branch that was cancelled say, may have undos as well.
        if self._current.undos or self._current.names.leaves_results():
            return self._outcome("compensating", error=error, ending="failed")
        return self._end_failed(error)

    def _end_failed(self, error: ErrorRecord) -> OutcomeRecord:
        return self._outcome("failed", error=error)

    def _suspended(self) -> OutcomeRecord:
        current = self._current
        return self._outcome("suspended", due_ms=current.next_due_ms, only_sleeps=current.only_sleeps)

    def _outcome(self, status: OutcomeStatus, **details: Any) -> OutcomeRecord:
        # What goes on or can be retried needs its event, which EVENTS forgets.
        keeps_event = status != "completed" and self._memo.event is None
        return OutcomeRecord(
            number=self._task.number,
            status=status,
            token=self._tools.token,
            seen=self._memo.seen,
            told=self._task.end is not None,
            heard=self._ends.heard,
            event=self._event if keeps_event else None,
            **details,
        )


def _swallowed(ending: str) -> ErrorRecord:
    return ErrorRecord(
        type="PassEndSwallowed",
        message=(
            f"the handler caught the signal that ends a pass, and then {ending}. A step that waits raises it "
            "through the handler; let it pass: catch Exception rather than BaseException, use no bare 'except', "
            "and return nothing from a 'finally'. asyncio.wait() and asyncio.gather(…, return_exceptions=True) keep it "
            "for themselves too: for all results and failures use step.parallel(…, on_error='all_settled'), for an "
            "event or a time, whichever comes first, step.wait_for_event(…, timeout=…, on_timeout='none')"
        ),
    )


async def _cancel(handler: asyncio.Task[Any]) -> None:
    """Cancel a handler, and wait until it has ended; one that will not end is left to itself."""
    handler.cancel()
    await asyncio.wait([handler], timeout=_UNWIND_SECONDS)
    _ending(handler)


def _ending(handler: asyncio.Task[Any]) -> BaseException | None:
    """Return what a handler ended with; None where it returned, or goes on."""
    if not handler.done():
        return None
    return asyncio.CancelledError() if handler.cancelled() else handler.exception()
