"""How long each example takes in process, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile

import structlog
from tabulate import tabulate

from tests.support import examples

MOST_SECONDS = 1.0


async def main() -> int:
    """Print the figures; fail where an example does not do what it says, or takes longer than a second."""
    return await asyncio.to_thread(_main)  # each example has a loop of its own, with a clock of its own


def _main() -> int:
    rows: list[tuple[str, float, str]] = []
    for example in examples.examples():
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), structlog.testing.capture_logs():
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    played = examples.play(example)
            except KeyError:
                rows.append((example, 0.0, "nobody says what it should do: see tests/support/examples.py"))
                continue
        wrong = played.differences(examples.PLAYS[example])
        if played.seconds > MOST_SECONDS:
            wrong.append(f"takes more than {MOST_SECONDS:g} s")
        rows.append((example, played.seconds, next(iter(wrong), "")))
    print(tabulate(rows, headers=("example", "seconds", "wrong"), floatfmt=".3f"))
    return 1 if any(wrong for _, _, wrong in rows) else 0
