"""How runs, steps and functions are shown: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.clock import to_iso
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.fences import is_fence
from ironflow.matching import show_path
from ironflow.messages import AwaitedView, ErrorView, EventView, FunctionView, RunView, StepView, error_view
from ironflow.names import PASS_TOKEN, parse_journal, parse_step_key
from ironflow.records import NULL, FunctionRecord, RunState, RunStatus, StepRecord, StepStatus, TryRecord, WaitRecord

_OPEN_STATUS: dict[str, StepStatus] = {"sleep": "sleeping"}


def run_view(state: RunState, *, status: RunStatus, event_data: msgspec.Raw, output: msgspec.Raw) -> RunView:
    """Return a run as it is shown.

    Args:
        state: its state.
        status: its status; of a live run only a worker knows whether it has begun.
        event_data: the JSON of the triggering event's data.
        output: the JSON of its output.

    """
    return RunView(
        id=state.id,
        function=state.function,
        queue=state.queue,
        status=status,
        compensation=state.compensation,
        event=EventView(id=state.event_id, name=state.event_name, data=event_data),
        attempt=state.attempt,
        output=output,
        error=error_view(state.error),
        started_at=to_iso(state.started_at),
        finished_at=to_iso(state.finished_at) if state.finished_at else None,
    )


def brief_view(state: RunState, output: msgspec.Raw, room: int) -> RunView:
    """Return what whoever waits for a run's end must know of it: all but its event's data.

    Args:
        state: its state.
        output: the JSON of its output; left out where it is larger than *room*.
        room: bytes.

    """
    fits = len(output) <= room
    view = run_view(state, status=state.status, event_data=NULL, output=output if fits else NULL)
    return msgspec.structs.replace(view, left_out=("event",) if fits else ("event", "output"))


class _Open(msgspec.Struct):
    """A step that has no result yet.

    Attributes:
        since_ms: when its first record was stored.
        newest_ms: when its newest one was.
        place: where the first one stands in the journal.
        is_due: whether the back-off behind its newest attempt is over.

    """

    since_ms: int
    newest_ms: int
    place: int
    wait: WaitRecord | None = None
    attempt: TryRecord | None = None
    is_due: bool = False

    @property
    def is_sleep(self) -> bool:
        """Whether it sleeps, and so goes on when the run is retried."""
        return self.wait is not None and self.wait.kind == "sleep"


class StepHistory:
    """Builds the views of a run's steps from its journal.

    A step that was done again in a retried run is shown once, as it came out last.

    Args:
        epoch: the epoch that the run is in; what stayed open in an earlier one is not open any more.
        unasked: the keys of the steps that the code did not ask for.

    Attributes:
        unreadable: what is not shown, by subject, and why.

    """

    def __init__(self, epoch: int = 0, unasked: Collection[str] = ()) -> None:
        self._epoch = epoch
        self._unasked = unasked
        self._recorded: dict[str, tuple[int, StepView]] = {}
        self._open: dict[str, _Open] = {}
        self.unreadable: dict[str, str] = {}

    def read(self, messages: Iterable[StoredMessage]) -> None:
        """Take in journal messages, in order; what cannot be read is left out, and the others are shown."""
        for message in messages:
            try:
                address = parse_journal(message.subject)
                if not address.step or parse_step_key(address.step)[0] == PASS_TOKEN:
                    continue
                self._read_one(address.kind, address.step, message)
            except SerializationError as error:
                # Of a newer version, or of someone who should not write here. A run fails of it, which says so.
                self.unreadable[message.subject] = str(error)

    def recorded(self, *, with_open: bool = True, but_of: int = 0) -> list[tuple[int, StepView]]:
        """Return the steps with a result in the order in which they were recorded, each with its place.

        Args:
            with_open: whether steps that are open again are shown as such, and so not here.
            but_of: leave out those that were opened up to this place: they have been shown as open.

        """
        newest: dict[str, tuple[int, str]] = {}
        for key in self._recorded:
            token, epoch = parse_step_key(key)
            newest[token] = max(newest.get(token, (-1, "")), (epoch, key))
        again = {parse_step_key(key)[0] for key in self._still_open()} if with_open else set[str]()
        return sorted(
            (
                self._recorded[key]
                for token, (_, key) in newest.items()
                if token not in again and (key not in self._open or self._open[key].place > but_of)
            ),
            key=lambda recorded: recorded[0],
        )

    def open_steps(self, after: int = 0) -> list[tuple[int, StepView]]:
        """Return the steps without a result: sleeping, waiting, or to be tried again.

        Each comes with the place where it was opened, in that order.

        Args:
            after: only those that were opened behind this place.

        """
        still_open = (self._open[key] for key in self._still_open())
        return [(step.place, _open_view(step)) for step in still_open if step.place > after]

    def _still_open(self) -> list[str]:
        return [
            key
            for key, step in self._open.items()
            if key not in self._recorded and (step.is_sleep or parse_step_key(key)[1] == self._epoch)
        ]

    def _read_one(self, kind: str, step: str, message: StoredMessage) -> None:
        match kind:
            case "step":
                record = decode_record(StepRecord, message.payload)
                # What keeps a step from having a result is none.
                if is_fence(record):
                    self._recorded.pop(step, None)
                    self._open.pop(step, None)
                else:
                    view = _recorded_view(record, message.time_ms, unasked=step in self._unasked)
                    self._recorded[step] = message.sequence, self._at_its_end(view, step, message.time_ms)
            case "wait":
                wait = decode_record(WaitRecord, message.payload)
                self._open_step(step, message).wait = wait
            case "try":
                attempt = decode_record(TryRecord, message.payload)
                self._open_step(step, message).attempt = attempt
            case "due" if step in self._open:
                self._open[step].is_due = True
            case _:
                pass

    def _at_its_end(self, view: StepView, step: str, recorded_ms: int) -> StepView:
        """Return a sleep of a retried run as it was, and not with the time for which the run had failed meanwhile."""
        slept = self._open.get(step)
        if not self._epoch or slept is None or slept.wait is None or not slept.is_sleep:
            return view
        until_ms = _until_ms(slept.newest_ms, slept.wait)
        if until_ms is None or until_ms >= recorded_ms:
            return view
        return msgspec.structs.replace(view, finished_at=to_iso(max(until_ms, slept.since_ms)))

    def _open_step(self, step: str, message: StoredMessage) -> _Open:
        opened = self._open.setdefault(step, _Open(message.time_ms, message.time_ms, message.sequence))
        opened.newest_ms, opened.is_due = message.time_ms, False
        return opened


def _recorded_view(record: StepRecord, recorded_ms: int, *, unasked: bool) -> StepView:
    return StepView(
        name=record.name,
        scope=record.scope,
        kind=record.kind,
        status=record.status,
        attempt=record.attempt,
        output=record.output,
        error=error_view(record.error),
        started_at=to_iso(recorded_ms - record.duration_ms),
        finished_at=to_iso(recorded_ms),
        unasked=unasked,
    )


def _open_view(open_step: _Open) -> StepView:
    record = open_step.attempt or open_step.wait
    if record is None:
        msg = "an open step has a wait or a failed attempt"
        raise AssertionError(msg)
    error: ErrorView | None = None
    status: StepStatus = _OPEN_STATUS.get(record.kind, "waiting")
    attempt = 1
    since = open_step.since_ms
    if open_step.attempt is not None:
        error, status, attempt = error_view(open_step.attempt.error), "retrying", open_step.attempt.attempt
        since -= open_step.attempt.duration_ms
    return StepView(
        name=record.name,
        scope=record.scope,
        kind=record.kind,
        status=status,
        attempt=attempt,
        output=NULL,
        error=error,
        started_at=to_iso(since),
        finished_at=None,
        until=None if open_step.is_due else _until(open_step.newest_ms, record),
        awaits=_awaited(record),
    )


def _until(stored_ms: int, record: WaitRecord | TryRecord) -> str | None:
    until_ms = _until_ms(stored_ms, record)
    return None if until_ms is None else to_iso(until_ms)


def _until_ms(stored_ms: int, record: WaitRecord | TryRecord) -> int | None:
    if isinstance(record, WaitRecord) and record.until_ms is not None:
        return record.until_ms
    return None if record.delay_ms is None else stored_ms + record.delay_ms


def _awaited(record: WaitRecord | TryRecord) -> AwaitedView | None:
    if not isinstance(record, WaitRecord) or record.kind == "sleep":
        return None
    return AwaitedView(
        event=record.event,
        path=None if record.path is None else show_path(record.path),
        value=NULL if record.value is None else msgspec.Raw(record.value.encode()),
        function=record.function,
    )


def function_view(function: FunctionRecord) -> FunctionView:
    """Return a function as it is shown."""
    return FunctionView(
        id=function.id,
        queue=function.queue,
        triggers=function.triggers,
        max_attempts=function.retry.max_attempts,
        timeout_ms=function.timeout_ms,
    )
