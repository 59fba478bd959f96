"""How commands end, and how they come to a connection."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ironflow.broker.protocol import Denied, NoSuchStream, Unavailable
from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    connection_options,
    json_option,
    limit_option,
    open_client,
    run_async,
)
from ironflow.errors import (
    DefinitionError,
    EngineUnavailableError,
    IronflowError,
    LimitError,
    PublishError,
    RunNotFoundError,
)
from tests.unit.fake_engine import FakeEngine, Shell


def _run(error: BaseException | None = None, code: ExitCode | None = None, **env: str) -> Result:
    """Run a command that prints "started", then raises the error or returns the code."""

    @click.command()
    @run_async
    async def command() -> ExitCode | None:
        click.echo("started")
        if error is not None:
            raise error
        return code

    return CliRunner().invoke(command, [], env=env)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


WHO_MAY = (
    "is it the right user, namespace and NATS_JS_API_PREFIX? ('ironflow nats-accounts' prints what each role may do)"
)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunNotFoundError("no run ABC"), 1, "no run ABC"),
        (IronflowError("one\n  two\n\nthree"), 1, "one two three"),
        (IronflowError("\x1b[2Jgone\x9b1A\rover"), 1, "\\x1b[2Jgone\\x9b1A over"),
        (IronflowError(), 1, "IronflowError"),
        (PublishError("not stored"), 1, "not stored"),
        (_caused(PublishError("not stored"), Denied("no")), 1, f"not stored; {WHO_MAY}"),
        (_caused(PublishError("not stored"), Unavailable("away")), 3, "not stored"),
        (_caused(PublishError("not stored"), NoSuchStream("EVENTS")), 3, "not stored"),
        (DefinitionError("bad name"), 2, "bad name"),
        (LimitError("too long"), 2, "too long"),
        (EngineUnavailableError("no engine answers"), 3, "no engine answers"),
        (Unavailable("no leader"), 3, "no leader"),
        (Denied("publish to x"), 1, f"publish to x; {WHO_MAY}"),
        (ExceptionGroup("several", [EngineUnavailableError("away"), ValueError("x")]), 3, "away"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "internal error: ZeroDivisionError: division by zero; run again with IRONFLOW_DEBUG=1 for the traceback",
        ),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(error: BaseException, code: int, line: str) -> None:
    result = _run(error)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "started\n", f"{line}\n")


def test_a_traceback_is_shown_where_it_was_asked_for() -> None:
    result = _run(ZeroDivisionError("x"), IRONFLOW_DEBUG="1")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(("code", "expected"), [(None, 0), *((code, int(code)) for code in ExitCode)])
def test_the_returned_code_is_the_exit_code(code: ExitCode | None, expected: int) -> None:
    result = _run(code=code)
    assert (result.exit_code, result.stderr) == (expected, "")


def test_usage_errors_are_shown_by_click() -> None:
    result = _run(click.UsageError("wrong"))
    assert result.exit_code == 2
    assert "Error: wrong" in result.stderr


def test_commands_run_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    loops: list[asyncio.AbstractEventLoop] = []

    @run_async
    async def note_the_loop() -> None:
        loops.append(asyncio.get_running_loop())

    note_the_loop()
    assert isinstance(loops[0], uvloop.Loop)


def test_commands_run_without_uvloop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert _run().stdout == "started\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is nothing that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_said_so_of(unbuffered: str) -> None:
    command = [sys.executable, "-m", "ironflow.cli.main", "completion", "bash"]
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "cannot write to stdout: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_closed_pipe_is_no_error_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ironflow.cli.main", "completion", "zsh"]
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.PIPE_CLOSED, b"")


def _options_of(
    words: list[str], *decorators: Callable[[Callable[..., None]], Callable[..., None]], **env: str
) -> dict[str, object]:
    """Return what a command with these options gets handed in."""
    got: dict[str, object] = {}

    def command(**options: object) -> None:
        got.update(options)

    decorated: Callable[..., None] = command
    for decorator in decorators:
        decorated = decorator(decorated)
    result = CliRunner().invoke(click.command()(decorated), words, env=env)
    assert result.exit_code == 0, result.stderr
    return got


def test_the_options_of_a_connection_come_as_one_value() -> None:
    words = ["--nats-url", "nats://a", "--creds", "c", "--context", "x", "--namespace", "n"]
    expected = ConnectionOptions(nats_url="nats://a", creds="c", context="x", namespace="n")
    assert _options_of(words, connection_options) == {"connection": expected}


def test_what_the_command_line_leaves_open_stays_open_for_the_settings() -> None:
    got = _options_of([], connection_options, NATS_URL="nats://a", IRONFLOW_NAMESPACE="n")
    assert got == {"connection": ConnectionOptions()}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, {"as_json": False, "limit": 50}),
        ({"IRONFLOW_JSON": "1", "IRONFLOW_LIMIT": "7"}, {"as_json": True, "limit": 7}),
    ],
)
def test_other_options_have_environment_variables(env: dict[str, str], expected: dict[str, object]) -> None:
    assert _options_of([], json_option, limit_option, **env) == expected


async def test_a_client_is_opened_with_what_the_command_line_says(engine: FakeEngine) -> None:
    async with open_client(ConnectionOptions(nats_url="nats://a", namespace="n")) as client:
        assert client.names.namespace == "ironflow"
    assert engine.connected_with == {"url": "nats://a", "namespace": "n", "creds": None, "context": None}


def test_nats_that_cannot_be_reached_is_one_line(shell: Shell, engine: FakeEngine) -> None:
    engine.nats = False
    result = shell("runs", "list")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "cannot reach NATS at nats://127.0.0.1:4222: connection refused\n"
