"""Logs of the long-running processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import click
import pytest
import structlog
from click.testing import CliRunner

from ironflow.cli.logs import configure_logging, logging_options


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


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


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exception_is_written_with_its_traceback(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    configure_logging("info", json=as_json)
    try:
        int("why")
    except ValueError:
        structlog.get_logger("ironflow.test").exception("failed")
    err = capsys.readouterr().err
    assert "ValueError: invalid literal" in err
    assert len(err.splitlines()) == 1 or not as_json


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
