"""A plugin of pytest: a test may leave it to its session to look at what came of other tests that run in it anyway.

They would run twice otherwise. The session fails at its end where one of them was skipped, was expected to fail, failed
or did not run at all; with pytest-xdist it is the process that gathers the reports which looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from tests.support import outcomes

KEY = "left to the session"
"""Names the property of a report that holds the node ids of tests that are left to the session."""

_came: dict[str, str] = {}
_left: set[str] = set()
_faults: list[str] = []


def runs_whole(config: pytest.Config, file: str) -> bool:
    """Tell whether a session runs all tests of a file, as far as it knows.

    Args:
        config: the session's.
        file: relative to where node ids begin.

    """
    option = config.option
    if option.keyword or option.deselect or config.getoption("lf", default=False):
        return False
    if option.markexpr and option.markexpr not in config.getini("addopts"):
        return False
    path = config.rootpath / file
    places = [config.invocation_params.dir / place for place in config.args if "::" not in place]
    return any(path == place or place in path.parents for place in map(Path.resolve, places))


def leave_to_session(request: pytest.FixtureRequest, tests: Iterable[str]) -> list[str]:
    """Leave it to the session to check the tests that it runs anyway; return the others.

    Args:
        request: of the test that leaves them.
        tests: node ids; those of a parametrized test need not name the parameters.

    """
    config = request.config
    nodes = [item.nodeid for item in request.session.items]
    left: list[str] = []
    others: list[str] = []
    for test in tests:
        is_run = runs_whole(config, test.partition("::")[0]) and any(outcomes.is_variant(node, test) for node in nodes)
        (left if is_run else others).append(test)
    request.node.user_properties.append((KEY, left))
    return others


def faults_of(left: Iterable[str], came: dict[str, str]) -> list[str]:
    """Say which tests did not run, or did not pass in each of their variants."""
    found: list[str] = []
    for test in sorted(left):
        variants = {node: outcome for node, outcome in came.items() if outcomes.is_variant(node, test)}
        if not variants:
            found.append(f"{test} did not run")
        found += [f"{node} {outcome}" for node, outcome in variants.items() if outcome != outcomes.PASSED]
    return found


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what came of each test, and which tests were left to the session."""
    outcomes.note(_came, report)
    for key, value in report.user_properties:
        if key == KEY and isinstance(value, Collection):
            _left.update(map(str, value))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session where a test that was left to it proves nothing."""
    if hasattr(session.config, "workerinput"):
        return
    _faults.extend(faults_of(_left, _came))
    if _faults and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the session fails."""
    if _faults:
        terminalreporter.section("tests that must pass, and did not", red=True)
        for fault in _faults:
            terminalreporter.line(fault)
