"""Sends records one by one while few wait, and together when many do.

A lone record goes out at once. Records that come while enough are on their way wait for those; what has
gathered by then goes out together. A batch costs the server as much as some fifteen single records, however many
there are in it: ``python -m tests.bench batches`` draws the curve.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ironflow.broker.protocol import Broker, Publication, Stored

_IN_FLIGHT = 4
"""So many single records on their way keep the server's disk busy: it syncs them one after the other. More of them
only wait there, at the price of a sync each, where those that wait here can go out together."""
_TOGETHER_FROM = 8
"""Whether so many make a batch or go out singly, all at a time, is for the broker to say, which measures that."""
_SECOND_FROM = 24
"""While a group is on its way, those who were answered before go on and gather again; a second group of so many has
the server at work meanwhile. A smaller one would not be worth the fixed cost of its batch."""
_GROUPS = 2
_SPLIT_FROM = 64
"""All callers of one group go on at the same time, and then have all their next records in one group again: while they
go on the server has nothing to do, and then they wait for it. From so many on the second half of them goes on once the
next records of the first half are on their way."""
_TOGETHER_MOST = 150
"""Of larger groups a message costs little less, and all that they hold goes through every stage in step: one process
works while the others wait."""
_COMPANY_ROUNDS = 12
"""Those whose records went out together often have their next ones together too, some rounds of the event loop
later. A round with nothing else to do costs a few microseconds; one that all of them go on in may take longer than
a batch does."""

_FEW = 75
"""While more wait than this, whoever has yet to begin is better off to wait for that: begun, its records would only
make all of them wait longer. With fewer, groups become too small to be worth their fixed cost."""
_LOOK_AGAIN_SECONDS = 0.01

_Future: TypeAlias = "asyncio.Future[Stored]"
_Waiting = tuple[Publication, _Future]
_Answered = tuple[_Future, Stored | Exception]


class GroupCommit:
    """Publishes for many callers at a time.

    It keeps no order between callers: whoever needs one record behind another awaits the first.

    Args:
        broker: the connection.
        observe: gets how many records are sent together.

    """

    def __init__(self, broker: Broker, observe: Callable[[int], object] = bool) -> None:
        self._broker = broker
        self._observe = observe
        self._in_flight = 0
        self._groups = 0
        self._gathers = False
        """Whether a group is to be sent some rounds of the event loop from now."""
        self._waiting: deque[_Waiting] = deque()
        self._held_back: list[_Answered] = []
        """Who may go on once the next group is on its way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._beginners: deque[asyncio.Future[None]] = deque()
        self._next_look: asyncio.TimerHandle | None = None

    async def until_few_wait(self) -> None:
        """Wait, in turn, until few records wait: for what has yet to begin, and will have records."""
        if len(self._waiting) < _FEW and not self._beginners:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beginners.append(turn)
        await turn

    def _let_begin(self) -> None:
        """Let as many begin as make few wait."""
        room = _FEW - len(self._waiting)
        while room > 0 and self._beginners:
            turn = self._beginners.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1
        if self._beginners and self._next_look is None:
            # What begins may have nothing to record, and then no answer has us look again.
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._next_look = None
        self._let_begin()

    async def publish(self, publication: Publication) -> Stored:
        """Store a message; see :meth:`ironflow.broker.protocol.Broker.publish`."""
        if self._gathers or self._groups or self._in_flight >= _IN_FLIGHT:
            future: _Future = asyncio.get_running_loop().create_future()
            self._waiting.append((publication, future))
            if self._groups and self._may_group():
                self._await_company()
            return await future
        self._in_flight += 1
        self._observe(1)
        try:
            return await self._broker.publish(publication)
        finally:
            self._in_flight -= 1
            if self._waiting:
                self._send_waiting()

    def _may_group(self) -> bool:
        """Tell whether as many wait as make a group now."""
        enough = _SECOND_FROM if self._groups else _TOGETHER_FROM
        return self._groups < _GROUPS and len(self._waiting) >= enough

    def _send_waiting(self) -> None:
        """Send what waits: all of it together where it is enough, else as many as may be on their way."""
        if self._gathers:
            return
        while self._may_group():
            self._groups += 1
            self._spawn([self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER_MOST))])
        while self._waiting and self._in_flight < _IN_FLIGHT and not self._groups:
            self._in_flight += 1
            self._spawn([self._waiting.popleft()])
        if self._beginners:
            self._let_begin()

    def _spawn(self, group: list[_Waiting]) -> None:
        self._observe(len(group))
        task = asyncio.create_task(self._send(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, group: list[_Waiting]) -> None:
        try:
            answers: Sequence[Stored | Exception] = await self._broker.publish_all(
                [publication for publication, _ in group]
            )
        except Exception as error:  # noqa: BLE001 - it is raised where the callers wait
            answers = [error] * len(group)
        answered: list[_Answered] = [(future, answer) for (_, future), answer in zip(group, answers, strict=True)]
        if len(group) == 1:
            self._in_flight -= 1
            _settle(answered)
            self._send_waiting()
            return
        self._groups -= 1
        if len(group) >= _SPLIT_FROM and not self._groups:
            half = len(group) // 2
            self._held_back += answered[half:]
            answered = answered[:half]
        self._await_company()
        _settle(answered)

    def _await_company(self) -> None:
        """Have more gather for some rounds of the event loop, and send it then."""
        if not self._gathers:
            self._gathers = True
            self._round(_COMPANY_ROUNDS)

    def _round(self, rounds: int) -> None:
        if rounds:
            asyncio.get_running_loop().call_soon(self._round, rounds - 1)
            return
        self._gathers = False
        self._send_waiting()
        held_back, self._held_back = self._held_back, []
        _settle(held_back)


def _settle(answered: Sequence[_Answered]) -> None:
    """Tell callers what became of their records, but for those that were cancelled."""
    for future, answer in answered:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
