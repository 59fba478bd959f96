"""Published events start runs, and end waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from ironflow.broker.protocol import Broker, BrokerError, Delivery, MessageTooLarge
from ironflow.clock import to_iso
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.names import ENGINE_CONSUMER, Names, run_id
from ironflow.records import ErrorRecord, EventRecord, WaitEntry
from ironflow.triggers import is_reserved
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.children import claims_parent
from ironflow_engine.conductor import Conductor
from ironflow_engine.facts import EventArrived, Fact, RunStarted
from ironflow_engine.foresight import Foresight
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.intake import Intake
from ironflow_engine.matcher import Matcher, check_texts, may_say_what_it_starts
from ironflow_engine.wait_store import WaitStore

_log = get_logger("ironflow.engine")

_TASK_BYTES = 2_048
"""What a task has beside its event, at the most: ids, numbers, and names of up to 128 bytes."""

_REST_SECONDS = 0.003
"""How long the run that an event has woken has the machine for itself, unless other events come."""


class _Lone(msgspec.Struct, frozen=True):
    """A lone event, and whether the functions that it starts were left for later."""

    event: EventRecord
    starts_later: bool


class EventIntake(Intake):
    """Takes events from EVENTS.

    What a lone event does for sure is done at once: it starts runs, and ends the waits that this engine knows. Only
    then the server is asked for other waits.

    Args:
        broker: the connection.
        conductor: applies the facts.
        names: the namespace.
        functions: the registered functions.
        waits: the open waits.
        children: knows which runs were called for by others.
        foresight: knows the functions ahead of lone events.
        advice: what to do about a function that is not registered.

    """

    def __init__(
        self,
        broker: Broker,
        conductor: Conductor,
        names: Names,
        functions: FunctionStore,
        waits: WaitStore,
        children: ChildKeeper,
        foresight: Foresight,
        advice: str,
    ) -> None:
        super().__init__(broker, conductor, stream=names.events, consumer=ENGINE_CONSUMER)
        self._names = names
        self._functions = functions
        self._waits = waits
        self._children = children
        self._foresight = foresight
        self._advice = advice
        self._more: dict[str, _Lone] = {}
        """Lone events of which the server has still to be asked who waits for them, by lease."""
        self._company = asyncio.Event()
        """Set once other events come."""

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        """Match each event with the functions and the waits as they are now."""
        self._company.set()
        facts: list[tuple[Delivery, list[Fact]]] = []
        events: list[tuple[Delivery, EventRecord]] = []
        for delivery in batch:
            try:
                event = check_texts(decode_record(EventRecord, delivery.payload))
                events.append((delivery, self._as_allowed(delivery, event)))
            except SerializationError as error:
                facts.append((delivery, [self._refuse_unreadable(delivery, error)]))
        if len(batch) > 1:
            self._foresight.pause()
        elif not self.is_applying and events and not claims_parent(events[0][1]):
            self._foresight.begin()
            return [await self._what_is_sure(*events[0])]
        records = [event for _, event in events]
        # Each costs a question to the server at least, and none depends on another.
        matcher, waiting, believable = await asyncio.gather(
            self._functions.current(), self._waits.matching(records), self._children.are_believable(records)
        )
        for (delivery, event), entries, is_believable in zip(events, waiting, believable, strict=True):
            starts = self._starts_by(matcher, delivery, event) if is_believable else []
            if not is_believable:
                _log.warning("event ignored: no run has called for it that it names", event_id=event.id)
            arrivals = [_arrival(delivery, event, entry) for entry in entries]
            facts.append((delivery, [*starts, *arrivals]))
        return facts

    def _as_allowed(self, delivery: Delivery, event: EventRecord) -> EventRecord:
        if not event.target or may_say_what_it_starts(event, _name_in(delivery.subject)):
            return event
        _log.warning("an event may not say which function it starts", event_id=event.id, subject=delivery.subject)
        return msgspec.structs.replace(event, target="")

    async def _what_is_sure(self, delivery: Delivery, event: EventRecord) -> tuple[Delivery, list[Fact]]:
        self._company = asyncio.Event()
        known = self._waits.remembered(event)
        # Those who wait need not wait for the answer whether there is a new function, either.
        starts_later = bool(known) and not event.target and not self._functions.last.functions_for(event.name)
        starts = [] if starts_later else await self._starts(delivery, event)
        if starts_later or not is_reserved(event.name):  # what nobody can wait for has no more to do
            self._more[delivery.lease] = _Lone(event, starts_later)
        return delivery, [*starts, *(_arrival(delivery, event, entry, hasty=True) for entry in known)]

    def has_more(self, batch: Sequence[Delivery]) -> bool:
        """Tell whether the server has still to be asked who waits for an event."""
        return any(delivery.lease in self._more for delivery in batch)

    async def more_facts(self, facts: Sequence[tuple[Delivery, list[Fact]]]) -> list[tuple[Delivery, list[Fact]]]:
        """Return the arrivals at waits that this engine did not know, or could not be sure of, and late starts."""
        return [(delivery, await self._what_else(delivery, found)) for delivery, found in facts]

    async def _what_else(self, delivery: Delivery, found: Sequence[Fact]) -> list[Fact]:
        lone = self._more.pop(delivery.lease, None)
        if lone is None:
            return []
        starts = await self._starts(delivery, lone.event) if lone.starts_later else []
        return [*starts, *await self._other_arrivals(delivery, lone.event, found)]

    async def _other_arrivals(self, delivery: Delivery, event: EventRecord, found: Sequence[Fact]) -> list[Fact]:
        tried = {(fact.run, fact.entry.step) for fact in found if isinstance(fact, EventArrived)}
        # What had an effect is over, although a server that lags may still show it. What is merely not remembered any
        # more may be open.
        over = {wait for wait in tried if self._waits.is_over(*wait)}
        (entries,) = await self._waits.matching([event])
        return [_arrival(delivery, event, entry) for entry in entries if (entry.run, entry.step) not in over]

    def rest_after(self, facts: Sequence[tuple[Delivery, list[Fact]]]) -> Callable[[], Awaitable[None]] | None:
        """Have those go on first whom a lone event has woken."""
        is_lone = any(delivery.lease in self._more for delivery, _ in facts)
        return partial(self._rest, self._company) if is_lone else None

    async def _rest(self, company: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST_SECONDS):
                await company.wait()

    def hand_back(self, delay_seconds: float, *deliveries: Delivery) -> None:
        """Have events delivered again."""
        for delivery in deliveries:
            self._more.pop(delivery.lease, None)
        super().hand_back(delay_seconds, *deliveries)

    async def _starts(self, delivery: Delivery, event: EventRecord) -> list[RunStarted]:
        return self._starts_by(await self._foresight.functions_for(delivery, event), delivery, event)

    def _starts_by(self, matcher: Matcher, delivery: Delivery, event: EventRecord) -> list[RunStarted]:
        starts = matcher.starts(event, delivery.sequence, delivery.time_ms, self._advice)
        return self._refuse_what_fits_no_task(starts, delivery)

    def worth_another_try(self, facts: Sequence[Fact], failures: dict[str, BrokerError]) -> dict[str, BrokerError]:
        """Leave out the starts of runs whose states the server does not take, however often they are tried.

        The ack floor would never get beyond their events, and all that waits for it would wait for ever.
        """
        starts = {fact.run for fact in facts if isinstance(fact, RunStarted)}
        hopeless = starts - {fact.run for fact in facts if not isinstance(fact, RunStarted)}
        curable: dict[str, BrokerError] = {}
        for run, failure in failures.items():
            if run in hopeless and isinstance(failure, MessageTooLarge):
                _log.error("a run cannot be started, and its event is done with", run=run, reason=str(failure))
            else:
                curable[run] = failure
        return curable

    async def conclude(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:
        """End the child runs that were started after all who waited for them had gone."""
        return await self._children.end_orphans([fact for fact in facts if isinstance(fact, RunStarted)])

    def _refuse_unreadable(self, delivery: Delivery, error: SerializationError) -> RunStarted:
        """Return the start of a run that fails at once, so that the event shows; our own clients publish none."""
        self.unreadable(delivery, error)
        name = _name_in(delivery.subject)
        event = EventRecord(id=f"unreadable:{delivery.sequence}", name=name, time=to_iso(delivery.time_ms))
        return RunStarted(
            run=run_id("", event.id),
            event=event,
            function=None,
            sequence=delivery.sequence,
            time_ms=delivery.time_ms,
            refusal=ErrorRecord(type="EventUnreadable", message=f"the event cannot be read: {error}"),
        )

    def _refuse_what_fits_no_task(self, starts: list[RunStarted], delivery: Delivery) -> list[RunStarted]:
        """Mark the starts of an event that cannot be carried on to a worker; our own clients publish none."""
        size, room = len(delivery.payload), self.broker.server.max_payload - _TASK_BYTES
        if size <= room:
            return starts
        refusal = ErrorRecord(
            type="PayloadTooLargeError",
            message=f"the event is {size:,} bytes, and at most {room:,} fit into a task on this server",
        )
        return [msgspec.structs.replace(start, refusal=refusal) for start in starts]


def _name_in(subject: str) -> str:
    return ".".join(subject.split(".")[2:])


def _arrival(delivery: Delivery, event: EventRecord, entry: WaitEntry, *, hasty: bool = False) -> EventArrived:
    return EventArrived(
        run=entry.run,
        queue=entry.queue,
        entry=entry,
        event=event,
        sequence=delivery.sequence,
        time_ms=delivery.time_ms,
        hasty=hasty,
    )
