"""Appends facts to the journal, where the first writer of a subject wins.

A refusal or a lost answer has three meanings: the record that stands there is ours, it is another's, or there
is none. The random token that every record carries tells them apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Publication, Stored, SubjectTaken
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.group_commit import GroupCommit
from ironflow.names import Names

R = TypeVar("R", bound=msgspec.Struct)

_TRIES = 5
_PAUSE_SECONDS = 0.05


class Appended(msgspec.Struct, frozen=True):
    """What stands in the journal now.

    Attributes:
        payload: the record's bytes: ours, or those of whoever was first.
        sequence: where it stands.
        ours: whether we wrote it.

    """

    payload: bytes
    sequence: int
    ours: bool


class _Marked(msgspec.Struct):
    token: str


class Journal:
    """The journal of one namespace.

    Args:
        broker: the connection to write on.
        names: the namespace.
        observe_commit: gets how many records are sent together.

    """

    def __init__(self, broker: Broker, names: Names, observe_commit: Callable[[int], object] = bool) -> None:
        self._broker = broker
        self._commits = GroupCommit(broker, observe_commit)
        self._names = names

    def until_few_wait(self) -> Coroutine[Any, Any, None]:
        """Wait, in turn, until few records wait to be sent: for what has yet to begin, and will have records."""
        return self._commits.until_few_wait()

    async def append(self, subject: str, record: msgspec.Struct) -> Appended:
        """Record a fact, or learn which one was recorded before.

        Args:
            subject: the fact's own subject.
            record: the fact; has a ``token``.

        Raises:
            BrokerError: it is not recorded, or after several tries that is still not known.

        """
        payload = encode_record(record)
        publication = Publication(subject=subject, payload=payload)
        for _ in range(_TRIES):
            try:
                stored = await self._commits.publish(publication)
            except (SubjectTaken, Ambiguous):
                standing = await self._standing(subject, payload)
                if standing is not None:
                    return standing
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return Appended(payload, stored.sequence, ours=True)
        msg = f"could not find out whether {subject} is recorded"
        raise Ambiguous(msg)

    async def ensure(self, subject: str, record: msgspec.Struct) -> None:
        """Record a fact that others may be recording too; which of them is first does not matter.

        Args:
            subject: the fact's own subject.
            record: the fact; has a ``token``.

        Raises:
            BrokerError: nothing is recorded, or after several tries that is still not known.

        """
        try:
            await self._commits.publish(Publication(subject=subject, payload=encode_record(record)))
        except SubjectTaken:
            return
        except Ambiguous:
            await self.append(subject, record)

    async def append_all(self, records: Sequence[tuple[str, msgspec.Struct]]) -> list[Appended | BrokerError]:
        """Record facts of several subjects together; return what stands for each, or why that is not known."""
        payloads = [encode_record(record) for _, record in records]
        answers = await self._broker.publish_all(
            [
                Publication(subject=subject, payload=payload)
                for (subject, _), payload in zip(records, payloads, strict=True)
            ]
        )
        return [
            Appended(payload, answer.sequence, ours=True)
            if isinstance(answer, Stored)
            else await self._settle(subject, record, answer)
            for (subject, record), payload, answer in zip(records, payloads, answers, strict=True)
        ]

    async def _settle(self, subject: str, record: msgspec.Struct, answer: BrokerError) -> Appended | BrokerError:
        if not isinstance(answer, (SubjectTaken, Ambiguous)):
            return answer
        try:
            if isinstance(answer, SubjectTaken):
                standing = await self._standing(subject, encode_record(record))
                if standing is not None:
                    return standing
            # Writing again is refused by whatever stands there, ours included.
            return await self.append(subject, record)
        except BrokerError as error:
            return error

    async def _standing(self, subject: str, payload: bytes) -> Appended | None:
        message = await self._broker.last(self._names.shard_behind(subject).journal, subject)
        if message is None:
            return None
        try:
            mark = decode_record(_Marked, message.payload).token
        except SerializationError:
            return Appended(message.payload, message.sequence, ours=False)  # ours have one
        return Appended(message.payload, message.sequence, ours=mark == decode_record(_Marked, payload).token)
