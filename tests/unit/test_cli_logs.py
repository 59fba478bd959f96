"""Logs of the long-running processes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Callable

import click
import pytest
import structlog
from click.testing import CliRunner

from ironflow.cli.logs import configure_logging, logging_options


def test_both_kinds_of_loggers_write_json_lines_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    structlog.get_logger("ironflow.test").info("started", run="r1")
    logging.getLogger("library").warning("%d left", 3)
    out, err = capsys.readouterr()
    assert out == ""
    first, second = map(json.loads, err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "started", "run": "r1", "level": "info", "logger": "ironflow.test"}
    assert (second["event"], second["level"], second["logger"]) == ("3 left", "warning", "library")


def test_what_is_less_severe_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    structlog.get_logger("ironflow.test").info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger("ironflow.test").warning("loud", run="r1")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "loud" in err
    assert "run=r1" in err


def test_what_asyncio_says_of_a_closed_tls_connection_is_left_out_and_nothing_else_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("warning")
    # As asyncio.sslproto and uvloop have it.
    logging.getLogger("asyncio").warning("returning true from eof_received() has no effect when using ssl")
    logging.getLogger("asyncio").warning("socket.send() raised exception.")
    (line,) = capsys.readouterr().err.splitlines()
    assert "socket.send" in line


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exception_is_written_with_its_text_on_request(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    configure_logging("info", json=as_json, error_texts=True)
    try:
        int("why")
    except ValueError:
        structlog.get_logger("ironflow.test").exception("failed")
    err = capsys.readouterr().err
    assert "ValueError: invalid literal" in err
    assert len(err.splitlines()) == 1 or not as_json


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_that_a_line_says_moves_the_terminals_cursor(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    configure_logging("info", json=as_json, error_texts=True)
    hostile = "a\x1b[2J\x9b1A\r\u202eb"
    structlog.get_logger("ironflow.test").warning(f"said {hostile}", subject=hostile, ids=[hostile], **{hostile: 1})
    logging.getLogger("library").warning("said %s", hostile)
    try:
        charge(hostile)
    except ValueError:
        structlog.get_logger("ironflow.test").exception("failed")
    err = capsys.readouterr().err
    assert not set(err) & set("\x1b\x9b\r\u202e")
    assert "\\x1b[2J" in err.replace("\\u001b", "\\x1b")


def test_lines_that_code_breaks_stay_broken_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.get_logger("ironflow.test").info("one\n\ttwo: käse 🧀")
    assert "one\n\ttwo: käse 🧀" in capsys.readouterr().err


def charge(card: str) -> None:
    raise ValueError(f"no such card: {card}")


def fail_in_many_ways(secret: str) -> None:
    try:
        try:
            charge(secret)
        except ValueError as error:
            raise RuntimeError(secret) from error
    except RuntimeError as error:
        raise ExceptionGroup(secret, [KeyError(secret), error]) from None


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exception_is_written_with_its_types_and_places_and_without_its_texts(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    configure_logging("debug", json=as_json)
    for logger in (structlog.get_logger("ironflow.test"), logging.getLogger("library")):
        try:
            fail_in_many_ways("s3cret")
        except ExceptionGroup:
            logger.exception("failed")
        err = capsys.readouterr().err
        assert "s3cret" not in err
        for place in ("ExceptionGroup", "KeyError", "RuntimeError", "ValueError", "in charge", "which led to:"):
            assert place in err
        assert len(err.splitlines()) == 1 or not as_json


def nested(error: Exception) -> Exception:
    return ExceptionGroup("group", [error])


def caused(error: Exception) -> Exception:
    following = RuntimeError()
    following.__cause__ = error
    return following


@pytest.mark.parametrize("texts", [False, True], ids=["types", "texts"])
@pytest.mark.parametrize("wrap", [nested, caused])
def test_exceptions_that_are_nested_deeper_than_calls_may_be_are_written_in_part(
    capsys: pytest.CaptureFixture[str], wrap: Callable[[Exception], Exception], *, texts: bool
) -> None:
    configure_logging("info", json=True, error_texts=texts)
    error: Exception = ValueError("innermost")
    for _ in range(5_000):
        error = wrap(error)
    structlog.get_logger("ironflow.test").error("failed", exc_info=error)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "failed"
    assert texts or len(line) < 10_000


def test_what_asyncio_says_of_a_task_that_nobody_waits_for_holds_no_text_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", json=True)

    async def main() -> None:
        async def fail() -> None:
            charge("s3cret")

        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        asyncio.get_running_loop().call_soon(charge, "s3cret")
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    err = capsys.readouterr().err
    assert "s3cret" not in err
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["Exception in callback charge", "Task exception was never retrieved"]


def test_the_text_of_an_error_is_left_out_by_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    structlog.get_logger("ironflow.test").info("failed", error="ValueError", error_text="s3cret")
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "env", "level", "is_json"),
    [
        ([], {}, logging.INFO, False),
        (["--log-level", "debug", "--log-format", "json"], {}, logging.DEBUG, True),
        ([], {"IRONFLOW_LOG_LEVEL": "error", "IRONFLOW_LOG_FORMAT": "json"}, logging.ERROR, True),
    ],
)
def test_processes_take_level_and_format_as_options(
    words: list[str], env: dict[str, str], level: int, *, is_json: bool
) -> None:
    @click.command()
    @logging_options
    def command() -> None:
        structlog.get_logger("ironflow.test").error("x")

    result = CliRunner().invoke(command, words, env=env)
    assert (result.exit_code, logging.root.level) == (0, level)
    assert result.stderr.startswith("{") == is_json
