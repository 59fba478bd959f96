"""What bodies and processes say of themselves, to a file that NATS knows nothing of."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, Protocol

import msgspec

LOADED_AT: ContextVar[float | None] = ContextVar("LOADED_AT", default=None)
"""When the pass that runs in this context began to load its journal, in milliseconds; None if it did not."""

LineKind = Literal["delivered", "pass", "left", "begin", "end", "failed", "saw", "refused", "hidden"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was seen.

    Attributes:
        kind: a task was *delivered*; a *pass* began or *left* its handler; a body did *begin*, *end* or have
            *failed*; a handler *saw* results; a write was *refused* to a process; the answer to one was *hidden*.
        wall_ms: when, by the machine's clock.
        pid: where.
        run: whose.
        step: the token of the body's step; of a delivery, the subject.
        pass_id: unique for each pass.
        loaded_ms: of a pass: when it began to load the journal; 0 where it did not.
        nonce: of an end: what makes this result differ from any other of this step.
        seen: of a pass: the nonces that its handler was given, by step.
        sequence: of a delivery: that of the task.
        stored_ms: of a delivery: when the server stored the task.
        own: of a refusal: whether what stands there was written by the same process.

    """

    kind: LineKind
    wall_ms: float
    pid: int = 0
    run: str = ""
    step: str = ""
    pass_id: str = ""
    loaded_ms: float = 0.0
    nonce: str = ""
    seen: dict[str, str] = {}
    sequence: int = 0
    stored_ms: float = 0.0
    own: bool = False


class Witness(Protocol):
    """Where lines go."""

    def write(self, line: Line) -> None:
        """Keep a line; when this returns it outlives the process."""
        ...

    def now_ms(self) -> float:
        """Return the time."""
        ...

    def spend(self, key: str, budget: int) -> bool:
        """Take one from a budget that all processes share; False once it is spent."""
        ...


class FileWitness:
    """Appends each line to a file in one write, so that lines of several processes never mix.

    Args:
        folder: holds the file, and the budgets.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "budgets"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(witness_file(folder), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, line: Line) -> None:
        """Keep a line."""
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    def now_ms(self) -> float:
        """Return the time."""
        return time.time() * 1000

    def spend(self, key: str, budget: int) -> bool:
        """Take one from a budget that all processes share."""
        for number in range(budget):
            try:
                os.close(os.open(self._folder / f"{key}.{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


class MemoryWitness:
    """Keeps lines in a list, for processes that are all in this one.

    Args:
        now_ms: returns the time.

    """

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.lines: list[Line] = []
        self.now_ms = now_ms
        self._spent: dict[str, int] = {}

    def write(self, line: Line) -> None:
        """Keep a line."""
        self.lines.append(line)

    def spend(self, key: str, budget: int) -> bool:
        """Take one from a budget."""
        self._spent[key] = self._spent.get(key, 0) + 1
        return self._spent[key] <= budget


def witness_file(folder: Path) -> Path:
    """Return where a :class:`FileWitness` of a folder writes."""
    return folder / "witness.jsonl"


def read_witness(folder: Path) -> list[Line]:
    """Return the lines that were written."""
    decode = msgspec.json.Decoder(Line).decode
    return [decode(line) for line in witness_file(folder).read_bytes().splitlines()]


def fresh_nonce() -> str:
    """Return a text that differs from all others."""
    return uuid.uuid4().hex[:12]
