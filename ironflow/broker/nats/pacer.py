"""What the calls of a connection do while nobody answers them: a few ask again, and the rest wait for what those hear.

For some seconds after the loss of a leader its streams take nothing. Whoever has a call in hand then would ask by
itself, again and again, hundreds of them a second, just when the servers elect a leader; and all at once when it is
there.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ironflow.broker.protocol import Ambiguous, BrokerError, Unavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5
GAP_SECONDS = 0.05
"""Between two calls that ask again, whatever they ask for."""
HEARD_RELEASES = 2
"""How many of those that wait go on for each answer, so that what comes back is not hit by all at once."""


class _Outage:
    """A place at which nobody answers."""

    __slots__ = ("pause", "timer", "waiting")

    def __init__(self) -> None:
        self.pause = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: deque[asyncio.Future[None]] = deque()


class Pacer:
    """Paces the calls of one connection that nobody answers.

    A *place* is what answers or does not: a stream, or a request of JetStream's API.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outages: dict[str, _Outage] = {}
        self._closed = False
        self._taken: set[int] = set()
        """The times at which some call asks again, in gaps since the loop's clock began."""

    @property
    def idle(self) -> bool:
        """Whether all is well, as far as is known, so that nothing else needs to be asked here."""
        return not self._outages

    def is_out(self, place: str) -> bool:
        """Tell whether a call should take its turn rather than ask."""
        return place in self._outages

    def in_vain(self, place: str) -> None:
        """Learn that nobody answered. Where nobody asks again, that is forgotten after a while."""
        if self._closed:
            return
        outage = self._outages.setdefault(place, _Outage())
        self._arrange(place, outage)

    def close(self) -> None:
        """Have all calls go on that wait, and those to come: they find that the connection was closed for good."""
        self._closed = True
        for place, outage in list(self._outages.items()):
            while _release(outage):
                pass
            self._close(place, outage)

    def heard(self, place: str) -> None:
        """Learn that somebody answered: some of those that wait go on, and their answers let go on more."""
        outage = self._outages.get(place)
        if outage is None:
            return
        outage.pause = 0.0
        for _ in range(HEARD_RELEASES):
            _release(outage)
        if not outage.waiting:
            self._close(place, outage)

    def delay(self, pause: float) -> float:
        """Return how many seconds from now a call may ask again that would do so after *pause*; that is its turn."""
        now = self._loop.time()
        # Spread, so that the processes that have lost the same leader do not ask in step.
        moment = math.ceil((now + pause * random.uniform(0.75, 1.25)) / GAP_SECONDS)  # noqa: S311 - hides nothing
        # Whoever asks seldom, and so later, does not push back those that ask soon.
        while moment in self._taken:
            moment += 1
        self._taken = {taken for taken in self._taken if taken * GAP_SECONDS > now} | {moment}
        return moment * GAP_SECONDS - now

    async def turn(self, place: str, deadline: float) -> bool:
        """Wait until a call may ask; at once where all is well, or where the connection was closed.

        Returns:
            Whether that was before the deadline, by the loop's clock.

        """
        outage = self._outages.get(place)
        if outage is None:
            return self._loop.time() < deadline
        turn: asyncio.Future[None] = self._loop.create_future()
        outage.waiting.append(turn)
        self._arrange(place, outage)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            return False
        finally:
            turn.cancel()
        return True

    async def persist(
        self,
        place: str,
        ask: Callable[[float], Awaitable[T]],
        *,
        answer_seconds: float,
        patience_seconds: float,
        is_closed: Callable[[], bool],
    ) -> T:
        """Ask until there is an answer; only for what may be asked twice.

        Args:
            place: what answers.
            ask: is given the seconds that it may take.
            answer_seconds: how long to wait for one answer.
            patience_seconds: how long to keep asking.
            is_closed: tells that asking again is of no use.

        Raises:
            Unavailable: nobody answered in time.
            BrokerError: an answer that *ask* raises.

        """
        deadline = self._loop.time() + patience_seconds
        error: BrokerError = Unavailable(f"nobody has answered the calls before ({place})")
        while await self.turn(place, deadline):
            try:
                answer = await ask(min(answer_seconds, deadline - self._loop.time()))
            except Unavailable as failure:
                self.in_vain(place)
                error = failure
            except Ambiguous as failure:
                # It took its time, so it need not wait any more.
                error = failure
            except BrokerError:
                self.heard(place)
                raise
            else:
                self.heard(place)
                return answer
            if is_closed():
                raise Unavailable(str(error)) from error
        message = f"no answer from JetStream for {patience_seconds:g} s: {error}"
        raise Unavailable(message) from error

    def _arrange(self, place: str, outage: _Outage) -> None:
        """See to it that one of those that wait goes on soon, and then the next."""
        if outage.timer is None:
            outage.pause = min(max(FIRST_PAUSE_SECONDS, outage.pause * 1.5), LONGEST_PAUSE_SECONDS)
            outage.timer = self._loop.call_later(self.delay(outage.pause), self._let_one_ask, place, outage)

    def _let_one_ask(self, place: str, outage: _Outage) -> None:
        outage.timer = None
        if _release(outage):
            self._arrange(place, outage)
        else:
            # Whoever asks now finds out how it is.
            self._close(place, outage)

    def _close(self, place: str, outage: _Outage) -> None:
        if outage.timer is not None:
            outage.timer.cancel()
            outage.timer = None
        if self._outages.get(place) is outage:
            del self._outages[place]


def _release(outage: _Outage) -> bool:
    """Have the first of those that still wait go on; tell whether there was one."""
    while outage.waiting:
        turn = outage.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            return True
    return False
