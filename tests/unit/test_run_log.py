"""The names of facts in what a handler logs."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import structlog

from ironflow.cli.logs import configure_logging
from ironflow.logs import get_logger
from ironflow_worker.run_log import run_log

LOG = run_log(lambda: structlog.wrap_logger(get_logger("ironflow.test"), processors=[lambda *all_: all_[-1]], run="r1"))
CLASHES = {"event": "order.placed", "run": "mine"}
NAMES = (
    *("event", "run", "function", "step", "attempt", "level", "logger", "timestamp", "error_text"),
    *("self", "method_name", "positional_args"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_fact_whose_name_is_taken_is_logged_under_another(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging("info", json=True)
    facts = {name: "mine"}
    LOG.info("placed", **facts)
    LOG.bind(**facts).warning("bound")
    LOG.log(logging.ERROR, "logged", **facts)
    placed, bound, logged = map(json.loads, capsys.readouterr().err.splitlines())
    assert [each["event"] for each in (placed, bound, logged)] == ["placed", "bound", "logged"]
    assert [each["level"] for each in (placed, bound, logged)] == ["info", "warning", "error"]
    assert {(each["run"], each[f"{name}_"]) for each in (placed, bound, logged)} == {("r1", "mine")}


@pytest.mark.parametrize("configured", [True, False])
def test_so_it_is_however_logs_are_configured(caplog: pytest.LogCaptureFixture, *, configured: bool) -> None:
    if configured:
        with structlog.testing.capture_logs() as lines:
            LOG.warning("placed", **CLASHES)
        assert lines == [
            {"event": "placed", "event_": "order.placed", "run": "r1", "run_": "mine", "log_level": "warning"}
        ]
        return
    structlog.reset_defaults()
    LOG.warning("placed", **CLASHES)
    (record,) = caplog.records
    assert record.getMessage() == "placed run='r1' event_='order.placed' run_='mine'"


def test_a_fact_takes_the_place_of_no_other() -> None:
    with structlog.testing.capture_logs() as lines:
        LOG.info("placed", run="mine", run_="other")
    assert (lines[0]["run_"], lines[0]["run__"]) == ("other", "mine")


def test_a_message_may_be_given_by_name() -> None:
    with structlog.testing.capture_logs() as lines:
        LOG.info(event="placed", total=3)
        LOG.log(event="logged", level=logging.INFO)
    assert [line["event"] for line in lines] == ["placed", "logged"]
    assert lines[0]["total"] == 3


async def test_the_rest_is_as_with_any_logger_of_structlog() -> None:
    with structlog.testing.capture_logs() as lines:
        await LOG.ainfo("awaited", step="mine")
        LOG.bind(total=1).unbind("total").info("%d left", 3)
        copy.deepcopy(LOG).info("copied")
    assert [(line["event"], line["run"]) for line in lines] == [("awaited", "r1"), ("3 left", "r1"), ("copied", "r1")]
    assert lines[0]["step_"] == "mine"
    assert "total" not in lines[1]
