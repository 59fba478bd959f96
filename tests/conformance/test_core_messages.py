"""Core messages: hints, requests and surveys, which nobody stores."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.broker.protocol import Listener, MessageTooLarge, Request, SubjectTaken, Unavailable
from tests.conformance.bench import Arena, now
from tests.support import eventually, holds_for


def note(heard: list[tuple[str, bytes]], name: str = "") -> Listener:
    """Return a listener that writes down what it hears."""

    async def listener(request: Request) -> None:
        heard.append((name or request.subject, request.payload))

    return listener


def respond(payload: bytes) -> Listener:
    """Return a listener that always answers the same."""

    async def listener(request: Request) -> None:
        request.respond(payload)

    return listener


async def test_a_notification_reaches_everybody_who_listens(arena: Arena) -> None:
    other = await arena.server.connect()
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("hint.a"), note(heard, "first"))
    await arena.broker.listen(arena.subject("hint.*"), note(heard, "second"))
    await other.listen(arena.subject(">"), note(heard, "third"))
    await other.listen(arena.subject("hint.b"), note(heard, "elsewhere"))
    arena.broker.notify(arena.subject("hint.a"), b"x")

    def all_three_have_heard() -> None:
        assert sorted(heard) == [("first", b"x"), ("second", b"x"), ("third", b"x")]

    await eventually(all_three_have_heard)
    await holds_for(all_three_have_heard, 0.1)


async def test_what_a_connection_sends_comes_behind_a_wish_to_listen_that_was_not_confirmed(arena: Arena) -> None:
    other = await arena.server.connect()

    async def hint_first(request: Request) -> None:
        other.notify(arena.subject("hint"), b"x")
        request.respond(b"told")

    await other.listen(arena.subject("question"), hint_first)
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("hint"), note(heard), confirm=False)
    assert await arena.broker.request(arena.subject("question"), b"", 2.0) == b"told"

    def the_hint_was_heard() -> None:
        assert heard == [(arena.subject("hint"), b"x")]

    await eventually(the_hint_was_heard)


async def test_a_listener_hears_what_is_published_to_be_stored(arena: Arena) -> None:
    journal = await arena.journal()
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(journal.subject("a"), note(heard, "listener"))
    await journal.put("a", b"stored")
    with pytest.raises(SubjectTaken):
        await journal.put("a", b"refused")

    def both_were_heard() -> None:
        assert heard == [("listener", b"stored"), ("listener", b"refused")]

    await eventually(both_were_heard)


async def test_a_listener_hears_in_order_one_after_another(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []
    busy = False

    async def slow(request: Request) -> None:
        nonlocal busy
        assert not busy
        busy = True
        await asyncio.sleep(0.001)
        heard.append((request.subject, request.payload))
        busy = False

    await arena.broker.listen(arena.subject("hint"), slow)
    expected = [(arena.subject("hint"), b"%d" % number) for number in range(50)]
    for subject, payload in expected:
        arena.broker.notify(subject, payload)

    def everything_was_heard() -> None:
        assert heard == expected

    await eventually(everything_was_heard)


async def test_a_notification_that_nobody_hears_is_lost(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []
    arena.broker.notify(arena.subject("hint"), b"early")
    await arena.broker.listen(arena.subject("hint"), note(heard))
    arena.broker.notify(arena.subject("hint"), b"late")

    def only_the_late_one_was_heard() -> None:
        assert heard == [(arena.subject("hint"), b"late")]

    await eventually(only_the_late_one_was_heard)
    await holds_for(only_the_late_one_was_heard, 0.1)


async def test_a_stopped_listener_hears_nothing_more(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []
    stopping = await arena.broker.listen(arena.subject("hint"), note(heard, "stopped"))
    await arena.broker.listen(arena.subject("hint"), note(heard, "other"))
    await stopping.stop()
    await stopping.stop()
    arena.broker.notify(arena.subject("hint"), b"")

    def only_the_other_heard() -> None:
        assert heard == [("other", b"")]

    await eventually(only_the_other_heard)
    await holds_for(only_the_other_heard, 0.1)


async def test_a_failing_listener_goes_on_listening(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []

    async def fails_first(request: Request) -> None:
        heard.append((request.subject, request.payload))
        if len(heard) == 1:
            raise RuntimeError("the first one is too much")

    await arena.broker.listen(arena.subject("hint"), fails_first)
    for payload in (b"1", b"2"):
        arena.broker.notify(arena.subject("hint"), payload)

    def both_were_heard() -> None:
        assert [payload for _, payload in heard] == [b"1", b"2"]

    await eventually(both_were_heard)


async def test_a_plain_function_listens_as_well_and_goes_on_when_it_fails(arena: Arena) -> None:
    heard: list[bytes] = []

    def fails_first(request: Request) -> None:
        heard.append(request.payload)
        if len(heard) == 1:
            raise RuntimeError("the first one is too much")
        request.respond(b"answer")

    await arena.broker.listen(arena.subject("question"), fails_first)
    arena.broker.notify(arena.subject("question"), b"1")
    assert await arena.broker.request(arena.subject("question"), b"2", 1) == b"answer"
    assert heard == [b"1", b"2"]


async def test_one_member_of_each_group_hears_each_message(arena: Arena) -> None:
    other = await arena.server.connect()
    heard: list[tuple[str, bytes]] = []
    for broker, name, group in (
        (arena.broker, "a1", "a"),
        (other, "a2", "a"),
        (arena.broker, "b1", "b"),
        (other, "b2", "b"),
        (other, "alone", ""),
    ):
        await broker.listen(arena.subject("hint"), note(heard, name), group)
    for number in range(60):
        arena.broker.notify(arena.subject("hint"), b"%d" % number)
    everything = sorted(b"%d" % number for number in range(60))

    def each_group_heard_everything_once() -> None:
        for members in ({"a1", "a2"}, {"b1", "b2"}, {"alone"}):
            assert sorted(payload for name, payload in heard if name in members) == everything

    await eventually(each_group_heard_everything_once)
    await holds_for(each_group_heard_everything_once, 0.1)
    assert {name for name, _ in heard} == {"a1", "a2", "b1", "b2", "alone"}


async def test_a_group_goes_on_without_a_member_that_left(arena: Arena) -> None:
    other = await arena.server.connect()
    await arena.broker.listen(arena.subject("question"), respond(b"stays"), "engines")
    await other.listen(arena.subject("question"), respond(b"leaves"), "engines")
    await other.close()
    for _ in range(10):
        assert await arena.broker.request(arena.subject("question"), b"", 2.0) == b"stays"


async def test_a_request_gets_the_answer_to_itself(arena: Arena) -> None:
    caller = await arena.server.connect()

    async def echo(request: Request) -> None:
        request.respond(request.subject.encode() + b" " + request.payload)

    await arena.broker.listen(arena.subject("echo.*"), echo)
    answers = await asyncio.gather(
        *(caller.request(arena.subject(f"echo.{number}"), b"%d" % number, 2.0) for number in range(20))
    )
    assert answers == [f"{arena.subject(f'echo.{number}')} {number}".encode() for number in range(20)]


async def test_a_request_returns_the_first_answer_of_several(arena: Arena) -> None:
    answered = asyncio.Event()

    async def late(request: Request) -> None:
        if request.payload == b"first":
            await answered.wait()
            request.respond(b"late")

    await arena.broker.listen(arena.subject("question"), late)
    await arena.broker.listen(arena.subject("question"), respond(b"early"))
    assert await arena.broker.request(arena.subject("question"), b"first", 2.0) == b"early"
    answered.set()
    assert await arena.broker.request(arena.subject("question"), b"second", 2.0) == b"early"


async def test_a_request_that_nobody_listens_to_fails_at_once(arena: Arena) -> None:
    asked_at = now()
    with pytest.raises(Unavailable):
        await arena.broker.request(arena.subject("nobody"), b"", 30.0)
    assert now() - asked_at < 1.0


async def test_a_request_without_an_answer_fails_when_its_time_is_over(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("question"), note(heard))
    asked_at = now()
    with pytest.raises(Unavailable):
        await arena.broker.request(arena.subject("question"), b"", 0.3)
    assert 0.29 <= now() - asked_at <= 2.0
    assert len(heard) == 1


async def test_answering_what_was_not_asked_has_no_effect(arena: Arena) -> None:
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("hint"), respond(b"unwanted"))
    await arena.broker.listen(arena.subject("hint"), note(heard))
    arena.broker.notify(arena.subject("hint"), b"x")

    def it_was_heard() -> None:
        assert heard == [(arena.subject("hint"), b"x")]

    await eventually(it_was_heard)


async def test_a_survey_returns_all_answers_of_its_window(arena: Arena) -> None:
    other = await arena.server.connect()
    await arena.broker.listen(arena.subject("census"), respond(b"one"))
    await other.listen(arena.subject("census"), respond(b"two"))

    is_over = asyncio.Event()

    async def late(request: Request) -> None:
        await is_over.wait()
        request.respond(b"late")

    await other.listen(arena.subject("census"), late)
    assert sorted(await arena.broker.survey(arena.subject("census"), b"", 0.3)) == [b"one", b"two"]
    is_over.set()


async def test_a_survey_that_nobody_listens_to_returns_nothing(arena: Arena) -> None:
    assert await arena.broker.survey(arena.subject("census"), b"", 0.3) == []


async def test_a_closed_connection_is_heard_and_hears_no_more(arena: Arena) -> None:
    leaving = await arena.server.connect()
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("hint"), note(heard))
    await leaving.listen(arena.subject("question"), respond(b""))
    leaving.notify(arena.subject("hint"), b"the last word")
    await leaving.close()
    await leaving.close()
    leaving.notify(arena.subject("hint"), b"too late")
    with pytest.raises(Unavailable):
        await leaving.request(arena.subject("hint"), b"", 0.2)
    with pytest.raises(Unavailable):
        await arena.broker.request(arena.subject("question"), b"", 2.0)

    def only_the_last_word_was_heard() -> None:
        assert heard == [(arena.subject("hint"), b"the last word")]

    await eventually(only_the_last_word_was_heard)
    await holds_for(only_the_last_word_was_heard, 0.1)


async def test_large_payloads_are_carried(arena: Arena) -> None:
    async def echo(request: Request) -> None:
        request.respond(request.payload)

    await arena.broker.listen(arena.subject("echo"), echo)
    payload = bytes(range(256)) * 3_000
    assert await arena.broker.request(arena.subject("echo"), payload, 2.0) == payload


async def test_an_answer_over_max_payload_is_refused_and_another_one_reaches_who_asked(arena: Arena) -> None:
    caller = await arena.server.connect()
    limit = arena.broker.server.max_payload

    async def says_too_much(request: Request) -> None:
        try:
            request.respond(bytes(limit + 1))
        except MessageTooLarge as error:
            request.respond(str(error).encode())

    await arena.broker.listen(arena.subject("question"), says_too_much)
    answer = await caller.request(arena.subject("question"), b"", 2.0)
    assert f"{limit + 1:,} bytes" in answer.decode()
    assert arena.broker.connections == caller.connections == 1


async def test_an_answer_of_max_payload_is_carried(arena: Arena) -> None:
    await arena.broker.listen(arena.subject("question"), respond(bytes(arena.broker.server.max_payload)))
    answer = await arena.broker.request(arena.subject("question"), b"", 2.0)
    assert len(answer) == arena.broker.server.max_payload


async def test_what_is_asked_or_told_over_max_payload_is_refused_and_costs_no_connection(arena: Arena) -> None:
    too_large = bytes(arena.broker.server.max_payload + 1)
    heard: list[tuple[str, bytes]] = []
    await arena.broker.listen(arena.subject("hint"), note(heard))
    with pytest.raises(MessageTooLarge):
        arena.broker.notify(arena.subject("hint"), too_large)
    with pytest.raises(MessageTooLarge):
        await arena.broker.request(arena.subject("hint"), too_large, 2.0)
    with pytest.raises(MessageTooLarge):
        await arena.broker.survey(arena.subject("hint"), too_large, 2.0)
    arena.broker.notify(arena.subject("hint"), b"x")

    def nothing_else_was_heard() -> None:
        assert heard == [(arena.subject("hint"), b"x")]

    await eventually(nothing_else_was_heard)
    assert arena.broker.connections == 1
