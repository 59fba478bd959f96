"""What is recorded of a run, as a pass looks it up: pure."""

from __future__ import annotations

from collections.abc import Iterable

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.names import PASS_TOKEN, Scope, parse_journal
from ironflow.records import InputRecord, StepKind, StepRecord, TryRecord, WaitRecord


class Memo:
    """The journal of one run, by step.

    Attributes:
        event: the triggering event, where it is recorded.
        seen: the newest journal sequence that is in here.
        last_pass: the number of the newest pass that has an outcome; -1 where none has.

    """

    def __init__(self) -> None:
        self.event: InputRecord | None = None
        self.seen = 0
        self.last_pass = -1
        self._steps: dict[str, StepRecord] = {}
        self._waits: dict[str, WaitRecord] = {}
        self._tries: dict[str, TryRecord] = {}
        self._due: set[tuple[str, int]] = set()
        self._failed_at: dict[str, int] = {}
        self._failed_branches: dict[Scope, set[int]] = {}

    def read(self, messages: Iterable[StoredMessage]) -> None:
        """Take in journal messages, in order.

        Raises:
            SerializationError: one of them cannot be read.

        """
        for message in messages:
            self._read_one(message)
            self.seen = max(self.seen, message.sequence)

    def _read_one(self, message: StoredMessage) -> None:
        address = parse_journal(message.subject)
        match address.kind, address.rest:
            case "step", (step, *_):
                self._read_step(step, decode_record(StepRecord, message.payload), message.sequence)
            case "wait", (step, *_):
                self._waits[step] = decode_record(WaitRecord, message.payload)
            case "try", (step, *_):
                record = decode_record(TryRecord, message.payload)
                newest = self._tries.get(step)
                if newest is None or newest.attempt < record.attempt:
                    self._tries[step] = record
            case "due", (step, attempt):
                self._due.add((step, int(attempt)))
            case "outcome", (number,):
                self.last_pass = max(self.last_pass, int(number))
            case "input", ():
                self.event = decode_record(InputRecord, message.payload)
            case _:
                pass  # a newer version's kind of record; this one does not depend on it

    def _read_step(self, token: str, record: StepRecord, sequence: int) -> None:
        self._steps[token] = record
        if record.status != "failed":
            return
        self._failed_at[token] = sequence
        for depth in range(0, len(record.scope) - 1, 2):
            branch = record.scope[depth + 1]
            if isinstance(branch, int):
                self._failed_branches.setdefault(record.scope[: depth + 1], set()).add(branch)

    def failed_at(self, token: str) -> int:
        """Return the journal sequence of a step's failure; 0 where it has not failed."""
        return self._failed_at.get(token, 0)

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
            sequence
            for token, sequence in self._failed_at.items()
            if self._steps[token].token != but_of and self._steps[token].scope[: len(group)] == group
        ]

    def step(self, token: str) -> StepRecord | None:
        """Return the result of a step."""
        return self._steps.get(token)

    def wait(self, token: str) -> WaitRecord | None:
        """Return what a step waits for."""
        return self._waits.get(token)

    def failed_attempt(self, token: str) -> TryRecord | None:
        """Return the newest failed attempt of a step, or of the pass as a whole."""
        return self._tries.get(token)

    def is_backing_off(self, token: str) -> bool:
        """Tell whether a step's next attempt has yet to become due."""
        newest = self._tries.get(token)
        return newest is not None and (token, newest.attempt) not in self._due

    def kind(self, token: str) -> StepKind | None:
        """Return as which kind of step a token was recorded."""
        record = self._steps.get(token) or self._waits.get(token) or self._tries.get(token)
        return record.kind if record is not None else None

    def open_waits(self, kind: StepKind) -> int:
        """Return how many waits of a kind have not ended."""
        return sum(wait.kind == kind and token not in self._steps for token, wait in self._waits.items())

    def recorded_tokens(self) -> frozenset[str]:
        """Return the tokens of all steps that anything is recorded of."""
        return frozenset({*self._steps, *self._waits, *self._tries} - {PASS_TOKEN})
