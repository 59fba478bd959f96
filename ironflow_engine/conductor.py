"""Applies facts to runs: loads states, decides, stores, carries out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ironflow.broker.protocol import BrokerError, MessageTooLarge, WrongRevision
from ironflow.logs import get_logger
from ironflow_engine import remembered
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.dispatcher import Dispatcher, once_more
from ironflow_engine.facts import (
    AnnounceEnd,
    AppendStep,
    ChildCommand,
    Command,
    Dispatch,
    Fact,
    ForgetWait,
    RegisterWait,
    RunStarted,
    SendCommand,
    SetTimer,
    TellPass,
    WaitCommand,
)
from ironflow_engine.metrics import Metrics
from ironflow_engine.reducer import decide
from ironflow_engine.run_store import ABSENT, RunStore, Version
from ironflow_engine.wait_keeper import WaitKeeper

_log = get_logger("ironflow.engine")

_TRIES = 20
"""Engines that decide about one run at the same time refuse each other's writes; each round one of them wins."""


HELD_UP_SECONDS = 2.0
"""An engine that needs longer for its decisions may have been stopped, and others have gone on meanwhile."""


class _Plan(msgspec.Struct):
    """What the facts of one run come to."""

    run: str
    facts: list[Fact]
    version: Version
    fresh: bool
    after: Version = ABSENT
    commands: tuple[Command, ...] = ()
    failure: BrokerError | None = None


class _Course(msgspec.Struct):
    """What has come of facts so far.

    Attributes:
        later: the waits for which many events have still to be looked at; None where that is done at once.
        failures: the runs whose facts could not be applied, and why.
        waits_ended: the waits that are over.
        causes: of each fact that followed from one of another run, its run and the other one.

    """

    later: list[RegisterWait] | None
    failures: dict[str, BrokerError] = {}
    waits_ended: list[AppendStep | ForgetWait] = []
    causes: list[tuple[str, str]] = []


