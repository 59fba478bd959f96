"""Cancels runs at random moments of their lives, and judges each by its journal and by what its bodies witnessed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.client import Client
from ironflow.codec import decode_record
from ironflow.handles import RunHandle
from ironflow.names import Names, bucket_stream, parse_journal
from ironflow.records import TERMINAL, OutcomeRecord, StepRecord, TryRecord, WaitRecord

QUEUE = "orders"
GRACE_MS = 1_000
"""How long after the recorded cancel a body may still begin."""
MOMENTS = frozenset(
    {"queued", "body async", "body plain", "body failing", "backing off", "wait sleep", "wait event", "in a parallel"}
)
"""What a run may be at when it is cancelled; at several things, where it has branches."""


class Sighting(msgspec.Struct, frozen=True):
    """A moment at which a body began or ended."""

    run: str
    body: str
    what: str
    time_ms: int


class Ending(msgspec.Struct, frozen=True):
    """How a run ended.

    Attributes:
        status: what its journal says; "neither" without a terminal outcome, "both" with more than one.
        answered: what the cancel has answered: whether the run ended by it.
        shown: the status that the engine shows.
        moments: what the run was at when its cancel was recorded; nothing where it was not cancelled.
        begun_after_ms: for each body, how long after the recorded cancel it began.
        recorded_after: what the journal holds behind the terminal outcome, and how many milliseconds behind it.

    """

    run: str
    status: str
    answered: bool
    shown: str
    moments: frozenset[str] = frozenset()
    begun_after_ms: tuple[int, ...] = ()
    recorded_after: tuple[tuple[str, int], ...] = ()

    @property
    def late(self) -> int:
        """How many bodies began too long after the recorded cancel."""
        return sum(after > GRACE_MS for after in self.begun_after_ms)

    @property
    def is_consistent(self) -> bool:
        """Whether journal, cancel and engine agree on one end."""
        return self.status in TERMINAL and self.shown == self.status and self.answered is (self.status == "cancelled")


def read_sightings(lines: Iterable[str]) -> list[Sighting]:
    """Read what the app ``lives.py`` has written into its witness file."""
    return [Sighting(run, body, what, int(time_ms)) for run, body, what, time_ms in map(str.split, lines)]


async def cancel_at_random(
    client: Client, number: int, of: int, span: float, chance: random.Random
) -> tuple[str, bool]:
    """Start a life and cancel it, some at once and some when they have just ended; return its run and the answer.

    Args:
        client: starts and cancels.
        number: which of the lives this is; their moments are spread over the whole span.
        of: how many there are.
        span: the longest time until a cancel, in seconds.
        chance: picks the moment.

    """
    run: RunHandle[object] = await client.start("life", None, id=f"life-{number}")
    if number % 20 == 9:  # on a busy machine lives take longer than they did before, and none might have ended
        await run.wait("60s")
        return run.id, await run.cancel()
    at_once = number % 10 == 0  # a run is queued for a few milliseconds only
    share = chance.random() / 200 if at_once else (number * 7919 % of + chance.random()) / of
    await asyncio.sleep(span * share)
    return run.id, await run.cancel()


async def left_behind(client: Client, names: Names, found: Iterable[Ending]) -> list[str]:
    """Return the subjects of tasks, timers and waits of cancelled runs."""
    runs = {ending.run for ending in found if ending.status == "cancelled"}
    streams = {names.all_shards[0].tasks: ">", names.all_shards[0].timers: ">", bucket_stream(names.waits_bucket): ">"}
    return [
        record.subject
        for stream, wanted in streams.items()
        async for page in client.broker.read(stream, wanted)
        for record in page
        if record.payload and not runs.isdisjoint(record.subject.split("."))  # a key that was deleted has none
    ]


async def endings(
    client: Client, names: Names, answers: Sequence[tuple[str, bool]], sightings: Iterable[Sighting]
) -> list[Ending]:
    """Judge runs, whose bodies have all ended."""
    seen: dict[str, list[Sighting]] = {}
    for sighting in sightings:
        seen.setdefault(sighting.run, []).append(sighting)
    return [
        judge(
            run,
            answered,
            (await client.run(run).state()).status,
            [
                record
                async for page in client.broker.read(names.all_shards[0].journal, names.journal_of_run(QUEUE, run))
                for record in page
            ],
            seen.get(run, []),
        )
        for run, answered in answers
    ]


def judge(
    run: str,
    answered: bool,  # noqa: FBT001 - it is what was answered, and no option
    shown: str,
    journal: Sequence[StoredMessage],
    seen: Sequence[Sighting],
) -> Ending:
    """Say how a run ended."""
    ends = [message for message in journal if _status(message) in TERMINAL]
    if len(ends) != 1:
        return Ending(run, "both" if ends else "neither", answered, shown)
    (end,) = ends
    status = _status(end)
    after = tuple(
        (parse_journal(message.subject).kind, message.time_ms - end.time_ms)
        for message in journal
        if message.sequence > end.sequence
    )
    if status != "cancelled":
        return Ending(run, status, answered, shown, recorded_after=after)
    before = [message for message in journal if message.sequence < end.sequence]
    return Ending(
        run,
        status,
        answered,
        shown,
        frozenset(_moments(before, [each for each in seen if _was_before(each, end.time_ms)])),
        tuple(each.time_ms - end.time_ms for each in seen if each.what == "begin"),
        after,
    )


def _was_before(sighting: Sighting, time_ms: int) -> bool:
    # Where time is virtual, a cancel ends a body in the very millisecond in which it is recorded.
    return sighting.time_ms < time_ms or (sighting.what == "begin" and sighting.time_ms == time_ms)


def _status(message: StoredMessage) -> str:
    if parse_journal(message.subject).kind != "outcome":
        return ""
    return decode_record(OutcomeRecord, message.payload).status


def _moments(journal: Sequence[StoredMessage], seen: Sequence[Sighting]) -> set[str]:
    """Tell what a run is at, by what is recorded and seen of it so far."""
    begun = Counter(each.body for each in seen if each.what == "begin")
    begun.subtract(each.body for each in seen if each.what == "end")
    moments = {f"body {body}" for body, number in begun.items() if number > 0}
    done = {(address.kind, address.rest) for address in (parse_journal(message.subject) for message in journal)}
    for message in journal:
        match parse_journal(message.subject):
            case address if address.kind == "wait" and ("step", address.rest) not in done:
                wait = decode_record(WaitRecord, message.payload)
                moments.add("wait sleep" if wait.kind == "sleep" else "wait event")
            case address if address.kind == "try" and ("due", address.rest) not in done:
                moments.add("backing off")
            case _:
                pass
    if any(_is_beside(message) for message in journal) and not any(_is_item(message) for message in journal):
        moments.add("in a parallel")
    if not seen:
        moments.add("queued")
    return moments or {"between steps"}


def _scope(message: StoredMessage) -> tuple[str | int, ...]:
    match parse_journal(message.subject).kind:
        case "step":
            return decode_record(StepRecord, message.payload).scope
        case "wait":
            return decode_record(WaitRecord, message.payload).scope
        case "try":
            return decode_record(TryRecord, message.payload).scope
        case _:
            return ()


def _is_beside(message: StoredMessage) -> bool:
    return _scope(message)[:1] == ("beside",)


def _is_item(message: StoredMessage) -> bool:
    return _scope(message)[:1] == ("each",)
