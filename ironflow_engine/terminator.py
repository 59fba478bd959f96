"""Ends runs from outside: by a cancel, or because they or a wait of theirs took too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, MessageTooLarge, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.journal import Appended, Journal
from ironflow.names import Names, parse_step_key
from ironflow.records import Ending, ErrorRecord, EventRecord, InputRecord, OutcomeRecord, RunState, StepRecord
from ironflow_engine import epochs
from ironflow_engine.conductor import Conductor
from ironflow_engine.event_waits import has_ending, has_timed_out
from ironflow_engine.facts import Fact, OutcomeRecorded, WaitTimedOut
from ironflow_engine.run_store import RunStore
from ironflow_engine.triggering_event import event_in_stream, recorded_event

_TRIES = 100
"""How many passes of a run may end under our hands. Each costs a worker more than it costs us."""


class Terminator:
    """Ends runs that have not ended by themselves.

    A run is ended by the outcome of its newest pass, or, where it rests, of the one that would come next. That
    is the record which a worker would write too, and the journal takes only the first: so a run that completes
    at the same moment has either completed or been ended, and never both.

    Where what the run did is to be undone, that outcome does not end it yet: it says how the run will end, and has
    it go on with passes that undo.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        conductor: applies what was recorded.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, names: Names, store: RunStore, conductor: Conductor, make_token: Callable[[], str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._conductor = conductor
        self._journal = Journal(broker, names)
        self._make_token = make_token

    async def end(
        self,
        run: str,
        ending: Ending,
        error: ErrorRecord | None,
        *,
        compensate: bool = False,
        epoch: int | None = None,
    ) -> bool:
        """End a run, unless it has ended.

        Args:
            run: its id.
            ending: how it ends.
            error: why.
            compensate: have what it did undone first, if it did anything. A worker does that; until it has, the
                run is compensating.
            epoch: the one epoch to end, where it matters: a retry leaves behind what was about to end an earlier one.

        Returns:
            Whether it ended by this call, or will; if not, it had ended before, or was being unwound already, or
            there is no such run.

        Raises:
            BrokerError: it is not known whether it ended. Calling again does no harm.

        """
        token = self._make_token()
        for _ in range(_TRIES):
            # What is remembered may be out of date, and would name a pass that has its outcome.
            state = (await self._store.load(run)).state
            if state is None or has_ending(state) or epoch not in (None, epochs.current(state)):
                return False
            outcome = await self._outcome(state, ending, error, token, compensate=compensate)
            appended = await self._append(state, outcome)
            if appended.ours:
                await self._fold(state, outcome.number)
                return True
            await self._fold(state, outcome.number, must=True)
        msg = f"run {run} could not be ended: its passes kept ending first"
        raise Ambiguous(msg)

    async def end_timed_out(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:
        """Fail the runs of which a wait has timed out that means their end.

        Args:
            facts: what happened, and has been applied.

        Returns:
            The runs that could not be ended, and why.

        """
        failures: dict[str, BrokerError] = {}
        ends = [fact for fact in facts if isinstance(fact, WaitTimedOut) and fact.wait.on_timeout == "fail"]
        versions = await self._store.load_all([fact.run for fact in ends])
        for fact, version in zip(ends, versions, strict=True):
            try:
                if isinstance(version, BrokerError):
                    raise version
                if version.state is not None and has_timed_out(version.state, fact.step):
                    _, epoch = parse_step_key(fact.step)
                    await self.end(fact.run, "failed", fact.record.error, compensate=True, epoch=epoch)
            except BrokerError as error:
                failures[fact.run] = error
        return failures

    async def _outcome(
        self, state: RunState, ending: Ending, error: ErrorRecord | None, token: str, *, compensate: bool
    ) -> OutcomeRecord:
        event = await self._unrecorded_event(state)
        outcome = OutcomeRecord(
            number=state.number if state.live else state.number + 1,
            status=ending,
            token=token,
            error=error,
            event=event,
            imposed=True,
        )
        # Its children undo what they did where it does, also of a run that has nothing of its own to undo.
        if not compensate or not (state.has_children or await self._has_steps(state)):
            return outcome
        if event is not None and not await self._record_input(state, event, token):
            return replace(outcome, compensation="failed")
        return replace(outcome, status="compensating", ending=ending, event=None)

    async def _has_steps(self, state: RunState) -> bool:
        """Tell whether any step of a run has a result; only such steps have undos."""
        steps = self._names.journal_steps(state.queue, state.id)
        async for page in self._broker.read(self._names.shard_of(state.id).journal, steps, one_each=True):
            if any(_may_have_undo(message) for message in page):
                return True
        return False

    async def _record_input(self, state: RunState, event: EventRecord, token: str) -> bool:
        """Record the triggering event, which the passes that undo need; tell whether it is recorded."""
        try:
            subject = self._names.journal_input(state.queue, state.id)
            await self._journal.append(subject, InputRecord(event=event, token=token))
        except MessageTooLarge:
            return False
        return True

    async def _append(self, state: RunState, outcome: OutcomeRecord) -> Appended:
        subject = self._names.journal_outcome(state.queue, state.id, outcome.number)
        try:
            return await self._journal.append(subject, outcome)
        except MessageTooLarge:
            # With the event it is larger than the event was, which just fitted.
            return await self._journal.append(subject, replace(outcome, event=None))

    async def _fold(self, state: RunState, number: int, *, must: bool = False) -> None:
        """Apply the outcome that stands, so that whoever asks next sees it.

        It is delivered to the engines in any case, so where nothing here depends on it a failure is let pass.
        """
        subject = self._names.journal_outcome(state.queue, state.id, number)
        try:
            message = await self._broker.last(self._names.shard_of(state.id).journal, subject)
        except BrokerError:
            if must:
                raise
            return
        if message is None:
            return
        fact = OutcomeRecorded(
            run=state.id,
            queue=state.queue,
            record=decode_record(OutcomeRecord, message.payload),
            sequence=message.sequence,
            time_ms=message.time_ms,
        )
        failure = (await self._conductor.apply([fact])).get(state.id)
        if failure is not None and must:
            raise failure

    async def _unrecorded_event(self, state: RunState) -> EventRecord | None:
        """Return the triggering event where the journal has none and EVENTS still knows it."""
        if await recorded_event(self._broker, self._names, state) is not None:
            return None
        return await event_in_stream(self._broker, self._names, state)


def _may_have_undo(message: StoredMessage) -> bool:
    try:
        record = decode_record(StepRecord, message.payload)
    except SerializationError:
        return True  # nobody knows what it did
    # A wait that has timed out is what ends the run, as a rule, and has done nothing.
    return record.status == "completed" or record.kind != "wait_for_event"