class Conductor:
    """Applies facts, many runs at a time.

    Args:
        store: the run states.
        dispatcher: carries out what is to be sent.
        keeper: carries out what is to be done about waits for events.
        children: carries out what is to be done about child runs.
        metrics: counts; also for those who have facts applied.
        seconds: tells how time goes by, also while the process is stopped.

    Attributes:
        metrics: as above.

    """

    def __init__(
        self,
        store: RunStore,
        dispatcher: Dispatcher,
        keeper: WaitKeeper,
        children: ChildKeeper,
        metrics: Metrics,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self._seconds = seconds
        self._store = store
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._children = children
        self._too_large: set[str] = set()
        """The runs that were told of since NATS does not carry what is to be stored of them."""

    async def apply(
        self,
        facts: Sequence[Fact],
        rest: Callable[[], Awaitable[None]] | None = None,
        later: list[RegisterWait] | None = None,
    ) -> dict[str, BrokerError]:
        """Apply facts in order, and those that follow from them; when this returns, their effects are stored.

        Args:
            facts: what happened.
            rest: awaited before waits are taken away that are over, which is not urgent; default for no rest.
            later: is given the new waits for which many events have to be looked at, see :meth:`look_back`; by
                default that is done as well.

        Returns:
            The runs whose facts could not be applied, and why; they must be applied again.

        """
        course = _Course(later)
        failures = course.failures
        left = facts
        while left:
            left = await self._apply(left, course)
        # A wake-up of a parent that is not stored must come again, and it comes with its child's end.
        for run, cause in reversed(course.causes):
            if run in failures:
                failures.setdefault(cause, failures[run])
        over = [command for command in course.waits_ended if command.run not in failures]
        if over:
            if rest is not None:
                await rest()
            failures |= await self._keeper.forget(over)
        self._tell_failures(facts, failures)
        return failures

    def _tell_failures(self, facts: Sequence[Fact], failures: dict[str, BrokerError]) -> None:
        """Log what could not be applied; of runs that no waiting helps, once for each."""
        if self._too_large:
            self._too_large -= {fact.run for fact in facts} - failures.keys()
        for run, failure in failures.items():
            if not isinstance(failure, MessageTooLarge):
                _log.warning("facts not applied, they will come again", run=run, reason=str(failure))
            elif run not in self._too_large:
                self._too_large.add(run)
                _log.error(
                    "a run stands still: what is to be stored of it is larger than NATS carries. Raise max_payload",
                    run=run,
                    reason=str(failure),
                )

    async def look_back(self, waits: Sequence[RegisterWait]) -> dict[str, BrokerError]:
        """Apply what follows from events that came before new waits; afterwards as after :meth:`apply`."""
        try:
            found = await self._keeper.look_back(waits)
        except BrokerError as error:
            return {wait.entry.run: error for wait in waits}
        return await self.apply(found)

    async def _apply(self, facts: Sequence[Fact], course: _Course) -> list[Fact]:
        """Apply facts, note what comes of it, and return the facts that follow from them."""
        began = self._seconds()
        by_run: dict[str, list[Fact]] = {}
        for fact in facts:
            by_run.setdefault(fact.run, []).append(fact)
        plans = await self._load(by_run, course.failures)
        decided = await self._decide_and_store(plans, course.failures)
        commands = [command for plan in decided for command in plan.commands]
        course.waits_ended += [command for command in commands if isinstance(command, (AppendStep, ForgetWait))]
        to_send = [each for each in commands if isinstance(each, SendCommand)]
        held_up = self._seconds() - began > HELD_UP_SECONDS
        sending = self._send([once_more(each) for each in to_send] if held_up else to_send, course.failures)
        about_waits = [each for each in commands if isinstance(each, WaitCommand)]
        following: list[Fact] = []
        if not about_waits:
            await sending
        elif _is_lone_and_told(to_send):
            # The server stores two messages at a time more slowly than one, and the pass is what is waited for.
            await sending
            following = await self._keep(about_waits, course, began)
        else:
            _, following = await asyncio.gather(sending, self._keep(about_waits, course, began))
        about_children = [each for each in commands if isinstance(each, ChildCommand)]
        return following + await self._keep_children(about_children, course)

    async def _load(self, by_run: dict[str, list[Fact]], failures: dict[str, BrokerError]) -> list[_Plan]:
        plans: list[_Plan] = []
        for run, facts in by_run.items():
            version = self._store.remembered(run)
            if version is None and isinstance(facts[0], RunStarted):
                # Nearly always a new run; if not, the write is refused and the state is loaded then.
                version = ABSENT
            plans.append(_Plan(run, facts, version or ABSENT, fresh=version is None))
        loaded = {plan.run for plan in await self._reload([plan for plan in plans if plan.fresh], failures)}
        return [plan for plan in plans if not plan.fresh or plan.run in loaded]

    async def _decide_and_store(self, plans: list[_Plan], failures: dict[str, BrokerError]) -> list[_Plan]:
        decided: list[_Plan] = []
        left = plans
        for _ in range(_TRIES):
            for plan in left:
                _decide(plan)
            self._tell_completed(left)
            done, to_write, to_reload = _sort(left)
            decided += done
            to_reload += await self._write(to_write, decided, failures)
            left = await self._reload(to_reload, failures)
            if not left:
                break
        failures.update({plan.run: WrongRevision("other engines kept writing") for plan in left})
        return decided

    def _tell_completed(self, plans: list[_Plan]) -> None:
        """Tell of runs that have completed: their outcomes are stored, and nothing ends them otherwise any more.

        Whoever asks then finds it in the journal. How a run has failed or was cancelled is told once it can be retried.
        """
        told: list[AnnounceEnd] = []
        for plan in plans:
            after = plan.after.state
            if after is not None and after is not plan.version.state and after.status == "completed":
                told += [command for command in plan.commands if isinstance(command, AnnounceEnd)]
                plan.commands = tuple(each for each in plan.commands if not isinstance(each, AnnounceEnd))
        self._dispatcher.announce(told)

    async def _write(self, plans: list[_Plan], decided: list[_Plan], failures: dict[str, BrokerError]) -> list[_Plan]:
        """Store the plans' states; return the plans that someone else's write has overtaken."""
        writes = [(plan.after.state, plan.version.revision) for plan in plans if plan.after.state is not None]
        overtaken: list[_Plan] = []
        for plan, answer in zip(plans, await self._store.write_all(writes) if writes else [], strict=True):
            if isinstance(answer, Version):
                decided.append(plan)
                if plan.after.state is not None:
                    self.metrics.run_changed(plan.version.state, plan.after.state)
            elif isinstance(answer, WrongRevision):
                overtaken.append(plan)
            else:
                failures[plan.run] = answer
        return overtaken

    async def _reload(self, plans: list[_Plan], failures: dict[str, BrokerError]) -> list[_Plan]:
        """Give the plans the states that stand now; return those whose state could be read."""
        versions = await self._store.load_all_afresh([plan.run for plan in plans]) if plans else []
        reloaded: list[_Plan] = []
        for plan, version in zip(plans, versions, strict=True):
            if isinstance(version, BrokerError):
                failures[plan.run] = version
            else:
                plan.version, plan.fresh = version, True
                reloaded.append(plan)
        return reloaded

    async def _send(self, commands: list[SendCommand], failures: dict[str, BrokerError]) -> None:
        if not commands:
            return
        for command, failure in zip(commands, await self._dispatcher.carry_out(commands), strict=True):
            if failure is not None:
                failures[_run_of(command)] = failure

    async def _keep(self, commands: list[WaitCommand], course: _Course, began: float) -> list[Fact]:
        """Do what is to be done about waits since *began*, and return the facts that follow from it."""
        following: list[Fact] = []
        results = await self._keeper.carry_out(commands, course.later) if commands else []
        # The pass that was told an end may have been lost meanwhile, and made up for by one that was not.
        held_up = self._seconds() - began > HELD_UP_SECONDS
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, BrokerError):
                course.failures[_run_of(command)] = result
            elif held_up or not isinstance(command, AppendStep) or command.wakes:
                following += result
        return following

    async def _keep_children(self, commands: list[ChildCommand], course: _Course) -> list[Fact]:
        """Do what is to be done about child runs, and return the facts that follow from it."""
        following: list[Fact] = []
        results = await self._children.carry_out(commands) if commands else []
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, BrokerError):
                course.failures[command.run] = result
            else:
                following += result
                course.causes += [(fact.run, command.run) for fact in result if fact.run != command.run]
        return following


