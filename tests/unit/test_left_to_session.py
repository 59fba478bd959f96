"""A session fails where a test that was left to it proves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.left_to_session import faults_of
from tests.support.promises import ROOT

LEAVING = """
from tests.support.left_to_session import leave_to_session

def test_leaving(request):
    leave = ["test_others.py::test_good", "test_others.py::test_each", "test_others.py::test_skipped"]
    here = "test_others.py::test_missing", "test_nowhere.py::test_x", "test_leaving.py::test_leaving[1]"
    assert leave_to_session(request, [*leave, *here]) == [*here]
"""
OTHERS = """
import pytest

def test_good(): pass

@pytest.mark.parametrize("number", [1, 2])
def test_each(number): pass

@pytest.mark.skipif({skipped}, reason="not now")
def test_skipped(): pass
"""


def session(folder: Path, *options: str, skipped: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder with a test that leaves others to the session."""
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.support.left_to_session"]\n')
    (folder / "test_leaving.py").write_text(LEAVING)
    (folder / "test_others.py").write_text(OTHERS.format(skipped=skipped))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_session_in_which_all_pass_passes(tmp_path: Path) -> None:
    done = session(tmp_path, "-n", "1")
    assert done.returncode == pytest.ExitCode.OK, done.stdout


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_session_fails_where_one_is_skipped(tmp_path: Path, processes: str) -> None:
    done = session(tmp_path, "-n", processes, skipped=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "test_others.py::test_skipped skipped" in done.stdout


@pytest.mark.parametrize(
    "words", [("test_leaving.py",), ("-k", "leaving or good"), ("test_leaving.py", "test_others.py::test_good")]
)
def test_nothing_is_left_to_a_session_that_may_not_run_all_of_a_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = session(tmp_path, *words)
    # The test that leaves them has all of them back, and expected three.
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "test_others.py::test_good" in done.stdout


@pytest.mark.parametrize(
    ("came", "faults"),
    [
        ({"a::b": "passed"}, []),
        ({"a::b[1]": "passed", "a::b[2]": "passed"}, []),
        ({"a::b[1]": "passed", "a::b[2]": "failed"}, ["a::b[2] failed"]),
        ({"a::b": "is expected to fail (skipped)"}, ["a::b is expected to fail (skipped)"]),
        ({"a::better": "passed"}, ["a::b did not run"]),
        ({}, ["a::b did not run"]),
    ],
)
def test_what_proves_nothing_is_named(came: dict[str, str], faults: list[str]) -> None:
    assert faults_of(["a::b"], came) == faults
