"""The demo, as a user starts it: real processes, a real server, a real kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples._demo_expected import flaw_of

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ROOT / "examples" / "orders.jsonl"
DEMO = ("-m", "examples.demo")
WITH_A_WRONG_RULE = """
import sys
from examples import _demo_expected, demo
_demo_expected.SERVED.remove("DE")
sys.exit(demo.main())
"""
PROCESSES = Path("/proc")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python with its temporary files in *folder*, in the midst of settings of another NATS."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder), "NATS_URL": "nats://192.0.2.1:1", "IRONFLOW_NAMESPACE": "other"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    if PROCESSES.is_dir():
        mark = f"TMPDIR={folder}\0".encode()
        assert [entry.parent.name for entry in PROCESSES.glob("[0-9]*/environ") if mark in environment_of(entry)] == []


def environment_of(entry: Path) -> bytes:
    try:
        return entry.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("placed", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_every_order_ends_as_it_should_although_a_worker_is_killed(tmp_path: Path, placed: int) -> None:
    flaws = [flaw_of(json.loads(line)) for line in ORDERS.read_text(encoding="utf-8").splitlines()[:placed]]
    fulfilled = flaws.count(None)
    refused_by_type = sum("`" in flaw for flaw in flaws if flaw)
    steps = 5 * fulfilled + (placed - fulfilled - refused_by_type)
    demo = start(tmp_path, *DEMO, "--orders", str(placed))
    output, _ = demo.communicate(timeout=100)

    assert demo.returncode == 0, output
    assert re.search(r"killed worker 1 \(process \d+\) with SIGKILL", output)
    assert re.search(rf"^runs completed +{fulfilled} +{fulfilled}$", output, re.MULTILINE)
    assert re.search(rf"^runs failed +{placed - fulfilled} +0$", output, re.MULTILINE)
    assert re.search(rf"^steps executed +{steps}$", output, re.MULTILINE)
    assert re.search(r"^steps that ran again because of the kill +\d+$", output, re.MULTILINE)
    assert re.search(r"^wall time +[\d.]+ s$", output, re.MULTILINE)
    assert f"All {placed} orders are as their data calls for" in output
    assert_nothing_is_left(tmp_path)


def test_the_demo_fails_where_an_order_is_not_as_expected(tmp_path: Path) -> None:
    demo = start(tmp_path, "-c", WITH_A_WRONG_RULE, "--orders", "6")
    output, _ = demo.communicate(timeout=60)

    assert demo.returncode == 1, output
    assert "order o-1001: is completed, should be failed (do not ship to;" in output
    assert "receipt of o-1001: there is one, although the order must fail" in output
    assert "All 6 orders" not in output
    assert_nothing_is_left(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path, *DEMO)
    assert demo.stdout is not None
    assert "ready" in demo.stdout.readline()
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=30)

    assert demo.returncode == 130, output
    assert "interrupted; nothing is left running" in output
    assert_nothing_is_left(tmp_path)
