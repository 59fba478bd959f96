"""A plugin of pytest: runs only the tests that a file names, and writes down what came of each.

Node ids on the command line would not do: pytest runs nothing at all where one of them does not exist.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

WANTED = "IRONFLOW_TESTS_WANTED"
"""Names the environment variable with the path of the file that lists node ids."""
CAME = "IRONFLOW_TESTS_CAME"
"""Names the environment variable with the path of the file to write."""
PASSED = "passed"

_came: dict[str, str] = {}


def is_variant(node: str, test: str) -> bool:
    """Tell whether a test that ran is the one that was named, or that one with some parameters."""
    return node == test or node.startswith(f"{test}[")


def note(came: dict[str, str], report: pytest.TestReport) -> None:
    """Keep the first thing about a test that is no success; an expected failure is none either."""
    outcome = f"is expected to fail ({report.outcome})" if hasattr(report, "wasxfail") else report.outcome
    if came.get(report.nodeid, PASSED) == PASSED:
        came[report.nodeid] = outcome


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not wanted."""
    wanted = json.loads(Path(os.environ[WANTED]).read_text(encoding="utf-8"))
    kept = [item for item in items if any(is_variant(item.nodeid, test) for test in wanted)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what came of a test."""
    note(_came, report)


def pytest_sessionfinish() -> None:
    """Write it down."""
    Path(os.environ[CAME]).write_text(json.dumps(_came), encoding="utf-8")