def _run_of(command: Command) -> str:
    match command:
        case Dispatch() | AnnounceEnd():
            return command.state.id
        case SetTimer():
            return command.record.run
        case RegisterWait():
            return command.entry.run
        case _:
            return command.run


def _is_lone_and_told(commands: Sequence[SendCommand]) -> bool:
    """Tell whether all there is to send is for one pass, and its worker sees to it that the journal has an end."""
    if len(commands) != 1:
        return False
    (command,) = commands
    return isinstance(command, TellPass) or (isinstance(command, Dispatch) and command.end is not None)


def _decide(plan: _Plan) -> None:
    state = plan.version.state
    commands: list[Command] = []
    for fact in plan.facts:
        decision = decide(state, fact)
        state = decision.state
        commands += decision.commands
    plan.after = Version(state, plan.version.revision)
    plan.commands = tuple(commands)


def _sort(plans: list[_Plan]) -> tuple[list[_Plan], list[_Plan], list[_Plan]]:
    """Return the plans that need no write, those that need one, and those to decide again on a fresh state."""
    done: list[_Plan] = []
    to_write: list[_Plan] = []
    to_reload: list[_Plan] = []
    for plan in plans:
        if plan.after.state is not plan.version.state:
            to_write.append(plan)
        elif plan.fresh or remembered.will_do(plan.version.state, plan.facts):
            done.append(plan)
        else:
            # What changes nothing is never refused by the compare-and-set, so a remembered state that is out
            # of date could swallow an outcome.
            to_reload.append(plan)
    return done, to_write, to_reload
