"""Which messages go out together."""

from __future__ import annotations

from ironflow.broker.nats.batches import split
from ironflow.broker.protocol import Publication


def places(*messages: tuple[str, str | None]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return what goes out together and what singly, of messages by subject and id."""
    made = [Publication(subject=subject, payload=b"", message_id=message_id) for subject, message_id in messages]
    batches, singles = split(made, smallest=2)
    return [batch.places for batch in batches], singles


def test_events_of_one_name_go_out_together() -> None:
    assert places(("n.events.go", "a"), ("n.events.go", "b")) == ([(0, 1)], [])


def test_of_an_event_a_task_and_a_timer_that_come_twice_the_second_goes_out_singly() -> None:
    events = (("n.events.go", "a"), ("n.events.go", "a"), ("n.events.go", "b"))
    tasks = (("n.tasks.q.r.0", "r.0"), ("n.tasks.q.s.0", "s.0"), ("n.tasks.q.r.0", "r.0"))
    timers = (("n.timers.1.r.s", None), ("n.timers.1.r.s", None), ("n.timers.1.r.t", None))
    assert places(*events, *tasks, *timers) == ([(0, 2), (3, 4), (6, 8)], [1, 5, 7])
