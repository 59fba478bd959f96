"""What is recorded of a run, as a pass looks it up: pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.fences import is_fence
from ironflow.names import (
    COMPENSATE_PREFIX,
    PASS_TOKEN,
    JournalAddress,
    Scope,
    parse_journal,
    parse_step_key,
    step_key,
    step_token,
)
from ironflow.records import (
    EventRecord,
    InputRecord,
    OutcomeRecord,
    StepKind,
    StepRecord,
    TryRecord,
    WaitEnd,
    WaitRecord,
)

_RECORD_BYTES = 700
"""About what a record takes beside what was stored of it."""


class Losses(msgspec.Struct, frozen=True):
    """Workers that a pass may have cost.

    Attributes:
        begun: how many began it after others had.
        lost: how many of them have not handed it back.
        newest_ms: when the newest of those began, in server time; 0 where there is none.

    """

    begun: int
    lost: int
    newest_ms: int


_NO_LOSSES = Losses(begun=0, lost=0, newest_ms=0)


class Memo:
    """The journal of one run, by step.

    A step has a key for each epoch of its run in which it was done; :meth:`key` says which one counts.

    Args:
        epoch: how often the run was retried.

    Attributes:
        epoch: as above.
        event: the triggering event, where it is recorded.
        seen: the newest journal sequence that is in here.
        last_pass: the number of the newest pass that has an outcome; -1 where none has.
        unwinding: the newest outcome after which what the run did is undone; it says how the run ends, and why.
        records: how many records are in here.
        size_bytes: about how much memory they take.

    """

    def __init__(self, epoch: int = 0) -> None:
        self.event: EventRecord | None = None
        self.seen = 0
        self.last_pass = -1
        self.unwinding: OutcomeRecord | None = None
        self.epoch = epoch
        self.records = 0
        self.size_bytes = 0
        self._newest: dict[str, int] = {}
        self._steps: dict[str, StepRecord] = {}
        self._recorded_at: dict[str, int] = {}
        self._waits: dict[str, WaitRecord] = {}
        self._closed: set[str] = set()
        self._tries: dict[str, TryRecord] = {}
        self._due: set[tuple[str, int]] = set()
        self._due_ms: dict[str, int] = {}
        self._waiting_since_ms: dict[str, int] = {}
        self._told_bytes: dict[str, int] = {}
        """About how much memory the ends take that the journal may not have yet, by key."""
        self._failed: set[str] = set()
        self._failed_branches: dict[Scope, set[int]] = {}
        self._undone_at: dict[str, int] = {}
        self._undone_in: dict[str, int] = {}
        self._begun: dict[int, dict[int, int]] = {}
        self._excused: set[tuple[int, int]] = set()
        self._opened_at: dict[int, int] = {}

    def read(self, messages: Iterable[StoredMessage]) -> None:
        """Take in journal messages, in order.

        Raises:
            SerializationError: one of them cannot be read.

        """
        for message in messages:
            self._take_in(message)
            self.seen = max(self.seen, message.sequence)

    def read_own(self, messages: Iterable[StoredMessage]) -> None:
        """Take in what the pass before has recorded itself; what others may have recorded in between is not seen."""
        for message in messages:
            self._take_in(message)

    def _take_in(self, message: StoredMessage) -> None:
        self._read_one(message)
        self.records += 1
        self.size_bytes += len(message.payload) + _RECORD_BYTES

    def _read_one(self, message: StoredMessage) -> None:
        address = parse_journal(message.subject)
        key = address.step
        if key:
            self._note_key(key)
        match address.kind:
            case "step":
                self.size_bytes -= self._told_bytes.pop(key, 0)
                self._read_step(key, decode_record(StepRecord, message.payload), message.sequence)
            case "wait":
                wait = self._waits[key] = decode_record(WaitRecord, message.payload)
                self._due_ms[key] = wait.until_ms or _after(message, wait.delay_ms)
                self._waiting_since_ms[key] = message.time_ms
            case "closed":
                self._closed.add(key)
            case "try":
                self._read_try(key, decode_record(TryRecord, message.payload), message)
            case "due":
                self._due.add((key, address.number))
            case _:
                self._read_of_run(address, message)

    def _note_key(self, key: str) -> None:
        token, epoch = parse_step_key(key)
        self._newest[token] = max(self._newest.get(token, 0), epoch)

    def _read_of_run(self, address: JournalAddress, message: StoredMessage) -> None:
        match address.kind:
            case "retry":
                self._opened_at[address.number] = message.sequence
            case "outcome":
                self._read_outcome(decode_record(OutcomeRecord, message.payload))
            case "input":
                self.event = decode_record(InputRecord, message.payload).event
            case "began":
                self._begun.setdefault(address.number_at(0), {})[address.number] = message.time_ms
            case "excused":
                self._excused.add((address.number_at(0), address.number))
            case _:
                pass  # of no consequence for a pass, or a newer version's kind of record

    def _read_outcome(self, outcome: OutcomeRecord) -> None:
        self.last_pass = max(self.last_pass, outcome.number)
        if self.event is None:
            self.event = outcome.event
        if outcome.status == "compensating":
            self.unwinding = outcome

    def _read_step(self, key: str, record: StepRecord, sequence: int) -> None:
        self._steps[key] = record
        self._recorded_at[key] = sequence
        if record.kind == "compensate" and record.status == "completed":
            undone = step_token(record.scope, record.name.removeprefix(COMPENSATE_PREFIX))
            self._undone_at[undone] = sequence
            # What is undone in this epoch keeps its key in it: the undos that are left still go by that.
            if (epoch := parse_step_key(key)[1]) < self.epoch:
                self._undone_in[undone] = max(epoch, self._undone_in.get(undone, epoch))
        # What failed in an earlier epoch does not count any more; what never began has not failed.
        if record.status == "failed" and parse_step_key(key)[1] == self.epoch and not is_fence(record):
            self._failed.add(key)
            for depth in range(0, len(record.scope) - 1, 2):
                branch = record.scope[depth + 1]
                if isinstance(branch, int):
                    self._failed_branches.setdefault(record.scope[: depth + 1], set()).add(branch)

    def _read_try(self, key: str, record: TryRecord, message: StoredMessage) -> None:
        newest = self._tries.get(key)
        if newest is None or newest.attempt < record.attempt:
            self._tries[key] = record
            self._due_ms[key] = _after(message, record.delay_ms)

    def key(self, token: str, kind: StepKind) -> str:
        """Return the key under which a step stands in this epoch, or will.

        In a retried run a success counts unless it was undone since. What failed is done anew, and so is what had
        neither succeeded nor failed, but for a sleep, which is due when it was due before.
        """
        newest = self._newest.get(token)
        if newest is None or newest == self.epoch or kind == "compensate":
            return step_key(token, self.epoch)
        key = step_key(token, newest)
        return key if self._counts(token, key) else step_key(token, self.epoch)

    def find(self, token: str, kind: StepKind) -> tuple[str, StepKind | None]:
        """Return the key of a step, see :meth:`key`, and as which kind of step it is recorded."""
        if token not in self._newest:
            return step_key(token, self.epoch), None
        key = self.key(token, kind)
        return key, self.kind(key)

    def effect_key(self, token: str) -> str:
        """Return what names a step to the world outside: the same in all epochs, up to the one it was undone in.

        What is done again because it was undone is another thing: a second charge behind a refund.
        """
        undone_in = self._undone_in.get(token)
        return step_key(token, 0 if undone_in is None else undone_in + 1)

    def _counts(self, token: str, key: str) -> bool:
        """Tell whether what is recorded of a step in an earlier epoch still stands."""
        record = self._steps.get(key)
        if record is not None:
            recorded_at = self._recorded_at[key]
            return (
                record.status == "completed"
                and self._undone_at.get(token, 0) < recorded_at
                and (record.kind == "sleep" or not self._came_late(key, recorded_at))
            )
        wait = self._waits.get(key)
        return wait is not None and wait.kind == "sleep" and key not in self._closed

    def _came_late(self, key: str, recorded_at: int) -> bool:
        """Tell whether a result came from a worker that a retry had left behind.

        A pass of the new epoch may have done the step without it, so it must not count for another.
        """
        closed_at = self._opened_at.get(parse_step_key(key)[1] + 1)
        return closed_at is not None and recorded_at > closed_at

    def unasked(self, tokens: Collection[str], most: int) -> tuple[str, ...]:
        """Return the keys of the results that stand for some steps, in the order of the journal.

        Undos are left out, and so is what is in a parallel that has failed: not all of that is replayed.

        Args:
            tokens: the steps that the code did not ask for.
            most: how many keys at the most.

        """
        found = (
            key
            for key, record in self._steps.items()
            if record.kind != "compensate"
            and parse_step_key(key)[0] in tokens
            and self._newest[parse_step_key(key)[0]] == parse_step_key(key)[1]
            and not any(record.scope[: depth + 1] in self._failed_branches for depth in range(0, len(record.scope), 2))
        )
        return tuple(itertools.islice(found, most))

    def recorded_at(self, key: str) -> int:
        """Return the journal sequence of a step's result; 0 where it has none."""
        return self._recorded_at.get(key, 0)

    def failed_branches(self, group: Scope) -> frozenset[int]:
        """Return the branches of a parallel that a failed step is recorded in, at whatever depth.

        Args:
            group: the scope of the parallel, and its name.

        """
        return frozenset(self._failed_branches.get(group, ()))

    def failures(self, group: Scope, *, but_of: str) -> list[int]:
        """Return the journal sequences of the failed steps in a parallel.

        Args:
            group: the scope of the parallel, and its name.
            but_of: the mark of the pass whose own records are left out.

        """
        return [
            self._recorded_at[key]
            for key in self._failed
            if self._steps[key].token != but_of and self._steps[key].scope[: len(group)] == group
        ]

    def step(self, key: str) -> StepRecord | None:
        """Return the result of a step."""
        return self._steps.get(key)

    def wait(self, key: str) -> WaitRecord | None:
        """Return what a step waits for."""
        return self._waits.get(key)

    def is_closed(self, key: str) -> bool:
        """Tell whether the branch of a step that waits was cancelled."""
        return key in self._closed

    def failed_attempt(self, key: str) -> TryRecord | None:
        """Return the newest failed attempt of a step, or of the pass as a whole."""
        return self._tries.get(key)

    def is_backing_off(self, key: str) -> bool:
        """Tell whether a step's next attempt has yet to become due."""
        newest = self._tries.get(key)
        return newest is not None and (key, newest.attempt) not in self._due

    def kind(self, key: str) -> StepKind | None:
        """Return as which kind of step a key was recorded."""
        record = self._steps.get(key) or self._waits.get(key) or self._tries.get(key)
        return record.kind if record is not None else None

    def open_waits(self, kind: StepKind) -> int:
        """Return how many waits of a kind have not ended."""
        return sum(wait.kind == kind for wait in self._open().values()) if self._waits else 0

    def waits(self, kind: StepKind) -> int:
        """Return how many waits of a kind the run has ever begun."""
        return sum(wait.kind == kind for wait in self._waits.values()) if self._waits else 0

    def open_in(self, group: Scope) -> dict[str, WaitRecord]:
        """Return the waits in a parallel that have not ended, by key.

        Args:
            group: the scope of the parallel, and its name.

        """
        return {key: wait for key, wait in self._open().items() if wait.scope[: len(group)] == group}

    def losses(self, number: int) -> Losses:
        """Return how many workers began a pass after others had, and are not known to have survived it."""
        begun = self._begun.get(number)
        if begun is None:
            return _NO_LOSSES
        lost = [count for count in begun if (number, count) not in self._excused]
        return Losses(begun=len(begun), lost=len(lost), newest_ms=max((begun[count] for count in lost), default=0))

    def next_due_ms(self) -> int | None:
        """Return when the first of the open waits and back-offs is over, in server time; None where none will be."""
        backing_off = (key for key in self._tries if key not in self._steps and self.is_backing_off(key))
        return min((due for key in (*self._open(), *backing_off) if (due := self._due_ms[key])), default=None)

    @property
    def only_sleeps(self) -> bool:
        """Whether nothing is open but sleeps."""
        return all(wait.kind == "sleep" for wait in self._open().values()) and not self._backs_off

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is open in here."""
        return not self._open() and not self._backs_off

    @property
    def _backs_off(self) -> bool:
        return any(key not in self._steps and self.is_backing_off(key) for key in self._tries)

    def due_ms(self, key: str) -> int:
        """Return when a recorded wait is over, in server time."""
        return self._due_ms[key]

    def slept_ms(self, key: str) -> int:
        """Return how long a sleep is meant to last, from when it was recorded."""
        return self._due_ms[key] - self._waiting_since_ms[key]

    def wait_ended(self, end: WaitEnd) -> None:
        """Take in the end of a wait that the journal may not have yet."""
        if end.step not in self._steps:
            self._note_key(end.step)
            self._read_step(end.step, end.record, self.seen + 1)
            self._told_bytes[end.step] = size = len(bytes(end.record.output)) + _RECORD_BYTES
            self.size_bytes += size

    def sleep_ended(self, key: str, record: StepRecord, sequence: int) -> None:
        """Take in the end of a sleep that the pass itself has recorded."""
        self._read_step(key, record, sequence)

    def _open(self) -> dict[str, WaitRecord]:
        return {
            key: wait
            for key, wait in self._waits.items()
            if key not in self._steps and key not in self._closed and self.key(parse_step_key(key)[0], wait.kind) == key
        }

    def is_done(self, token: str) -> bool:
        """Tell whether a step has succeeded, and was not undone since."""
        record = self._steps.get(self.key(token, "run"))
        return record is not None and record.status == "completed" and record.kind != "compensate"

    def has_results(self) -> bool:
        """Tell whether there is a step that has succeeded, and was not undone since."""
        return any(map(self.is_done, self.recorded_tokens()))

    def recorded_tokens(self) -> frozenset[str]:
        """Return the tokens of all steps that anything is recorded of."""
        return frozenset({parse_step_key(key)[0] for key in (*self._steps, *self._waits, *self._tries)} - {PASS_TOKEN})


def _after(message: StoredMessage, delay_ms: int | None) -> int:
    # What has no time of its own waits for as long as it takes.
    # The time at which a record was stored comes rounded down to whole milliseconds.
    return message.time_ms + 1 + delay_ms if delay_ms else 0
