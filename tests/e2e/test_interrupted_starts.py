"""Ctrl-C in the first moments of a process, while it still imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
INTERRUPTED = "import os, signal, threading\nos.kill(os.getpid(), signal.SIGINT)\nthreading.Event().wait()\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("script", ["ironflow-engine", "ironflow-worker"])
@pytest.mark.parametrize("as_module", [True, False])
def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path, script: str, *, as_module: bool) -> None:
    (tmp_path / "click.py").write_text(INTERRUPTED, encoding="utf-8")
    module, _, name = SCRIPTS[script].partition(":")
    start = ["-m", script.replace("-", "_")] if as_module else ["-c", f"from {module} import {name}; {name}()"]
    done = subprocess.run(
        [sys.executable, *start],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
