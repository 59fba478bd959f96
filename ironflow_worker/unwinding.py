"""Undoes what a run did: runs its undos one after the other, the one of the newest step first."""

from __future__ import annotations

import functools

from ironflow.errors import named_error
from ironflow.records import CompensationStatus, ErrorRecord, StepRecord
from ironflow.retry import RetryPolicy
from ironflow_worker.attempts import Attempt, Call, encoded_result
from ironflow_worker.memo import Memo
from ironflow_worker.pass_tools import PassTools, WorkerDrains
from ironflow_worker.undos import Undo, Undos


class Unwinding:
    """The undos of a run, as far as one pass comes with them.

    Each is memoized like a step, and retried like one. The next one begins only when the one before it has a
    result, since an undo may build on what those before it have undone.

    Args:
        memo: what is recorded of the run.
        tools: what is needed to do and record things.
        policy: the function's retry policy.
        lost: why the undo that is next fails, rather than being begun; None where it is begun.

    Attributes:
        next_due_ms: about when the undo is to be tried again that has failed just now; 0 where none has.
        gave_up: whether an undo has failed rather than being begun. The rest is for a pass of its own, whose losses
            count anew.

    """

    def __init__(self, memo: Memo, tools: PassTools, policy: RetryPolicy, lost: ErrorRecord | None = None) -> None:
        self._memo = memo
        self._tools = tools
        self._policy = policy
        self._lost = lost
        self.next_due_ms = 0
        self.gave_up = False

    async def run(self, undos: Undos) -> CompensationStatus | None:
        """Run the undos that have no result yet.

        Returns:
            How they have ended, as a whole; "running" where another pass has to go on with them, and None where there
            are none.

        Raises:
            BrokerError: something could not be recorded; the pass is to be done again.
            SerializationError: what is recorded of an undo cannot be read.

        """
        if not undos:
            return None
        failed = False
        for undo in undos.newest_first():
            record = self._memo.step(undo.key) or await self._undo(undo)
            if record is None:
                return "running"
            failed = failed or record.status == "failed"
        return "failed" if failed else "completed"

    async def _undo(self, undo: Undo) -> StepRecord | None:
        """Undo a step once; None where another pass has to go on."""
        if self._memo.is_backing_off(undo.key):
            return None
        if self._tools.bodies.no_more:
            raise WorkerDrains
        call = Call(undo.name, undo.key, "compensate", undo.scope, self._policy)
        body = functools.partial(self._tools.bodies.run, undo.name, undo.body, is_async=undo.is_async, timeout_ms=None)
        do = functools.partial(encoded_result, undo.name, body, self._tools.limits)
        attempt = Attempt(call, self._memo, self._tools, self._tools.append)
        if self._lost is not None:
            self._report(undo, (await attempt.give_up(self._lost)).record)
            self.gave_up = True
            return None
        standing = await attempt.make(do)
        if standing is None:
            self.next_due_ms = attempt.next_due_ms
            return None
        self._report(undo, standing.record)
        return standing.record

    def _report(self, undo: Undo, record: StepRecord) -> None:
        if record.error is None:
            self._tools.log.info("step undone", step=undo.undone)
        else:
            error = named_error(record.error.type, record.error.message)
            self._tools.log.error("step not undone, the rest is", step=undo.undone, error=error)
