"""mypy and pyright agree on what the public API accepts and refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ironflow

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy_errors(file: Path) -> set[int]:
    """Return the lines of a file that mypy refuses."""
    options = [
        "--no-error-summary",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    run = _run("mypy", *options, file.name, folder=file.parent)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = re.findall(rf"^{re.escape(file.name)}:(\d+): error:", run.stdout, re.MULTILINE)
    assert bool(found) == (run.returncode == 1), run.stdout
    return {int(line) for line in found}


def pyright_errors(file: Path) -> set[int]:
    """Return the lines of a file that pyright refuses."""
    run = _run("pyright", "--pythonpath", sys.executable, "--outputjson", file.name, folder=file.parent)
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    found = report["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


def _run(checker: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", checker, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


CHECKERS = {"mypy": mypy_errors, "pyright": pyright_errors}


@pytest.mark.parametrize("checker", CHECKERS)
def test_correct_code_is_accepted(checker: str, tmp_path: Path) -> None:
    assert CHECKERS[checker](_copy("accepted.py", tmp_path)) == set()


@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_code_is_refused_where_it_is_wrong(checker: str, tmp_path: Path) -> None:
    file = _copy("refused.py", tmp_path)
    marked = {
        number for number, line in enumerate(file.read_text().splitlines(), 1) if line.rstrip().endswith("# refused")
    }
    assert CHECKERS[checker](file) == marked


def _copy(name: str, folder: Path) -> Path:
    """Copy a file to where the project's own settings do not leave it out."""
    return Path(shutil.copy(HERE / name, folder))


def test_all_lists_the_public_names_in_order() -> None:
    public = {name for name in vars(ironflow) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(ironflow, name)).__name__ == "module"}
    assert sorted(public - modules | {"__version__"}) == sorted(ironflow.__all__)
    assert ironflow.__all__ == sorted(ironflow.__all__)
