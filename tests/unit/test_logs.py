"""Logs of ours in programs of others."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import structlog

from ironflow.logs import get_logger

LOG = get_logger("ironflow.test", worker="w1")


@pytest.fixture
def _unconfigured() -> None:
    structlog.reset_defaults()


def test_a_program_that_configures_nothing_reads_warnings_on_stderr_and_nothing_else() -> None:
    program = (
        "from ironflow.logs import get_logger\n"
        "log = get_logger('ironflow.test', worker='w1')\n"
        "log.debug('a'); log.info('b'); log.warning('lost', url='nats://a')\n"
        "try: int('why')\n"
        "except ValueError: log.exception('failed')\n"
        "print('data')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "data\n"
    lines = done.stderr.splitlines()
    assert lines[:2] == ["lost worker='w1' url='nats://a'", "failed worker='w1'"]
    assert lines[-1].startswith("ValueError: ")


@pytest.mark.usefixtures("_unconfigured")
def test_a_program_that_configures_logging_gets_what_it_asks_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ironflow"):
        LOG.debug("unasked")
        LOG.info("%d left", 3, name="n", args=1)
        LOG.bind(run="r1").info("bound")
    assert [(each.name, each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ironflow.test", "INFO", "3 left worker='w1' name='n' args=1"),
        ("ironflow.test", "INFO", "bound worker='w1' run='r1'"),
    ]


@pytest.mark.usefixtures("_unconfigured")
def test_a_message_with_percent_signs_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    LOG.warning("100 %s done")
    assert caplog.records[0].getMessage() == "100 %s done worker='w1'"


def test_a_program_that_configures_structlog_has_all_lines_in_its_way() -> None:
    with structlog.testing.capture_logs() as lines:
        LOG.info("here", run="r1")
    assert lines == [{"event": "here", "log_level": "info", "run": "r1", "worker": "w1"}]
