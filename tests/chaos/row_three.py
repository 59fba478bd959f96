"""Row 3 as a row of the table."""

from __future__ import annotations

from ironflow.broker.local import run_virtual
from tests.chaos.checker import Violation
from tests.chaos.crash_points import FLOWS, VICTIMS, CrashFigure, sweep
from tests.chaos.report import Figure, RowResult

FAULT = "crash before and after every write (in process)"


def sweep_all() -> RowResult:
    """Crash every victim at every write of every flow."""
    crashes: list[CrashFigure] = []
    violations: list[Violation] = []
    slowest = 0.0
    for flow in FLOWS:
        for victim in VICTIMS:
            unharmed, *harmed = run_virtual(sweep(flow, victim))
            crashes += harmed
            slowest = max(slowest, *(run.seconds - unharmed[1].seconds for _, run in harmed))
            violations += [
                Violation(each.claim, f"{flow}, {victim}, write {at.number}, {at.stage}", each.detail)
                for at, run in harmed
                for each in run.violations
            ]
    figures = [Figure("goes on after, worst", round(slowest, 2), 5.0, " s")]
    return RowResult(3, FAULT, len(crashes), figures, violations)
