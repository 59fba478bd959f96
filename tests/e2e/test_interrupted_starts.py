"""Ctrl-C in the first moments of a process, while it still imports or waits for NATS."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import eventually
from tests.support.servers import info_line, stub_server

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


async def test_ctrl_c_does_not_wait_for_a_server_that_answers_nothing() -> None:
    heard: list[bytes] = []

    def waits_for_streams() -> None:
        assert any(b".STREAM." in line for line in heard)

    greeting = info_line("2.15.1", headers=True, max_payload=1_000_000)
    async with stub_server(greeting, answers_ping=True, heard=heard) as url:
        engine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ironflow_engine", "--nats-url", url), stderr=asyncio.subprocess.PIPE
        )
        try:
            await eventually(waits_for_streams, within=30.0)
            engine.send_signal(signal.SIGINT)
            async with asyncio.timeout(8.0):  # a call would wait for 15 s
                _, complaint = await engine.communicate()
        finally:
            if engine.returncode is None:
                engine.kill()
                await engine.wait()
    assert (engine.returncode, complaint) == (130, b"interrupted\n")
