"""What workers tell of the tasks that they have taken."""

from __future__ import annotations

from ironflow.messages import Claim, Claims
from ironflow_engine.claims import ClaimBook


def news(worker: str, *begun: tuple[int, str], ended: tuple[int, ...] = (), anew: bool = False) -> Claims:
    claims = tuple(Claim(task=task, lease=lease) for task, lease in begun)
    return Claims(worker=worker, begun=claims, ended=ended, anew=anew)


def book(*told: Claims) -> ClaimBook:
    made = ClaimBook()
    for each in told:
        made.take_in("orders", each, 0.0)
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
    claims.take_in("other", news("b", (1, "stolen"), ended=(1,)), 0.0)
    claims.take_in("other", news("a", ended=(1,)), 0.0)
    claims.take_in("other", news("a", anew=True), 0.0)
    assert claims.forget("a") == (("orders", "x"),)


def test_what_a_worker_answers_takes_the_place_of_all_that_it_told_before() -> None:
    claims = book(news("a", (1, "x"), (2, "y")), news("b", (3, "z")), news("a", (2, "y"), (4, "w"), anew=True))
    assert claims.forget("a") == (("orders", "y"), ("orders", "w"))
    assert claims.forget("b") == (("orders", "z"),)


def test_a_worker_that_answers_that_it_has_nothing_is_not_looked_after() -> None:
    assert book(news("a", (1, "x")), news("a", anew=True)).workers == ()


def test_a_worker_that_is_asked_takes_no_task_from_who_has_it_now() -> None:
    claims = book(news("a", (1, "first")), news("b", (1, "second")), news("a", (1, "first"), anew=True))
    assert claims.workers == ("b",)


def test_a_worker_is_asked_when_it_has_told_nothing_of_a_task_for_long_and_then_seldom() -> None:
    claims = ClaimBook()
    claims.take_in("orders", news("a", (1, "x")), 0.0)
    claims.take_in("orders", news("b", (2, "y")), 5.0)
    claims.take_in("orders", news("a", (3, "z")), 9.0)
    assert claims.to_be_asked(9.0, 10.0) == ()
    assert claims.to_be_asked(10.0, 10.0) == ("a",)
    assert claims.to_be_asked(15.0, 10.0) == ("b",)
    assert claims.to_be_asked(19.0, 10.0) == ()
    assert claims.to_be_asked(20.0, 10.0) == ("a",)
    claims.take_in("orders", news("a", (1, "x"), (3, "z"), anew=True), 20.1)
    assert claims.to_be_asked(30.0, 10.0) == ("b",)
    assert claims.to_be_asked(30.1, 10.0) == ("a",)


def test_a_worker_that_tells_of_short_tasks_only_is_never_asked() -> None:
    claims = ClaimBook()
    for now in range(100):
        claims.take_in("orders", news("a", (now + 1, "x"), ended=(now,)), float(now))
        assert claims.to_be_asked(float(now), 10.0) == ()
