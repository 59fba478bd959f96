"""Executes one task: load what is recorded, replay, record the outcome, acknowledge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from logging import INFO, WARNING
from typing import Any

from msgspec.structs import replace

from ironflow.broker.protocol import Broker, BrokerError, Delivery, MessageTooLarge, Request
from ironflow.broker.topology import ENGINE_ACK_WAIT_SECONDS
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.function import Function
from ironflow.journal import Journal
from ironflow.limits import DEFAULT_LIMITS, Limits
from ironflow.logs import get_logger
from ironflow.messages import PassTold
from ironflow.names import Names
from ironflow.records import InputRecord, OutcomeRecord, Task
from ironflow.server_clock import ServerClock
from ironflow.telemetry.tracing import carrier_of, is_wanted
from ironflow_worker.beginners import Beginners
from ironflow_worker.bodies import Bodies
from ironflow_worker.cancellations import Cancellations, RunningPass
from ironflow_worker.dead_letters import DeadLetters
from ironflow_worker.leases import Leases
from ironflow_worker.lingering import Lingerers, Lingering
from ironflow_worker.memo import Losses, Memo
from ironflow_worker.metrics import Metrics
from ironflow_worker.naps import Naps
from ironflow_worker.pass_tools import LeaseLost, PassTools, WorkerDrains
from ironflow_worker.poison import (
    MOST_LOSSES,
    gives_up_undo,
    is_given_up,
    is_suspect,
    pause_ms,
    undo_lost,
    unknown_function,
    unreadable,
)
from ironflow_worker.presence import Presence
from ironflow_worker.quarantine import Quarantine
from ironflow_worker.recent_memos import RecentMemos
from ironflow_worker.replay import Replay
from ironflow_worker.signals import PassStopped
from ironflow_worker.slots import Slot

_log = get_logger("ironflow.worker")

_TRY_AGAIN_SECONDS = 1.0


class Executor:
    """Executes tasks.

    Args:
        broker: the connection.
        names: the namespace.
        functions: what this worker can execute, by id.
        bodies: runs step bodies.
        leases: keeps tasks while they are executed.
        presence: tells engines which tasks are being executed.
        metrics: counts.
        cancellations: knows which runs were ended from outside.
        worker_id: names this worker in what it records of its passes.
        make_token: returns a new random mark.
        chance: returns a random number in [0, 1).
        now_ms: returns what this machine's clock says.
        monotonic: returns seconds that never jump.
        limits: what is refused before it is stored.
        lingerers: the passes that stay for an event; default none.

    """

    def __init__(  # noqa: PLR0913 - it is made in one place, of everything that a pass needs
        self,
        broker: Broker,
        names: Names,
        functions: Mapping[str, Function[Any, Any]],
        bodies: Bodies,
        leases: Leases,
        presence: Presence,
        metrics: Metrics,
        cancellations: Cancellations,
        *,
        worker_id: str,
        make_token: Callable[[], str],
        chance: Callable[[], float],
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        limits: Limits = DEFAULT_LIMITS,
        lingerers: Lingerers | None = None,
    ) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._bodies = bodies
        self._leases = leases
        self._presence = presence
        self._metrics = metrics
        self._cancellations = cancellations
        self._worker_id = worker_id
        self._make_token = make_token
        self._chance = chance
        self._now_ms = now_ms
        self._limits = limits
        self._monotonic = monotonic
        self._began = monotonic()
        self._journal = Journal(broker, names, metrics.records_sent)
        # The streams of each shard may be led by another server, with another clock.
        self._clocks = {shard: ServerClock(monotonic) for shard in names.all_shards}
        self._asks = asyncio.Lock()
        self._recent = RecentMemos()
        self._lingerers = lingerers or Lingerers(0)
        self._quarantine = Quarantine()
        self._beginners = Beginners(monotonic)
        self._spans_wanted = is_wanted({})
        self._dead_letters = DeadLetters(broker, names, self._journal, metrics, make_token)

    async def execute(self, queue: str, delivery: Delivery, slot: Slot) -> None:
        """Execute a task to the end of its pass, or hand it back.

        The outcome is recorded first and the task acknowledged last: an acknowledgement can be lost, and then
        the task comes again and finds its outcome.
        """
        try:
            task = decode_record(Task, delivery.payload)
        except SerializationError as error:
            # Only engines write tasks, so this one's may be newer than this worker.
            _log.error("this worker cannot read a task", subject=delivery.subject, reason=str(error))
            await self._dead_letters.refuse(queue, delivery, unreadable(str(error), delivery.delivered), None)
            return
        function = self._functions.get(task.function)
        if function is None:
            _log.warning(
                "this worker lacks the function of a task",
                function=task.function,
                run=task.run,
                advice="give all workers of the queue the same apps, or start one that has it",
            )
            unknown = unknown_function(task.function, queue, delivery.delivered)
            await self._dead_letters.refuse(queue, delivery, unknown, task.event)
            return
        running = self._cancellations.at_work(task.run, task.number)
        if running is not None:
            await self._join(queue, running, delivery)
            return
        self._clock_of(task).observe(delivery.time_ms, is_old=delivery.delivered > 1)
        running = RunningPass(task.run, task.number, self._names.journal_outcome(queue, task.run, task.number))
        running.leases.add(delivery.lease)
        try:
            with (
                self._leases.hold(delivery.lease),
                self._presence.holds(queue, delivery),
                self._cancellations.watch(running),
            ):
                await slot.take()
                await self._beginners.turn(task)
                await self._journal.until_few_wait()
                await self._execute(queue, task, function, delivery, running, slot)
        except PassStopped:
            await self._leave(running, function, delivery)
        except LeaseLost as error:
            _log.warning("pass left to others", run=task.run, reason=str(error))
        except SerializationError as error:
            _log.warning("this worker cannot read what is recorded of a run", run=task.run, reason=str(error))
            await self._dead_letters.refuse(queue, delivery, unreadable(str(error), delivery.delivered), task.event)
        except BrokerError as error:
            drains = isinstance(error, WorkerDrains)  # others can go on at once
            _log.log(
                INFO if drains else WARNING, "pass given up, it will be done again", run=task.run, reason=str(error)
            )
            await self._hand_back(queue, task, delivery, running, 0.0 if drains else _TRY_AGAIN_SECONDS)
        except Exception:
            await self._hand_back(queue, task, delivery, running, _TRY_AGAIN_SECONDS)
            raise
        except BaseException:
            await self._hand_back(queue, task, delivery, running, 0.0)
            raise

    async def _join(self, queue: str, running: RunningPass, delivery: Delivery) -> None:
        """Keep a task that came again while this worker executes it, since its lease had ended.

        A second pass beside the first one would do every body twice.
        """
        with self._leases.hold(delivery.lease), self._presence.holds(queue, delivery):
            running.leases.add(delivery.lease)
            try:
                await running.is_done.wait()
            finally:
                if running.succeeded:
                    delivery.ack()
                else:
                    delivery.nak()

    async def _hand_back(
        self, queue: str, task: Task, delivery: Delivery, running: RunningPass, delay_seconds: float
    ) -> None:
        """Have a task delivered again, and say that it has not cost this worker its life."""
        try:
            if running.begun:
                await self._dead_letters.excuse(queue, task, running.begun)
        finally:
            delivery.nak(delay_seconds)

    async def _execute(
        self,
        queue: str,
        task: Task,
        function: Function[Any, Any],
        delivery: Delivery,
        running: RunningPass,
        slot: Slot,
    ) -> None:
        server = self._broker.server.id
        memo = await self._load(queue, task, delivery)
        if memo.last_pass >= task.number:
            delivery.ack()
            return
        event = task.event or memo.event
        losses = memo.losses(task.number)
        if is_given_up(task.mode, losses):
            await self._dead_letters.give_up(queue, task, delivery, memo, losses)
            return
        pause = await self._pause_ms(queue, task, losses) if losses.lost else 0
        if pause:
            delivery.nak(pause / 1000)
            return
        if event is None:
            msg = f"the journal of run {task.run} has no triggering event"
            raise SerializationError(msg)
        if suspect := is_suspect(losses):
            _log.warning(
                "a run that may have ended workers is tried again, by itself",
                run=task.run,
                function=task.function,
                workers=losses.lost,
                of=MOST_LOSSES,
                advice="look for a step that ends the process, or needs more memory than there is",
            )
        with await self._quarantine.enter(alone=suspect):
            if delivery.delivered > 1:
                running.begun = await self._dead_letters.note_begun(queue, task, losses, self._worker_id)
            tools = self._tools(queue, task, running.leases, carrier_of(event.metadata))
            lost = undo_lost(losses) if gives_up_undo(task.mode, losses) else None
            naps, lingering = Naps(tools.clock, slot), Lingering(self._lingerers, slot)
            replay = Replay(function, task, event, memo, tools, naps, lingering, lost)
            running.replays(replay)
            outcome = await replay.run()
            self._beginners.ended(task, outcome, tools.due_ms(0))
            outcome = await self._record(queue, running, replay, outcome, tools)
        running.succeeded = True
        delivery.ack()
        if outcome.status == "suspended":
            alone = _nobody_else_had(task, delivery, server)
            self._recent.keep(task, server, memo, tools.recorded.all() if alone else None, delivery.time_ms)
        self._metrics.pass_ended(function.id, outcome.status)
        # It takes a while, and the answer changes once at the most: when somebody provides for spans.
        self._spans_wanted = self._spans_wanted or is_wanted({})

    async def _pause_ms(self, queue: str, task: Task, losses: Losses) -> int:
        now_ms = await self._broker.server_time_ms(self._names.shard_of(task.run).tasks, queue)
        return pause_ms(task.run, losses, now_ms, round((self._monotonic() - self._began) * 1000))

    def hear(self, request: Request) -> None:
        """Take a hint how a wait has ended, for a pass that lingers for it."""
        try:
            told = decode_record(PassTold, request.payload)
        except SerializationError:
            return  # of another version; the pass ends, and the next one finds it in the journal
        running = self._cancellations.at_work(told.run, told.number)
        if running is not None:
            running.tell(told.end)

    def end_lingering(self) -> None:
        """Let no pass linger any more."""
        self._lingerers.close()

    async def _record(
        self,
        queue: str,
        running: RunningPass,
        replay: Replay,
        outcome: OutcomeRecord,
        tools: PassTools,
    ) -> OutcomeRecord:
        """Record the outcome of a pass, or what takes its place where it is too large; return the one recorded."""
        while True:
            try:
                await tools.append(running.outcome, outcome)
            except MessageTooLarge as error:
                if outcome.status == "failed" and outcome.event is None:
                    raise
                outcome = await self._smaller(queue, running, replay, outcome, error, tools)
            else:
                return outcome

    async def _smaller(
        self,
        queue: str,
        running: RunningPass,
        replay: Replay,
        outcome: OutcomeRecord,
        error: MessageTooLarge,
        tools: PassTools,
    ) -> OutcomeRecord:
        """Return what takes the place of an outcome that is too large: it without its event, if that is elsewhere."""
        if outcome.event is None:
            return replay.too_large(outcome, error)
        record = InputRecord(event=outcome.event, token=tools.token)
        try:
            await tools.append(self._names.journal_input(queue, running.run), record)
        except MessageTooLarge as by_itself:
            return replay.too_large(outcome, by_itself)
        return replace(outcome, event=None)

    async def _leave(self, running: RunningPass, function: Function[Any, Any], delivery: Delivery) -> None:
        """Let go of a task whose pass was stopped, once it is sure that the run has ended: hints prove nothing."""
        try:
            outcome = await self._broker.last(self._names.shard_of(running.run).journal, running.outcome)
        except BrokerError as error:
            _log.warning("task handed back: it is not known how its run ended", run=running.run, reason=str(error))
            outcome = None
        if outcome is None:
            delivery.nak(_TRY_AGAIN_SECONDS)
            return
        delivery.ack()
        _log.info("pass stopped: its run was ended", run=running.run, function=function.id)
        self._metrics.pass_ended(function.id, "stopped")

    async def _load(self, queue: str, task: Task, delivery: Delivery) -> Memo:
        # A pass that waits for a suspect grows older meanwhile. From here to where it begins nothing is awaited, if its
        # journal is not read.
        if self._is_surely_known(task, delivery) and (
            not await self._quarantine.opened() or self._is_surely_known(task, delivery)
        ):
            memo = self._recent.take_whole(task, self._broker.server.id)
        else:
            memo = await self._read(queue, task)
            if self._clock_of(task).is_doubtful and memo.open_waits("sleep"):
                await self._settle_clock(queue, task, delivery)
        if task.end is not None:
            memo.wait_ended(task.end)
        return memo

    async def _read(self, queue: str, task: Task) -> Memo:
        memo = self._recent.take(task, self._broker.server.id)
        subject_filter = self._names.journal_of_run(queue, task.run)
        async for page in self._broker.read(
            self._names.shard_of(task.run).journal, subject_filter, memo.seen, one_each=True
        ):
            memo.read(page)
        return memo

    async def _settle_clock(self, queue: str, task: Task, delivery: Delivery) -> None:
        """Find out whether the server's clock was set, before a pass waits for the end of a sleep by it."""
        clock = self._clock_of(task)
        async with self._asks:
            if clock.is_doubtful:
                await clock.ask(partial(self._broker.server_time_ms, self._names.shard_of(task.run).tasks, queue))
                clock.observe(delivery.time_ms)

    def _is_surely_known(self, task: Task, delivery: Delivery) -> bool:
        """Tell whether nothing can be recorded of a task's run by now but what this worker knows.

        That is so in a run's first pass; and where this worker had the pass before, which waited for one event, and
        the task says that it came.
        """
        server = self._broker.server.id
        if not _nobody_else_had(task, delivery, server):
            return False
        if task.number == 0:
            begun_ms = since_ms = task.started_at
        elif task.end is not None and (known_ms := self._recent.whole_since(task, server)) is not None:
            begun_ms, since_ms = delivery.time_ms, known_ms
        else:
            return False
        return self._is_too_young_for_others(begun_ms) and self._cancellations.surely_none(task.run, since_ms)

    def _is_too_young_for_others(self, begun_ms: int) -> bool:
        """Tell whether a pass began so lately that nobody else can have been handed its event or its task.

        An engine that stood still between its writes publishes the task when another has long done so, and a
        worker that stood still finds in its socket what has gone to another. Both take a lease. Half of it
        leaves the other half for the difference between the server's clock and ours.
        """
        age_ms = self._now_ms() - begun_ms
        return abs(age_ms) < min(self._leases.seconds, ENGINE_ACK_WAIT_SECONDS) * 1000 / 2

    def _tools(self, queue: str, task: Task, leases: Collection[str], trace: dict[str, str]) -> PassTools:
        return PassTools(
            run=task.run,
            function=task.function,
            queue=queue,
            token=self._make_token(),
            worker=self._worker_id,
            names=self._names,
            limits=self._limits,
            broker=self._broker,
            journal=self._journal,
            bodies=self._bodies,
            metrics=self._metrics,
            still_holds=lambda: self._leases.still_holds(*leases),
            chance=self._chance,
            now_ms=self._now_ms,
            clock=self._clock_of(task),
            depth=task.depth,
            trace=trace,
            traced=bool(trace) or self._spans_wanted,
        )

    def _clock_of(self, task: Task) -> ServerClock:
        return self._clocks[self._names.shard_of(task.run)]


def _nobody_else_had(task: Task, delivery: Delivery, server: str) -> bool:
    """Tell whether no other worker was handed a task.

    "Delivered once" alone proves nothing, since a server that was killed forgets its counts; so the server
    must be the very process that stored the task.
    """
    return delivery.delivered == 1 and not task.check_journal and task.server == server
