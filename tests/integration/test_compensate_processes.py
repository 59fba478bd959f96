"""Sagas on a real server: every step and every undo fails, and the worker process is killed at every undo."""

from __future__ import annotations

from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from tests.bench.saga import break_all, plans, running

CHOSEN = plans()[::3]
"""`python -m tests.bench saga` has them all; each takes processes that are killed and started again."""


async def test_every_undo_of_a_recorded_step_runs_in_order_whatever_fails_and_dies(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "nats") as server:
        async with running(tmp_path, server.url) as (client, processes):
            _, ends, kills, faults = await break_all(client, processes, CHOSEN)
    assert faults == []
    assert kills == sum(plan.killed_undo > 0 for plan in CHOSEN)
    assert set(ends) == {f"failed, compensation {state}" for state in ("None", "completed", "failed")}
