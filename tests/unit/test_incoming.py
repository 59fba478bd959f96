"""Cutting what a server sends into messages, however the network has cut it."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import nats.errors
import pytest

from ironflow.broker.nats.incoming import LONGEST_LINE, Incoming

Message = tuple[bytes, bytes, bytes, bytes]

MESSAGES: list[Message] = [
    (b"a.b", b"", b"payload", b""),
    (b"a.b", b"reply.to", b"", b""),
    (b"c", b"", b"with\r\nMSG a 1 3\r\nlines", b""),
    (b"c", b"reply", b"body", b"NATS/1.0\r\nKey: value\r\n\r\n"),
    (b"c", b"", b"", b"NATS/1.0 503\r\n\r\n"),
    (b"large", b"r", bytes(range(256)) * 1200, b"NATS/1.0\r\n\r\n"),
    (b"last", b"", b"x", b""),
]


class Receiver:
    """An incoming connection, and what has come on it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.operations: list[bytes] = []
        self.incoming = Incoming({1: lambda *message: self.messages.append(message)}, self._take, asyncio.Protocol())

    def _take(self, line: bytes) -> None:
        if line.startswith(b"bad"):
            raise ValueError(line)
        self.operations.append(line)

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            self.incoming.data_received(part)


def encoded(message: Message, subscription: int = 1) -> bytes:
    subject, reply, payload, headers = message
    to = b" ".join(word for word in (subject, b"%d" % subscription, reply) if word)
    if headers:
        line = b"HMSG %b %d %d\r\n" % (to, len(headers), len(headers) + len(payload))
    else:
        line = b"MSG %b %d\r\n" % (to, len(payload))
    return line + headers + payload + b"\r\n"


ALL = b"PING\r\n" + b"+OK\r\n".join(map(encoded, MESSAGES)) + b"PONG\r\n"


async def test_messages_that_come_at_once_are_handed_over_in_order() -> None:
    receiver = Receiver()
    receiver.feed(ALL)
    assert receiver.messages == MESSAGES
    assert receiver.operations == [b"PING", *[b"+OK"] * (len(MESSAGES) - 1), b"PONG"]


@pytest.mark.parametrize("seed", range(20))
async def test_where_the_network_cuts_makes_no_difference(seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(len(ALL)), chance.choice([1, 5, 100])))
    receiver = Receiver()
    receiver.feed(*(ALL[start:end] for start, end in pairwise([0, *cuts, len(ALL)])))
    assert receiver.messages == MESSAGES


async def test_not_even_if_it_cuts_everywhere() -> None:
    receiver = Receiver()
    small = b"".join(encoded(message) for message in MESSAGES[:5])
    receiver.feed(*(small[place : place + 1] for place in range(len(small))))
    assert receiver.messages == MESSAGES[:5]


async def test_messages_of_a_subscription_that_has_ended_are_dropped() -> None:
    receiver = Receiver()
    receiver.feed(encoded(MESSAGES[0], subscription=2), encoded(MESSAGES[1]))
    assert receiver.messages == [MESSAGES[1]]


@pytest.mark.parametrize(
    "nonsense",
    [b"MSG a one 3\r\nabc\r\n", b"MSG\r\n", b"HMSG a 1 3\r\n", b"bad\r\n", b"y" * (LONGEST_LINE + 1)],
    ids=["no number", "no words", "no sizes", "refused operation", "endless line"],
)
async def test_what_is_not_nats_ends_the_connection(nonsense: bytes) -> None:
    receiver = Receiver()
    receiver.feed(encoded(MESSAGES[0]), nonsense)
    assert receiver.messages == [MESSAGES[0]]
    assert isinstance(await receiver.incoming.lost, nats.errors.ProtocolError)


async def test_the_end_of_the_connection_is_told_once_and_passed_on() -> None:
    told: list[Exception | None] = []

    class Before(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            told.append(exc)

    incoming = Incoming({}, lambda _: None, Before())
    reason = ConnectionResetError("reset")
    incoming.connection_lost(reason)
    incoming.connection_lost(None)
    lost = await incoming.lost
    assert isinstance(lost, nats.errors.UnexpectedEOF)
    assert lost.__cause__ is reason
    assert told == [reason, None]
