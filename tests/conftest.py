"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
import structlog

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.local.virtual_time import VirtualTimeLoop
from ironflow.function import forget_functions
from tests.support import fresh_namespace, nats_server_in
from tests.support.containers import ContainerServer, nats_container, wanted

pytest_plugins = ["tests.support.left_to_session"]

_SHOWN = "shown"


def pytest_configure() -> None:
    """Log plain tracebacks: to draw one, with colours and all variables, takes longer than most tests."""
    before = structlog.get_config()["processors"][:-1]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, renderer])


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Have no test log as another one has configured it: pytest keeps what goes through logging, and all behind it."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    if structlog.get_config() != before or logging.root.handlers != handlers or logging.root.level != level:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what has a text stand in front of the session's last lines, in whichever process the test runs."""

    def add(text: str) -> None:
        request.node.user_properties.append((_SHOWN, text))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to show."""
    reports = [each for outcome in ("passed", "failed") for each in terminalreporter.stats.get(outcome, ())]
    for report in reports:
        for name, text in report.user_properties:
            if name == _SHOWN and report.when == "call":
                terminalreporter.write_line(f"\n{text}\n")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Let test files define functions of the same ids: each is imported after the functions of others are forgotten."""
    if isinstance(collector, pytest.Module):
        forget_functions()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three processes on two cores: a third of their time, tests wait for servers and for time to pass."""
    return (os.cpu_count() or 1) * 3 // 2


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Let hours pass in no time where a test is marked so."""
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual time": VirtualTimeLoop}
    return {"real time": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer | ContainerServer]:
    """One real nats-server for the session; tests keep apart by their namespaces and stream names.

    A test that kills it has to restart it before it ends.
    """
    folder = tmp_path_factory.mktemp("nats")
    with nats_container(folder) if wanted() else nats_server_in(folder) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return fresh_namespace()
