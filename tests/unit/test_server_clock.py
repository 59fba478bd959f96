"""What is known of the server's clock, also when it is set."""

from __future__ import annotations

from ironflow.server_clock import ServerClock

SERVER_MS = 1_000_000


class Bench:
    """A server with a clock that can be set, seen from a process with one of its own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.set_by_ms = 0
        self.answer_takes = 0.0
        self.clock = ServerClock(lambda: self.seconds)

    def now_ms(self) -> int:
        return int(SERVER_MS + self.set_by_ms + self.seconds * 1000)

    def stores(self) -> int:
        """Store a message that arrives at once, and return when that was."""
        stored_ms = self.now_ms()
        self.clock.observe(stored_ms)
        return stored_ms

    def doubts(self) -> bool:
        return self.clock.is_doubtful

    async def asks(self) -> None:
        await self.clock.ask(self._answer)

    async def _answer(self) -> int:
        self.seconds += self.answer_takes / 2
        told = self.now_ms()
        self.seconds += self.answer_takes / 2
        return told

    def ahead_ms(self) -> float:
        """Return how far the bound is ahead of the server's clock."""
        return self.clock.at_least_ms() - self.now_ms()


async def test_what_arrives_at_once_raises_no_doubt() -> None:
    bench = Bench()
    for _ in range(100):
        bench.seconds += 1
        bench.stores()
        assert not bench.doubts()
        assert -1 <= bench.ahead_ms() <= 0


async def test_an_old_message_raises_doubt_and_changes_nothing_once_the_server_was_asked() -> None:
    bench = Bench()
    old_ms = bench.stores()
    bench.seconds += 1
    bench.stores()
    bench.clock.observe(old_ms)
    assert bench.doubts()
    await bench.asks()
    assert not bench.doubts()
    assert -1 <= bench.ahead_ms() <= 0


async def test_when_the_server_s_clock_was_set_back_the_next_message_raises_doubt_and_the_answer_settles_it() -> None:
    bench = Bench()
    bench.stores()
    bench.seconds, bench.set_by_ms, bench.answer_takes = 60, -10_000, 0.02
    assert bench.ahead_ms() > 9_000
    bench.stores()
    assert bench.doubts()
    await bench.asks()
    assert -20 <= bench.ahead_ms() <= 0


async def test_a_message_from_before_the_clock_was_set_back_is_not_believed_any_more() -> None:
    bench = Bench()
    bench.seconds = 60
    before_ms = bench.stores()
    bench.set_by_ms = -10_000
    bench.stores()
    await bench.asks()
    bench.seconds += 1
    bench.clock.observe(before_ms)
    assert bench.doubts()
    assert bench.ahead_ms() <= 0


async def test_when_the_server_s_clock_was_set_forward_messages_count_again_once_it_was_asked() -> None:
    bench = Bench()
    bench.stores()
    await bench.asks()
    bench.seconds, bench.set_by_ms = 60, 10_000
    bench.stores()
    assert bench.doubts()
    await bench.asks()
    bench.stores()
    assert -1 <= bench.ahead_ms() <= 0


async def test_however_much_is_old_the_server_is_asked_but_a_few_times_a_second() -> None:
    bench = Bench()
    old_ms = bench.stores()
    asked = 0
    for _ in range(1_000):
        bench.seconds += 0.01
        bench.clock.observe(old_ms)
        if bench.doubts():
            await bench.asks()
            asked += 1
    assert 10 <= asked <= 40
