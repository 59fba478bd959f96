"""Hears that runs were ended from outside, and stops their passes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from ironflow.broker.protocol import Broker, BrokerError, Request, Subscription
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.records import WaitEnd
from ironflow_worker.around import Around
from ironflow_worker.replay import Replay

_log = get_logger("ironflow.worker")

_REMEMBERED_RUNS = 10_000
_LOOK_SECONDS = 10.0
"""A hint can be lost, in a reconnect for example; then a pass that runs for longer is stopped this late."""


class RunningPass:
    """A task from the moment at which a worker takes it up.

    Args:
        run: the run's id.
        number: which of its passes it is.
        outcome: the subject of the pass's outcome.

    Attributes:
        run: the run's id.
        number: which of its passes it is.
        outcome: the subject of the pass's outcome.
        seen_before: whether it was at work when the journal was looked at last.
        stopped: whether its run was ended from outside meanwhile.
        begun: which number of the workers this is that began it after others had; 0 where none had.
        leases: the deliveries of its task that this worker has; more than one where the first lease had ended.
        is_done: set once the worker has let go of it.
        succeeded: whether its outcome is recorded then.

    """

    def __init__(self, run: str, number: int, outcome: str) -> None:
        self.run = run
        self.number = number
        self.outcome = outcome
        self.seen_before = False
        self.stopped = False
        self.begun = 0
        self.leases: set[str] = set()
        self.is_done = asyncio.Event()
        self.succeeded = False
        self._replay: Replay | None = None

    def replays(self, replay: Replay) -> None:
        """Note the handler's turn; where the run has ended by now, it does not come."""
        self._replay = replay
        if self.stopped:
            replay.stop()

    def stop(self) -> None:
        """Stop the pass, wherever it is."""
        self.stopped = True
        if self._replay is not None:
            self._replay.stop()

    def tell(self, end: WaitEnd | None) -> None:
        """Tell the handler how a wait has ended, where it lingers for that; without an *end*, that it shall not."""
        if self._replay is not None:
            self._replay.tell(end)


class Cancellations:
    """Listens to the hints that runs were ended from outside.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._passes: set[RunningPass] = set()
        self._by_number: dict[tuple[str, int], RunningPass] = {}
        self._at_work = asyncio.Event()
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._listens_since_ms: int | None = None
        self._subscription: Subscription | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def running(self) -> frozenset[str]:
        """The runs whose passes are at work now."""
        return frozenset(each.run for each in self._passes)

    async def start(self) -> None:
        """Listen until :meth:`stop`."""
        self._subscription = await self._broker.listen(self._names.every_cancel, self._hear)
        self._looking = asyncio.create_task(self._look_now_and_then(), name="cancellations")

    async def note_time(self, queue: str) -> None:
        """Note that hints are heard by now; by the clock of the server, which tells it beside the queue's state."""
        if self._subscription is None or self._listens_since_ms is not None:
            return
        try:
            self._listens_since_ms = await self._broker.server_time_ms(self._names.all_shards[0].tasks, queue)
        except BrokerError as error:
            _log.warning("the server's time is not known, so journals are read more often", reason=str(error))

    async def stop(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            await self._subscription.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def watch(self, running: RunningPass) -> Around[RunningPass]:
        """Have a pass stopped, if its run is ended from outside while the block runs."""
        return Around(self._begin, self._end, running)

    def _begin(self, running: RunningPass) -> None:
        self._by_number[running.run, running.number] = running
        self._passes.add(running)
        self._at_work.set()

    def _end(self, running: RunningPass) -> None:
        self._passes.discard(running)
        del self._by_number[running.run, running.number]
        running.is_done.set()

    def at_work(self, run: str, number: int) -> RunningPass | None:
        """Return that pass, if this worker executes it."""
        return self._by_number.get((run, number))

    def surely_none(self, run: str, started_ms: int) -> bool:
        """Tell whether this worker would have heard it if the run, which started then, had been ended.

        A task can reach the queue behind the end of its run, from an engine that was held up, and can wait there
        for a worker that was not there at the time. Both times are the server's.
        """
        return self._listens_since_ms is not None and started_ms > self._listens_since_ms and run not in self._heard

    def _hear(self, request: Request) -> None:
        run = request.subject.rpartition(".")[2]
        self._heard[run] = None
        if len(self._heard) > _REMEMBERED_RUNS:
            self._heard.popitem(last=False)
        # Passes that undo follow the one that was ended, and go on.
        newest = int(request.payload) if request.payload.isdigit() else None
        for running in self._passes:
            if running.run == run and (newest is None or running.number <= newest):
                running.stop()

    async def _look_now_and_then(self) -> None:
        while True:
            if not self._passes:
                self._at_work.clear()
                await self._at_work.wait()
            await asyncio.sleep(_LOOK_SECONDS)
            for running in tuple(self._passes):
                if running.seen_before and not running.stopped:
                    await self._look(running)
                running.seen_before = True

    async def _look(self, running: RunningPass) -> None:
        """Stop a pass that has an outcome, which is not its own as long as it is at work."""
        try:
            outcome = await self._broker.last(self._names.shard_of(running.run).journal, running.outcome)
        except BrokerError as error:
            _log.debug("not known whether a run was ended", run=running.run, reason=str(error))
            return
        if outcome is not None:
            running.stop()
