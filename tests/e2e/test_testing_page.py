"""The page about testing shows tests that pass, in a plain pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.markdown import fences

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_on_the_page_pass_without_any_plugin(tmp_path: Path) -> None:
    (code,) = fences(ROOT / "docs" / "testing.md", "python")
    (tmp_path / "test_approval.py").write_text(code, encoding="utf-8")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
