"""What workers tell of the tasks that they have taken."""

from __future__ import annotations

from ironflow.messages import Claim, Claims
from ironflow_engine.claims import ClaimBook


def news(worker: str, *begun: tuple[int, str], ended: tuple[int, ...] = ()) -> Claims:
    return Claims(worker=worker, begun=tuple(Claim(task=task, lease=lease) for task, lease in begun), ended=ended)


def book(*told: Claims) -> ClaimBook:
    made = ClaimBook()
    for each in told:
        made.take_in("orders", each)
    return made


def test_what_a_worker_has_taken_and_not_done_with_is_its_own() -> None:
    claims = book(news("a", (1, "x"), (2, "y")), news("b", (3, "z")), news("a", ended=(1,)))
    assert set(claims.workers) == {"a", "b"}
    assert claims.forget("a") == (("orders", "y"),)
    assert claims.workers == ("b",)
    assert claims.forget("a") == ()


def test_a_worker_that_has_nothing_left_is_not_looked_after() -> None:
    assert book(news("a", (1, "x")), news("a", ended=(1,))).workers == ()


def test_a_task_belongs_to_whoever_took_it_last() -> None:
    claims = book(news("a", (1, "first")), news("b", (1, "second")))
    assert claims.workers == ("b",)
    assert claims.forget("b") == (("orders", "second"),)


def test_who_had_a_task_before_cannot_end_it_for_who_has_it_now() -> None:
    assert book(news("a", (1, "first")), news("b", (1, "second")), news("a", ended=(1,))).forget("b") == (
        ("orders", "second"),
    )


def test_a_task_that_comes_to_the_same_worker_again_has_its_newest_lease() -> None:
    assert book(news("a", (1, "first")), news("a", (1, "second"), ended=(1,))).forget("a") == (("orders", "second"),)


def test_news_that_come_twice_or_of_nothing_known_do_no_harm() -> None:
    claims = book(news("a", ended=(5,)), news("a", (1, "x")), news("a", (1, "x")))
    assert claims.forget("a") == (("orders", "x"),)


def test_what_is_told_of_one_queue_changes_nothing_of_another() -> None:
    claims = book(news("a", (1, "x")))
    claims.take_in("other", news("b", (1, "stolen"), ended=(1,)))
    claims.take_in("other", news("a", ended=(1,)))
    assert claims.forget("a") == (("orders", "x"),)
