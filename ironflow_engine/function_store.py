"""The registered functions: written on a worker's request, read before events are matched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from ironflow.broker.protocol import Ambiguous, Broker, Publication, StoredMessage
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.names import Names, bucket_stream
from ironflow.records import FunctionRecord
from ironflow_engine.matcher import Matcher

_log = get_logger("ironflow.engine")

_TRIES = 5
_PAUSE_SECONDS = 0.05


class FunctionStore:
    """The function definitions of one namespace.

    Args:
        broker: the connection.
        names: the namespace.
        make_token: returns a new random mark.

    """

    def __init__(self, broker: Broker, names: Names, make_token: Callable[[], str]) -> None:
        self._broker = broker
        self._names = names
        self._stream = bucket_stream(names.functions_bucket)
        self._make_token = make_token
        self._known: dict[str, FunctionRecord] = {}
        self._read_up_to = 0
        self._bucket = ""
        self._matcher = Matcher(())
        self._lock = asyncio.Lock()

    @property
    def last(self) -> Matcher:
        """A matcher over the functions as they were when they were last asked for."""
        return self._matcher

    async def current(self) -> Matcher:
        """Return a matcher over the functions as they are now.

        It costs one question to the bucket's leader, so that a function that was just registered misses
        nothing; the definitions are read only where one has changed.
        """
        async with self._lock:
            state = await self._broker.stream_state(self._stream)
            newest = state.last_sequence
            if newest < self._read_up_to or state.created != self._bucket:  # the bucket was made anew
                self._known, self._read_up_to = {}, 0
                self._bucket = state.created
                self._matcher = Matcher(())
            if newest > self._read_up_to:
                await self._read_changes()
            return self._matcher

    async def put(self, function: FunctionRecord) -> bool:
        """Store a definition; return whether it differs from what was there."""
        matcher = await self.current()
        if _definition(matcher.functions.get(function.id)) == _definition(function):
            return False
        await self._write(function)
        return True

    async def delete(self, function_id: str) -> bool:
        """End a function; return whether there was one."""
        matcher = await self.current()
        known = matcher.functions.get(function_id)
        if known is None:
            return False
        await self._write(msgspec.structs.replace(known, deleted=True))
        return True

    async def _read_changes(self) -> None:
        try:
            async for page in self._broker.read(
                self._stream, f"$KV.{self._names.functions_bucket}.>", self._read_up_to
            ):
                for message in page:
                    self._read(message)
                    self._read_up_to = max(self._read_up_to, message.sequence)
        finally:  # what was read is not read again
            self._matcher = Matcher(self._known.values())

    def _read(self, message: StoredMessage) -> None:
        try:
            function = decode_record(FunctionRecord, message.payload)
        except SerializationError as error:
            # Of a newer engine, or of someone who should not write here. The other functions go on.
            _log.error("unreadable function left out", subject=message.subject, reason=str(error))
        else:
            self._known[function.id] = function

    async def _write(self, function: FunctionRecord) -> None:
        """Store a definition; a write whose answer was lost is written again, which changes nothing."""
        marked = msgspec.structs.replace(function, token=self._make_token())
        publication = Publication(subject=self._names.function_key(function.id), payload=encode_record(marked))
        for remaining in reversed(range(_TRIES)):
            try:
                await self._broker.publish(publication)
            except Ambiguous:
                if not remaining:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return


def queues_of(functions: Sequence[FunctionRecord]) -> list[str]:
    """Return the queues that these functions run on, sorted."""
    return sorted({function.queue for function in functions})


def _definition(function: FunctionRecord | None) -> FunctionRecord | None:
    return None if function is None else msgspec.structs.replace(function, token="")
