"""Carries out what the reducer decides about waits for events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from ironflow.broker.protocol import Broker, BrokerError, MessageTooLarge
from ironflow.journal import Appended, Journal
from ironflow.names import Names, mark
from ironflow.records import NULL, ErrorRecord, StepRecord
from ironflow_engine.facts import AppendStep, Fact, ForgetWait, ForgetWaits, RegisterWait, WaitCommand, Woken
from ironflow_engine.look_back import LookBack
from ironflow_engine.wait_store import WaitStore

CarriedOut: TypeAlias = BrokerError | Sequence[Fact]


class WaitKeeper:
    """Registers waits, records their ends, and forgets them. Doing it again has no further effect.

    Args:
        broker: the connection.
        names: the namespace.
        waits: the open waits.
        make_token: returns a new random mark.

    """

    def __init__(self, broker: Broker, names: Names, waits: WaitStore, make_token: Callable[[], str]) -> None:
        self._names = names
        self._waits = waits
        self._look_back = LookBack(broker, names)
        self._journal = Journal(broker, names)
        self._make_token = make_token

    def close(self) -> None:
        """Forget what is known of events."""
        self._look_back.close()

    async def carry_out(
        self, commands: Sequence[WaitCommand], later: list[RegisterWait] | None = None
    ) -> list[CarriedOut]:
        """Carry out commands; return for each what it failed with, or the facts that follow from it.

        Args:
            commands: what is to be done.
            later: is given the waits for which many events have to be looked at; without it that is done as well.

        """
        registrations = [command for command in commands if isinstance(command, RegisterWait)]
        appends = [command for command in commands if isinstance(command, AppendStep)]
        registered = iter(await self._register(registrations, later) if registrations else [])
        appended = iter(await self._append(appends) if appends else [])
        results: list[CarriedOut] = []
        for command in commands:
            match command:
                case RegisterWait():
                    results.append(next(registered))
                case AppendStep():
                    results.append(next(appended))
                case ForgetWaits():
                    results.append(await self._forget_run(command))
                case ForgetWait():
                    results.append([])
        return results

    async def forget(self, ended: Sequence[AppendStep | ForgetWait]) -> dict[str, BrokerError]:
        """Have no event find waits any more of which the ends, and all that follows from them, are stored.

        Not earlier: an event that comes again, because an engine died in between, must find its wait again.
        """
        return await self._waits.forget({(each.run, each.step): each.wait for each in ended})

    async def look_back(self, waits: Sequence[RegisterWait]) -> list[Fact]:
        """Return what follows from the events that came before waits that have been registered.

        Raises:
            BrokerError: they cannot be read.

        """
        return [*await self._look_back.find(waits)]

    async def _register(
        self, registrations: Sequence[RegisterWait], later: list[RegisterWait] | None
    ) -> list[CarriedOut]:
        """Have events find the waits, and only then look which events have come already."""
        try:
            failures = await self._waits.put_all([each.entry for each in registrations])
            stored = [each for each, failure in zip(registrations, failures, strict=True) if failure is None]
            found, left = await self._look_back.glance(stored) if stored else ([], [])
            if later is not None:
                later += left
            elif left:
                found += await self._look_back.find(left)
        except BrokerError as error:
            return [error] * len(registrations)
        arrivals = {(fact.run, fact.entry.step): fact for fact in found}
        return [
            failure or [arrivals[key] for key in ((each.entry.run, each.entry.step),) if key in arrivals]
            for each, failure in zip(registrations, failures, strict=True)
        ]

    async def _append(self, ends: Sequence[AppendStep]) -> list[CarriedOut]:
        answers = await self._append_all([(end, end.record) for end in ends])
        too_large = [index for index, answer in enumerate(answers) if isinstance(answer, MessageTooLarge)]
        if too_large:
            refusals = [(ends[index], _too_large(ends[index], answers[index])) for index in too_large]
            again = await self._append_all(refusals)
            for index, answer in zip(too_large, again, strict=True):
                answers[index] = answer
        return [_outcome(end, answer) for end, answer in zip(ends, answers, strict=True)]

    async def _append_all(self, ends: Sequence[tuple[AppendStep, StepRecord]]) -> list[Appended | BrokerError]:
        return await self._journal.append_all(
            [
                (self._names.journal_step(end.queue, end.run, end.step), replace(record, token=self._make_token()))
                for end, record in ends
            ]
        )

    async def _forget_run(self, command: ForgetWaits) -> CarriedOut:
        try:
            await self._waits.forget_run(command.queue, command.run, command.epoch)
        except BrokerError as error:
            return error
        return []


def _outcome(end: AppendStep, answer: Appended | BrokerError) -> CarriedOut:
    if isinstance(answer, BrokerError):
        return answer
    return [Woken(run=end.run, queue=end.queue, sequence=answer.sequence, wait=mark(end.step))]


def _too_large(end: AppendStep, reason: object) -> StepRecord:
    """Return what is recorded where the awaited event just fitted into a message, and the step's record does not."""
    message = f"the event that ended step {end.wait.name!r} is larger than the server takes as a result: {reason}"
    error = ErrorRecord(type="PayloadTooLargeError", message=message, step=end.wait.name)
    return replace(end.record, status="failed", output=NULL, error=error)
