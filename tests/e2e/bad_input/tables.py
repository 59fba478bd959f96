"""What the tables of bad input share: their rows, how a refusal looks, and where the commands run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.errors import (
    EngineUnavailableError,
)
from ironflow.names import Names, bucket_stream
from tests.support import eventually
from tests.support.commands import COMMAND, ENGINE, WORKER, Call, Commands, Outcome
from tests.support.processes import Cluster

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
WITHIN_SECONDS = 5.0
NOBODY = "nats://127.0.0.1:1"
MOST = 512 * 1024
USAGE_ERROR = re.compile(r"Usage: .*\nTry '.* --help' for help\.\n\nError: (.*)\n")
ID_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ . -"
DURATION_RULE = 'must be a text like "250ms", "30s", "5m", "2h", "7d" or "1h30m"'
TEXT_RULE = "must be a non-empty text without spaces around it, got"
EVENT_ID_RULE = "an event id must be a non-empty printable text without spaces around it, got"
NAMESPACE_RULE = "is not allowed; use a lower-case letter followed by up to 31 lower-case letters, digits, '_' or '-'"
URL_RULE = "is not a NATS URL; write it like nats://127.0.0.1:4222"
EACH_EXECUTABLE = (
    Call(COMMAND, ("functions", "list")),
    Call(ENGINE, ()),
    Call(WORKER, ("--queue", "orders", "shop/orders.py")),
)


class Bad(NamedTuple):
    """One line of a table.

    Attributes:
        given: what was typed, as in a shell.
        complaint: what the line on stderr says, or a part of it.
        code: the exit code.

    """

    given: str
    complaint: str
    code: int = USAGE


def table(*rows: Bad) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", rows, ids=ids_of(row.given for row in rows))


def ids_of(texts: Iterable[str]) -> list[str]:
    """Return what names the rows of a table: numbered, short, and of characters that a terminal shows."""
    escaped = (text.strip().encode("unicode_escape").decode("ascii") for text in texts)
    return [f"{number} {text[:60]}" for number, text in enumerate(escaped, 1)]


def complaint_of(outcome: Outcome) -> str:
    """Return the one line on stderr, without the hint at --help that click puts around it."""
    usage = USAGE_ERROR.fullmatch(outcome.stderr)
    if usage:
        return usage[1]
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, f"not one line: {outcome.stderr!r}"
    return lines[0].removeprefix("Error: ")


def assert_refused(outcome: Outcome, bad: Bad) -> None:
    """Check exit code and text, that stdout is empty, and that nothing of Python shows."""
    line = complaint_of(outcome)
    assert bad.complaint in line
    assert (outcome.code, outcome.stdout) == (bad.code, "")
    for inside in ("Traceback", "internal error", 'File "'):
        assert inside not in line


class Place(NamedTuple):
    """Where the commands run: the server's URL, the namespace in which an engine runs, and the commands."""

    url: str
    namespace: str
    commands: Commands

    def ironflow(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(COMMAND, *words, **how)

    def worker(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(WORKER, *words, **how)

    def engine(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(ENGINE, *words, **how)

    def file(self, name: str, text: str = "") -> Path:
        path = self.commands.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


async def engine_answers(processes: Cluster) -> None:
    """Wait until an engine is there, and has made what it needs."""
    async with processes.client() as client:

        async def answered() -> None:
            try:
                await client.engine.status()
            except EngineUnavailableError as error:
                raise AssertionError(str(error)) from error

        await eventually(answered, within=20.0)


class Ledger:
    """Counts what has ever been written, on a connection and a loop of its own."""

    def __init__(self, runner: asyncio.Runner, url: str, names: Names) -> None:
        self._runner = runner
        self._broker = runner.run(connect(ConnectionSettings(urls=(url,))))
        buckets = map(bucket_stream, (names.runs_bucket, names.waits_bucket, names.functions_bucket))
        self._streams = (
            names.events,
            names.all_shards[0].tasks,
            names.all_shards[0].journal,
            names.all_shards[0].timers,
            *buckets,
        )

    def read(self) -> dict[str, int]:
        """Return how many messages each stream has taken."""
        return self._runner.run(self._read())

    async def _read(self) -> dict[str, int]:
        states = await asyncio.gather(*map(self._broker.stream_state, self._streams))
        return {stream: state.last_sequence for stream, state in zip(self._streams, states, strict=True)}

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._broker.close())


def define(options: str, handler: str = "async def f(ctx): ...") -> str:
    return f"@ironflow.function({options})\n{handler}\n"


def make_shop(place: Place) -> None:
    """Write a package with two functions, and a file that holds another one with the id of the first."""
    cash = "import ironflow\n\n" + define("id='cash', queue='orders'", "async def cash(ctx): ...")
    mail = "import ironflow\n\n" + define("id='mail', queue='mail'", "async def mail(ctx): ...")
    shop = {"shop/__init__.py": "", "shop/orders.py": cash, "shop/mail.py": mail}
    for name, text in (shop | {"other.py": cash, "data.json": "{}"}).items():
        place.file(name, text)
