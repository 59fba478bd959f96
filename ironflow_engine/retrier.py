"""Retries runs that have failed, for whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ironflow.broker.protocol import Broker, BrokerError, Unavailable
from ironflow.errors import DefinitionError, RunNotFoundError
from ironflow.journal import Journal
from ironflow.logs import get_logger
from ironflow.messages import Retried, RetryRun
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow.records import InputRecord, RetryRecord, RunState
from ironflow_engine.conductor import Conductor
from ironflow_engine.retry_reader import RetryReader
from ironflow_engine.run_reader import RunReader
from ironflow_engine.triggering_event import event_in_stream, recorded_event

_log = get_logger("ironflow.engine")

_TRIES = 5
_PAUSE_SECONDS = 0.1


class Retrier:
    """Opens the next epoch of a run.

    The journal takes one retry of each epoch. So of several who retry a run at the same time one does it, and
    the run goes on once.

    Args:
        broker: the connection.
        names: the namespace.
        runs: knows where runs stand.
        conductor: applies what was recorded.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, names: Names, runs: RunReader, conductor: Conductor, make_token: Callable[[], str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._runs = runs
        self._conductor = conductor
        self._journal = Journal(broker, names)
        self._reader = RetryReader(broker, names)
        self._make_token = make_token

    async def retry(self, request: RetryRun) -> Retried:
        """Retry a run, where it has failed.

        Raises:
            RunNotFoundError: there is none with that id.
            DefinitionError: it cannot be retried: it never had a function, its event is gone, or it was deleted.
            BrokerError: it is not known whether it was retried. Calling again does no harm.

        """
        state = await self._runs.state(request.id)
        if state.status != "failed":
            return Retried(recorded=False, status=state.status, attempt=state.attempt)
        if state.purged:
            raise _deleted(state)
        if not state.queue:
            msg = (
                f"run {state.id} never began, so there is nothing to go on with: {_reason(state)}. "
                "Put that right, then publish the event again, or start the run, with another id"
            )
            raise DefinitionError(msg)
        await self._keep_event(state)
        # The epoch's number is the count of attempts before it.
        subject = self._names.journal_retry(state.queue, state.id, state.attempt)
        appended = await self._journal.append(subject, RetryRecord(token=self._make_token()))
        await self._fold(state, subject, must=not appended.ours)
        now = await self._not_deleted(state, appended.sequence)
        if appended.ours:
            return Retried(recorded=True, status="queued", attempt=state.attempt + 1)
        return Retried(recorded=False, status=now.status, attempt=now.attempt)

    async def _not_deleted(self, state: RunState, retried_at: int) -> RunState:
        """Return where a run stands now that a retry of it is recorded.

        Args:
            state: the run as it was before.
            retried_at: where the retry stands in the journal.

        Raises:
            DefinitionError: its retention ended meanwhile, so the retry comes to nothing; it was taken away again.
            BrokerError: it cannot be learned.

        """
        with contextlib.suppress(RunNotFoundError):
            now = await self._runs.state(state.id)
            if not now.purged:
                return now
        try:
            await self._take_away(state, retried_at)
        except BrokerError as error:
            _log.warning("the retry of a deleted run stays in the journal", run=state.id, reason=str(error))
        raise _deleted(state)

    async def _take_away(self, state: RunState, retried_at: int) -> None:
        """Purge what was recorded for a retry behind the deletion of a run; nobody else would."""
        journal = self._names.shard_of(state.id).journal
        for _ in range(_TRIES):
            # A purge of what an engine has in hand has nats-server take other records for acknowledged.
            if (await self._broker.consumer_state(journal, ENGINE_CONSUMER)).ack_floor >= retried_at:
                await self._broker.purge(journal, self._names.journal_of_run(state.queue, state.id), retried_at)
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        raise Unavailable("engines are not done with it")

    async def _fold(self, state: RunState, subject: str, *, must: bool) -> None:
        """Apply the retry that stands, so that whoever asks next sees it.

        It is delivered to the engines in any case, so where nothing here depends on it a failure is let pass.
        """
        for remaining in reversed(range(_TRIES)):
            try:
                await self._fold_once(state, subject)
            except BrokerError as error:
                if not remaining and must:
                    raise
                _log.info("a retry is recorded and not yet folded", run=state.id, reason=str(error))
            else:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _fold_once(self, state: RunState, subject: str) -> None:
        message = await self._broker.last(self._names.shard_behind(subject).journal, subject)
        if message is None:
            return
        fact = await self._reader.read(subject, message.sequence, message.time_ms)
        failure = (await self._conductor.apply([fact])).get(state.id)
        if failure is not None:
            raise failure

    async def _keep_event(self, state: RunState) -> None:
        """See to it that the journal has the triggering event: the passes of a run but the first find it there."""
        if await recorded_event(self._broker, self._names, state) is not None:
            return
        event = await event_in_stream(self._broker, self._names, state)
        if event is None:
            msg = (
                f"run {state.id} cannot be retried: its event {state.event_name!r} is in no stream any more. "
                "Publish it again, with another id"
            )
            raise DefinitionError(msg)
        subject = self._names.journal_input(state.queue, state.id)
        await self._journal.append(subject, InputRecord(event=event, token=self._make_token()))


def _deleted(state: RunState) -> DefinitionError:
    return DefinitionError(
        f"run {state.id} was deleted after its retention and cannot be retried. "
        "Publish its event again, or start the run, with another id"
    )


def _reason(state: RunState) -> str:
    return state.error.message if state.error is not None else "no reason recorded"
