"""What the demo shows: a line of progress while it goes on, a table at its end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from examples._demo_expected import Ended

PLAIN_SECONDS = 2.0
MOST_DIFFERENCES = 20

Step = tuple[str, str]
"""An order's id, and the name of a step that has a body."""


class Progress:
    """A line that is rewritten on a terminal; elsewhere a new line every other second."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._line_open = False
        self._shown_at = float("-inf")

    @property
    def seconds(self) -> float:
        """How long the demo has been running."""
        return time.monotonic() - self._started

    def update(self, text: str) -> None:
        """Show how far things are."""
        if self._terminal:
            self._line_open = True
            sys.stdout.write(f"\r\x1b[2K{self._stamp()}{text}")
            sys.stdout.flush()
        elif self.seconds - self._shown_at >= PLAIN_SECONDS:
            self.say(text)

    def say(self, text: str) -> None:
        """Show something that stays."""
        self.close()
        self._shown_at = self.seconds
        print(f"{self._stamp()}{text}", flush=True)

    def close(self) -> None:
        """End the line that is being rewritten."""
        if self._line_open:
            self._line_open = False
            print(flush=True)

    def _stamp(self) -> str:
        return f"{self.seconds:5.1f} s  "


class Work(NamedTuple):
    """What was done, counted by two who know nothing of each other.

    Attributes:
        recorded: how many steps the journal has.
        attempts: how many attempts it has of each step with a body: one, and one more for each failure.
        starts: how often each body was started, as the bodies themselves say.
        starts_of_killed: the same, by the worker that was killed.

    """

    recorded: int
    attempts: Counter[Step]
    starts: Counter[Step]
    starts_of_killed: Counter[Step]

    @property
    def failed_attempts(self) -> int:
        """How many attempts failed and were followed by another."""
        return self.attempts.total() - len(self.attempts)

    @property
    def again(self) -> Counter[Step]:
        """The starts beyond the recorded attempts: the first of the two got no further."""
        return self.starts - self.attempts

    @property
    def again_after_kill(self) -> int:
        """How many of those the killed worker had begun."""
        return (self.again & self.starts_of_killed).total()

    def contradictions(self) -> Iterable[str]:
        """Return where the two contradict each other."""
        for order, step in self.attempts - self.starts:
            yield f"step {step} of {order}: is recorded more often than it was started"


def read_starts(witness: Path, killed: int) -> tuple[Counter[Step], Counter[Step]]:
    """Return how often each body was started, and how often by the process that was killed."""
    starts: Counter[Step] = Counter()
    by_killed: Counter[Step] = Counter()
    for line in witness.read_text(encoding="utf-8").splitlines():
        order, step, pid = line.split()
        starts[order, step] += 1
        by_killed[order, step] += int(pid) == killed
    return starts, +by_killed


def print_table(order_runs: Iterable[Ended], receipt_runs: Iterable[Ended], work: Work, seconds: float) -> None:
    """Print the end of the story."""
    orders = Counter(run.status for run in order_runs)
    receipts = Counter(run.status for run in receipt_runs)
    rows = [[f"runs {status}", orders[status], receipts[status]] for status in sorted(orders | receipts)]
    print()
    print(tabulate(rows, headers=["", "orders", "receipts"]))
    print()
    again = work.again_after_kill
    facts = [
        ("steps executed", str(work.recorded)),
        ("attempts that failed on purpose", str(work.failed_attempts)),
        ("steps that ran again because of the kill", str(again)),
        ("steps that ran again for another reason", str(work.again.total() - again)),
        ("wall time", f"{seconds:.1f} s"),
    ]
    print(tabulate(facts, colalign=("left", "right"), tablefmt="plain", disable_numparse=True))
    print()


def print_differences(found: Sequence[str]) -> None:
    """Print what is not as it should be."""
    print(f"{len(found)} of the checks failed:")
    for difference in found[:MOST_DIFFERENCES]:
        print(f"  {difference}")
    if len(found) > MOST_DIFFERENCES:
        print(f"  … and {len(found) - MOST_DIFFERENCES} more")
