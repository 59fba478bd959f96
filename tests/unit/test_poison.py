"""How long a pass that costs workers is left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ironflow_worker.memo import Losses
from ironflow_worker.poison import MOST_LOSSES, gives_up_undo, is_given_up, pause_ms

LONG_AGO, LONG = 0, 10**9


def lost(count: int, newest_ms: int = LONG_AGO) -> Losses:
    return Losses(lost=count, begun=count, newest_ms=newest_ms)


@pytest.mark.parametrize("count", [0, 1])
def test_one_that_may_have_been_lost_by_chance_is_begun_at_once_by_any_worker(count: int) -> None:
    assert pause_ms("run", lost(count, newest_ms=1000), now_ms=1000, served_ms=0) == 0


def test_the_pause_grows_with_each_loss_up_to_a_minute() -> None:
    pauses = [pause_ms("run", lost(count, newest_ms=1000), 1000, LONG) for count in range(2, MOST_LOSSES)]
    assert 500 <= pauses[0] <= 1000
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert 30_000 <= pauses[-1] <= 60_000


def test_a_worker_that_has_served_a_second_for_each_loss_but_the_first_begins_it() -> None:
    for count in range(2, MOST_LOSSES):
        assert pause_ms("run", lost(count), LONG, served_ms=1000 * (count - 1)) == 0
        assert pause_ms("run", lost(count), LONG, served_ms=1000 * (count - 1) - 1) == 1


def test_one_that_has_only_started_hands_it_back_once_for_as_long_as_it_has_yet_to_serve() -> None:
    """Each time counts as a delivery, of which there are but so many."""
    assert pause_ms("run", lost(MOST_LOSSES - 1), LONG, served_ms=0) == 1000 * (MOST_LOSSES - 2)


def test_the_pause_counts_where_it_is_longer_than_what_the_worker_has_to_serve() -> None:
    assert pause_ms("run", lost(5, newest_ms=1000), 1000, 0) == pause_ms("run", lost(5, newest_ms=1000), 1000, LONG)


def test_a_pass_that_undoes_gives_up_its_next_undo_first_and_is_given_up_itself_when_that_fails_too() -> None:
    before, then, later = lost(MOST_LOSSES - 1), lost(MOST_LOSSES), lost(MOST_LOSSES + 2)
    assert [gives_up_undo("compensate", each) for each in (before, then)] == [False, True]
    assert [is_given_up("compensate", each) for each in (before, then, later)] == [False, False, True]
    assert [is_given_up("run", each) for each in (before, then)] == [False, True]
    assert not gives_up_undo("run", then)
