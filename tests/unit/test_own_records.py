"""What a pass has recorded is kept whole, or not at all."""

from __future__ import annotations

import pytest

from ironflow.journal import Appended
from ironflow_worker.own_records import MOST_BYTES, MOST_RECORDS, OwnRecords


def recorded(*sizes: int) -> OwnRecords:
    own = OwnRecords()
    for number, size in enumerate(sizes, 1):
        own.add(f"record.{number}", Appended(bytes(size), number, ours=True))
    return own


def test_little_is_kept_in_order() -> None:
    kept = recorded(1, 2, MOST_BYTES - 3).all()
    assert kept is not None
    assert [(each.subject, each.sequence, len(each.payload)) for each in kept] == [
        ("record.1", 1, 1),
        ("record.2", 2, 2),
        ("record.3", 3, MOST_BYTES - 3),
    ]


@pytest.mark.parametrize("sizes", [[MOST_BYTES + 1, 1], [MOST_BYTES, 1], [1] * (MOST_RECORDS + 1)])
def test_much_is_not_kept_nor_what_comes_then(sizes: list[int]) -> None:
    assert recorded(*sizes).all() is None
    assert recorded(*[1] * MOST_RECORDS).all() is not None
