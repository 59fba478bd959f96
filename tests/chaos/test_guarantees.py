"""docs/guarantees.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_each_guarantee_names_a_test_that_is_there() -> None:
    rows = [line for line in DOCUMENT.splitlines() if re.match(r"\| \d+ \| .*`tests/", line)]
    assert [int(row.split("|")[1]) for row in rows] == [*range(1, len(rows) + 1)]
    assert len(rows) >= 12
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DOCUMENT):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file}::{name}"
