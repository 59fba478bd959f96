"""Row 3: every flow survives a crash at each of its writes, before it is stored or after."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.chaos.crash_points import FLOWS, VICTIMS, Victim, sweep

pytestmark = pytest.mark.virtual_time


def cases() -> list[ParameterSet]:
    return [pytest.param(flow, victim) for flow in FLOWS for victim in VICTIMS]


@pytest.mark.parametrize(("flow", "victim"), cases())
async def test_a_process_may_die_at_every_write(flow: str, victim: Victim) -> None:
    # Before a write and after it in turns: "just chaos-full" does both.
    crashes = await sweep(flow, victim, both_stages=False)
    assert len(crashes) > 9
    assert {(at.number, at.stage): run.violations for at, run in crashes if run.violations} == {}
