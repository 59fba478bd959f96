"""Cancels runs for whoever asks."""

from __future__ import annotations

from ironflow.limits import check_reason
from ironflow.messages import Cancellation, CancelRun
from ironflow.records import TERMINAL, ErrorRecord
from ironflow_engine.run_reader import RunReader
from ironflow_engine.terminator import Terminator


class Canceller:
    """Cancels runs.

    Args:
        terminator: ends runs.
        runs: knows how a run ended that cannot be cancelled any more.

    """

    def __init__(self, terminator: Terminator, runs: RunReader) -> None:
        self._terminator = terminator
        self._runs = runs

    async def cancel(self, request: CancelRun) -> Cancellation:
        """Cancel a run, unless it has ended or is being unwound.

        Raises:
            RunNotFoundError: there is none with that id.
            LimitError: the reason is too long.

        """
        check_reason(request.reason)
        state = await self._runs.state(request.id)
        error = ErrorRecord(type="Cancelled", message=request.reason) if request.reason else None
        recorded = await self._terminator.end(state.id, "cancelled", error, compensate=request.compensate)
        if recorded and not request.compensate:
            return Cancellation(recorded=True, status="cancelled")
        status = (await self._runs.state(request.id)).status
        # Where the end could not be folded yet, the stored status is still the one before it.
        return Cancellation(recorded=recorded, status="compensating" if recorded and status not in TERMINAL else status)
