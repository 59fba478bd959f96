"""Starts child runs, reports their ends to their parents, and ends those that nothing waits for any more."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from ironflow.broker.protocol import Broker, BrokerError, MessageTooLarge, Publication, Stored, StoredMessage
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.journal import Appended, Journal
from ironflow.names import Names
from ironflow.records import NULL, TERMINAL, ErrorRecord, EventRecord, ParentLink, StepRecord, WaitRecord
from ironflow_engine import children
from ironflow_engine.facts import ChildCommand, EndChild, EndChildren, Fact, ReportChild, RunStarted, StartChild, Woken
from ironflow_engine.run_store import RunStore

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

CarriedOut: TypeAlias = BrokerError | Sequence[Fact]
EndRun: TypeAlias = Callable[[str, ErrorRecord, bool], Awaitable[object]]
"""Cancels a run, unless it has ended: the run, why, and whether it is to undo what it did."""

_AT_A_TIME = 64
"""So many reads or ends keep the connection busy; more of them only wait in the server."""


class ChildKeeper:
    """Carries out what is decided about child runs. Doing it again has no further effect.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        end_run: cancels a run.
        make_token: returns a new random mark.

    """

    def __init__(
        self, broker: Broker, names: Names, store: RunStore, end_run: EndRun, make_token: Callable[[], str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._end_run = end_run
        self._journal = Journal(broker, names)
        self._make_token = make_token

    async def carry_out(self, commands: Sequence[ChildCommand]) -> list[CarriedOut]:
        """Carry out commands; return for each what it failed with, or the facts that follow from it."""
        starts = [command for command in commands if isinstance(command, StartChild)]
        started = iter(await self._start(starts) if starts else [])
        others = (self._other(command) for command in commands if not isinstance(command, StartChild))
        done = iter(await _some_at_a_time(others))
        return [next(started) if isinstance(command, StartChild) else next(done) for command in commands]

    async def _other(self, command: ReportChild | EndChild | EndChildren) -> CarriedOut:
        try:
            match command:
                case ReportChild():
                    return await self._report(command)
                case EndChild():
                    await self._cancel(command.child, command.reason, compensate=True)
                case EndChildren():
                    await self._end_children(command)
        except BrokerError as error:
            return error
        return []

    # Starts

    async def _start(self, starts: Sequence[StartChild]) -> list[CarriedOut]:
        # Without a message id: an event that someone forged with this id must not keep ours from being stored.
        answers = await self._broker.publish_all(
            [
                Publication(subject=self._names.event(start.event.name), payload=encode_record(start.event))
                for start in starts
            ]
        )
        return [await self._started(start, answer) for start, answer in zip(starts, answers, strict=True)]

    async def _started(self, start: StartChild, answer: Stored | BrokerError) -> CarriedOut:
        if isinstance(answer, Stored):
            return []
        if not isinstance(answer, MessageTooLarge):
            return answer
        link = ParentLink(run=start.run, queue=start.queue, step=start.step)
        try:
            return await self._record(link, children.too_large(start.wait, "the data", answer))
        except BrokerError as error:
            return error

    async def are_believable(self, events: Sequence[EventRecord]) -> list[bool]:
        """Tell of events whether they are what they say: of one that names a parent, whether that called for it.

        Raises:
            BrokerError: it cannot be found out.

        """
        claims = [event for event in events if children.claims_parent(event)]
        believable = iter(await _some_at_a_time(self._is_believable(event) for event in claims))
        return [next(believable) if children.claims_parent(event) else True for event in events]

    async def _is_believable(self, event: EventRecord) -> bool:
        if event.parent is None or not children.is_sound(event.parent):
            return False
        message = await self._wait(event.parent)
        wait = _read(WaitRecord, message)
        return wait is not None and children.is_invoked_by(event, wait)

    async def end_orphans(self, starts: Sequence[RunStarted]) -> dict[str, BrokerError]:
        """End those of the started runs that nothing waits for any more; return those for which it failed, and why.

        To be asked once the starts are stored: a parent that has not ended by then finds its child when it does.
        """
        started = [(start, start.event.parent) for start in starts if start.event.parent is not None]
        if not started:
            return {}
        failures = await _some_at_a_time(self._end_orphan(start.run, link) for start, link in started)
        return {start.run: error for (start, _), error in zip(started, failures, strict=True) if error is not None}

    async def _end_orphan(self, child: str, link: ParentLink) -> BrokerError | None:
        try:
            parent = (await self._store.load(link.run)).state
            record, closed = await self._step(link), await self._is_closed(link)
            if children.is_orphan(parent, link, record, closed=closed):
                compensate = closed or record is not None or children.undo_what_they_did(parent)
                await self._cancel(child, children.PARENT_ENDED, compensate=compensate)
        except BrokerError as error:
            return error
        return None

    # Ends of children

    async def _report(self, command: ReportChild) -> CarriedOut:
        link = command.parent
        message = await self._wait(link)
        wait = _read(WaitRecord, message)
        if message is None or wait is None or children.child_of(link.run, link.step, wait) != command.run:
            return []
        parent = (await self._store.load(link.run)).state
        if parent is None or parent.status in TERMINAL or parent.ending is not None or await self._is_closed(link):
            return []
        return await self._record(link, children.result(command, wait, message.time_ms))

    async def _record(self, link: ParentLink, record: StepRecord) -> CarriedOut:
        """Record the result of a parent's step, unless it has one."""
        try:
            appended = await self._append(link, record)
        except MessageTooLarge as error:
            wait = WaitRecord(name=record.name, kind=record.kind, scope=record.scope, token="")
            appended = await self._append(link, children.too_large(wait, "the child's output", error))
        return [Woken(run=link.run, queue=link.queue, sequence=appended.sequence)]

    async def _append(self, link: ParentLink, record: StepRecord) -> Appended:
        subject = self._names.journal_step(link.queue, link.run, link.step)
        return await self._journal.append(subject, replace(record, token=self._make_token()))

    # Ends of parents, and of their patience

    async def end_timed_out(self, link: ParentLink, wait: WaitRecord) -> None:
        """End the child of a step whose time to wait is over.

        Raises:
            BrokerError: it is not known whether it ended.

        """
        await self._cancel(children.child_of(link.run, link.step, wait), children.PATIENCE_OVER, compensate=True)

    async def _end_children(self, command: EndChildren) -> None:
        links: list[tuple[ParentLink, WaitRecord]] = []
        prefix = self._names.journal_waits(command.queue, command.run).removesuffix(">")
        waits = self._names.journal_waits(command.queue, command.run)
        async for page in self._broker.read(self._names.shard_of(command.run).journal, waits, one_each=True):
            for message in page:
                wait = _read(WaitRecord, message)
                if wait is not None and wait.kind == "invoke":
                    step = message.subject.removeprefix(prefix)
                    link = ParentLink(run=command.run, queue=command.queue, step=step)
                    links.append((link, replace(wait, data=NULL)))
        await _some_at_a_time(self._end_open(link, wait, compensate=command.compensate) for link, wait in links)

    async def _end_open(self, link: ParentLink, wait: WaitRecord, *, compensate: bool) -> None:
        child = children.child_of(link.run, link.step, wait)
        (version,) = await self._store.load_all([child])
        if isinstance(version, BrokerError):
            raise version
        # One that is not there yet is ended by whoever starts it.
        if version.state is None or version.state.status in TERMINAL:
            return
        record = await self._step(link)
        if children.has_no_end(record):
            await self._cancel(child, children.PARENT_ENDED, compensate=compensate or record is not None)

    async def _cancel(self, child: str, reason: str, *, compensate: bool) -> None:
        await self._end_run(child, ErrorRecord(type="Cancelled", message=reason), compensate)

    # What is recorded

    async def _wait(self, link: ParentLink) -> StoredMessage | None:
        return await self._last(self._names.journal_wait(link.queue, link.run, link.step))

    async def _step(self, link: ParentLink) -> StepRecord | None:
        return _read(StepRecord, await self._last(self._names.journal_step(link.queue, link.run, link.step)))

    async def _is_closed(self, link: ParentLink) -> bool:
        return await self._last(self._names.journal_closed(link.queue, link.run, link.step)) is not None

    async def _last(self, subject: str) -> StoredMessage | None:
        return await self._broker.last(self._names.shard_behind(subject).journal, subject)


def _read(record_type: type[R], message: StoredMessage | None) -> R | None:
    """Return a record; None where there is none, or one of a newer version that this engine cannot act upon."""
    if message is None:
        return None
    try:
        return decode_record(record_type, message.payload)
    except SerializationError:
        return None


async def _some_at_a_time(things: Iterable[Awaitable[T]]) -> list[T]:
    """Await things, not all at once: each may do the same with things of its own, so that no semaphore will do.

    They are taken as they are awaited, for Python complains about coroutines that were made and never awaited.
    """
    left = iter(things)
    results: list[T] = []
    while some := list(itertools.islice(left, _AT_A_TIME)):
        results += await asyncio.gather(*some)
    return results
