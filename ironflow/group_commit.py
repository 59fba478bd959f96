"""Sends records one by one while few wait, and together when many do.

A lone record goes out at once. Records that come while enough are on their way wait for those; what has
gathered by then goes out together, which costs the server little more than one.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ironflow.broker.protocol import Broker, BrokerError, Publication, Stored

_IN_FLIGHT = 16
"""So many single records on their way keep the connection busy; more of them only wait in the server."""
_TOGETHER_FROM = 24
_TOGETHER_MOST = 1000

_Waiting = tuple[Publication, "asyncio.Future[Stored | BrokerError]"]


class GroupCommit:
    """Publishes for many callers at a time.

    It keeps no order between callers: whoever needs one record behind another awaits the first.

    Args:
        broker: the connection.

    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._in_flight = 0
        self._gathers = False
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, publication: Publication) -> Stored:
        """Store a message; see :meth:`ironflow.broker.protocol.Broker.publish`."""
        if self._gathers or self._in_flight >= _IN_FLIGHT:
            future: asyncio.Future[Stored | BrokerError] = asyncio.get_running_loop().create_future()
            self._waiting.append((publication, future))
            answer = await future
            if isinstance(answer, BrokerError):
                raise answer
            return answer
        self._in_flight += 1
        try:
            return await self._broker.publish(publication)
        finally:
            self._in_flight -= 1
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits: all of it together where it is enough, else as many as may be on their way."""
        if self._gathers:
            return
        if len(self._waiting) >= _TOGETHER_FROM:
            self._gathers = True
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER_MOST))]
            self._spawn(group)
            return
        while self._waiting and self._in_flight < _IN_FLIGHT:
            self._in_flight += 1
            self._spawn([self._waiting.popleft()])

    def _spawn(self, group: list[_Waiting]) -> None:
        task = asyncio.create_task(self._send(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, group: list[_Waiting]) -> None:
        answers: list[Stored | BrokerError] = []
        try:
            answers = await self._broker.publish_all([publication for publication, _ in group])
        finally:
            if len(group) > 1:
                self._gathers = False
            else:
                self._in_flight -= 1
            self._settle(group, answers)
            self._send_waiting()

    def _settle(self, group: list[_Waiting], answers: list[Stored | BrokerError]) -> None:
        for index, (_, future) in enumerate(group):
            if future.done():  # its caller was cancelled
                continue
            if index < len(answers):
                future.set_result(answers[index])
            else:
                future.cancel()
