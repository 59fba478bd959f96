"""Row 3: every flow survives a crash at each of its writes."""

from __future__ import annotations

import pytest

from tests.chaos.crash_points import FLOWS, VICTIMS, Victim, sweep

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_process_may_die_at_every_write(flow: str, victim: Victim) -> None:
    crashes = await sweep(flow, victim)
    assert len(crashes) > 10
    assert {(at.number, at.stage): run.violations for at, run in crashes if run.violations} == {}
