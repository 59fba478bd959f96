"""When a batch pays, by what was measured."""

from __future__ import annotations

import pytest

from ironflow.broker.nats.batch_costs import BatchCosts


def learned(rounds: int, *, single: float, batch: float, in_a_batch: float = 0.0, size: int = 200) -> BatchCosts:
    costs = BatchCosts()
    for _ in range(rounds):
        costs.note_singles(10, 10 * single)
        for count in (size, costs.smallest_batch):
            costs.note_batch(count, batch + count * in_a_batch)
    return costs


@pytest.mark.parametrize(
    ("single", "batch", "smallest"),
    [(0.0005, 0.006, 12), (0.000_045, 0.0045, 100), (0.0006, 0.001, 8), (0.000_01, 0.1, 500)],
    ids=["synced", "unsynced", "three servers", "a slow disk beside a fast one"],
)
def test_a_batch_pays_from_as_many_messages_on_as_take_as_long_singly(
    single: float, batch: float, smallest: int
) -> None:
    assert learned(100, single=single, batch=batch).smallest_batch == smallest


def test_what_hundreds_of_messages_take_is_no_reason_to_send_fifty_singly() -> None:
    costs = learned(1_000, single=0.0005, batch=0.006, in_a_batch=0.0001, size=600)
    assert costs.smallest_batch <= 16


def test_what_a_busy_machine_adds_now_and_then_is_not_counted() -> None:
    costs = learned(100, single=0.0005, batch=0.006)
    for number in range(100):
        costs.note_batch(20, 0.006 if number % 8 == 0 else 0.06)
        costs.note_singles(10, 0.005 if number % 8 == 0 else 0.05)
    assert 8 <= costs.smallest_batch <= 18


def test_a_server_that_has_become_slower_is_found_out() -> None:
    costs = learned(100, single=0.0005, batch=0.006)
    for _ in range(100):
        costs.note_batch(costs.smallest_batch, 0.05)
    assert costs.smallest_batch == 100


def test_one_group_in_many_goes_out_singly_to_learn_from() -> None:
    costs = learned(100, single=0.0005, batch=0.006)
    decisions = [costs.next_smallest_batch() for _ in range(640)]
    assert decisions.count(48) == 10
    assert decisions.count(12) == 630


def test_a_clock_that_stood_still_is_survived_and_forgotten() -> None:
    costs = BatchCosts()
    costs.note_singles(8, 0.0)
    assert costs.smallest_batch == 500
    for _ in range(200):
        costs.note_singles(10, 0.005)
        costs.note_batch(costs.smallest_batch, 0.006)
    assert costs.smallest_batch <= 16
