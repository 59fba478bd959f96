"""Sagas on a real server: every step and every undo fails, and the worker process is killed at every undo."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

SECONDS = 100
"""Less than what pytest-timeout leaves, which ends the process that runs all the other tests."""


async def test_every_undo_of_a_recorded_step_runs_in_order_whatever_fails_and_dies() -> None:
    # In a process of its own: what it kills must never be the one that runs all the other tests.
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.saga", "--every", "3"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await bench.communicate()
    except TimeoutError:
        bench.send_signal(signal.SIGINT)  # so that it ends what it has started
        said, _ = await bench.communicate()
        pytest.fail(f"not done after {SECONDS} s: {said.decode()}")
    assert bench.returncode == 0, said.decode()
