"""Every promise of the seeds has a test, and that test passes: ``seeds.md`` is the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.left_to_session import leave_to_session
from tests.support.promises import ROOT, faults_of_rows, faults_of_tests, promises_of, run_tests

TABLE = Path(__file__).with_name("seeds.md")
PROMISES = promises_of(TABLE.read_text(encoding="utf-8"))
SECTIONS = (
    "Introduction",
    "step.run",
    "step.sleep",
    "step.sleep_until",
    "step.wait_for_event",
    "step.parallel",
    "step.map",
    "Naming",
    "Other steps",
)


def test_every_row_has_its_number_its_section_and_its_tests() -> None:
    faults = faults_of_rows(PROMISES, SECTIONS, not_by=Path(__file__).relative_to(ROOT).as_posix())

    assert not faults, "\n".join(faults)


@pytest.mark.timeout(600)  # alone, it runs some two hundred tests, on whatever is left of the machine
def test_every_promise_is_proved_by_tests_that_pass(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    to_run = leave_to_session(request, {test for promise in PROMISES for test in promise.tests})
    promises = [each._replace(tests=tuple(test for test in each.tests if test in to_run)) for each in PROMISES]
    faults = faults_of_tests(promises, run_tests(to_run, tmp_path))

    assert not faults, "\n".join(faults)
