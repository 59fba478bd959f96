"""The conformance suite and the archive's tests, on the images of NATS and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import IN_CONTAINERS, why_there_are_none

ROOT = Path(__file__).parents[2]
SUITE = ("tests/conformance", "tests/integration/test_archive.py")


@pytest.mark.containers
@pytest.mark.timeout(1800)
def test_the_suite_passes_on_the_images() -> None:
    reason = why_there_are_none()
    if reason is not None:
        pytest.skip(f"NOT RUN on the images of NATS and PostgreSQL, since no container engine answers ({reason})")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *SUITE],
        cwd=ROOT,
        env={**os.environ, IN_CONTAINERS: "1"},
        check=False,
    )
    assert done.returncode == 0
