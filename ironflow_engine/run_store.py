"""Run states: read, and written by compare-and-set."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Publication, Stored, WrongRevision
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.names import Names, bucket_stream
from ironflow.records import TERMINAL, RunState

_REMEMBERED_RUNS = 50_000


class UnreadableState(BrokerError):  # noqa: N818 - reads as the answer that it is
    """A run's state does not decode; all that is done about the run is to try again later."""


class Version(msgspec.Struct, frozen=True):
    """A run's state as it was at some time, and the revision that a write must follow."""

    state: RunState | None
    revision: int


ABSENT = Version(None, 0)


class RunStore:
    """The run states of one namespace.

    It remembers the newest version it knows of recent runs that go on. A remembered version may be out of date,
    because other engines write too; a write that follows it is then refused, and the caller reads again.

    Args:
        broker: the connection.
        names: the namespace.
        make_token: returns a new random mark.

    """

    def __init__(self, broker: Broker, names: Names, make_token: Callable[[], str]) -> None:
        self._broker = broker
        self._names = names
        self._stream = bucket_stream(names.runs_bucket)
        self._make_token = make_token
        self._recent: OrderedDict[str, Version] = OrderedDict()

    def remembered(self, run: str) -> Version | None:
        """Return the version that this engine knows, without asking."""
        version = self._recent.get(run)
        if version is not None:
            self._recent.move_to_end(run)
        return version

    def forget(self, run: str) -> None:
        """Have the run asked for next time: what is remembered of it is out of date."""
        self._recent.pop(run, None)

    async def load(self, run: str) -> Version:
        """Return the version that stands at the stream's leader.

        Raises:
            BrokerError: it cannot be asked.
            UnreadableState: a newer engine has written it, or someone who should not.

        """
        message = await self._broker.last(self._stream, self._names.run_key(run))
        if message is None:
            self._recent.pop(run, None)
            return ABSENT
        try:
            state = decode_record(RunState, message.payload)
        except SerializationError as error:
            raise UnreadableState(f"the state of run {run} is {error}") from error
        return self._remember(run, Version(state, message.sequence))

    async def load_all(self, runs: Sequence[str]) -> list[Version | BrokerError]:
        """Return the versions of several runs, asking for those that are not remembered, all at a time."""
        return list(await asyncio.gather(*map(self._remembered_or_loaded, runs)))

    async def load_all_afresh(self, runs: Sequence[str]) -> list[Version | BrokerError]:
        """Return the versions of several runs that stand at the stream's leader, asking for all at a time."""
        return list(await asyncio.gather(*map(self._loaded, runs)))

    async def _remembered_or_loaded(self, run: str) -> Version | BrokerError:
        return self.remembered(run) or await self._loaded(run)

    async def _loaded(self, run: str) -> Version | BrokerError:
        try:
            return await self.load(run)
        except BrokerError as error:
            return error

    async def write_all(self, writes: Sequence[tuple[RunState, int]]) -> list[Version | BrokerError]:
        """Write states that follow the given revisions.

        Returns:
            For each the version that now stands where it is ours; WrongRevision where someone else wrote in
            between; another error where nothing is known to be written.

        """
        marked = [(msgspec.structs.replace(state, token=self._make_token()), revision) for state, revision in writes]
        answers = await self._broker.publish_all(
            [
                Publication(
                    subject=self._names.run_key(state.id), payload=encode_record(state), expected_revision=revision
                )
                for state, revision in marked
            ]
        )
        return [await self._settle(state, answer) for (state, _), answer in zip(marked, answers, strict=True)]

    async def _settle(self, state: RunState, answer: Stored | BrokerError) -> Version | BrokerError:
        if isinstance(answer, Stored):
            return self._remember(state.id, Version(state, answer.sequence))
        self._recent.pop(state.id, None)
        if not isinstance(answer, (Ambiguous, WrongRevision)):
            return answer
        # A write whose answer was lost, and which the adapter or we sent again, is refused by our own first one.
        try:
            standing = await self.load(state.id)
        except BrokerError as error:
            return error
        if standing.state is not None and standing.state.token == state.token:
            return standing
        return WrongRevision(str(answer))

    def _remember(self, run: str, version: Version) -> Version:
        if version.state is not None and version.state.status in TERMINAL:
            # Hardly anything happens to it any more.
            self._recent.pop(run, None)
            return version
        self._recent[run] = version
        self._recent.move_to_end(run)
        if len(self._recent) > _REMEMBERED_RUNS:
            self._recent.popitem(last=False)
        return version
