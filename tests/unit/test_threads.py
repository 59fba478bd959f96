"""The threads of plain bodies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from ironflow_worker.threads import DaemonThreads


def test_it_runs_what_it_is_given_and_raises_what_that_raises() -> None:
    threads = DaemonThreads(2, "test")
    assert threads.submit(pow, 2, 3).result() == 8
    for error in (ValueError("no"), SystemExit(3)):
        with pytest.raises(type(error)) as raised:
            threads.submit(_throw, error).result()
        assert raised.value is error
    threads.shutdown()


def test_there_are_no_more_threads_than_allowed() -> None:
    threads = DaemonThreads(3, "counted")
    gate, began = threading.Event(), threading.Semaphore(0)
    waiting = [threads.submit(_wait, began, gate) for _ in range(10)]
    for _ in range(3):
        assert began.acquire(timeout=5)
    assert _named("counted") == 3
    assert not began.acquire(blocking=False)
    gate.set()
    assert [future.result(5) for future in waiting] == [True] * 10
    threads.shutdown()
    assert _named("counted") == 0


def test_what_has_not_begun_can_be_dropped_and_what_has_goes_on() -> None:
    threads = DaemonThreads(1, "dropping")
    gate, began = threading.Event(), threading.Semaphore(0)
    running = threads.submit(_wait, began, gate)
    waiting = [threads.submit(int) for _ in range(3)]
    assert began.acquire(timeout=5)
    threads.shutdown(wait=False, cancel_futures=True)
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(5)
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(int)
    gate.set()
    assert running.result(5)
    threads.shutdown()


def test_a_call_that_is_cancelled_before_it_begins_costs_no_thread() -> None:
    threads = DaemonThreads(1, "cancelled")
    gate, began = threading.Event(), threading.Semaphore(0)
    running = threads.submit(_wait, began, gate)
    assert began.acquire(timeout=5)
    assert threads.submit(int).cancel()
    gate.set()
    assert running.result(5)
    assert threads.submit(int).result(5) == 0
    threads.shutdown()


def test_a_body_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import time
from ironflow_worker.threads import DaemonThreads
threads = DaemonThreads(1, "hanging")
threads.submit(time.sleep, 600)
threads.shutdown(wait=False)
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert time.monotonic() - began < 30


def _throw(error: BaseException) -> None:
    raise error


def _wait(began: threading.Semaphore, gate: threading.Event) -> bool:
    began.release()
    return gate.wait(5)


def _named(name: str) -> int:
    return sum(thread.name.startswith(f"{name}-") for thread in threading.enumerate())
