"""Answers requests to the engine. Any engine answers any request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from ironflow.broker.protocol import Broker, BrokerError, MessageTooLarge, Request, Subscription
from ironflow.codec import decode_record, encode_record
from ironflow.errors import DefinitionError, LimitError, RunNotFoundError, SerializationError
from ironflow.logs import get_logger
from ironflow.messages import Failure, Message, Reply
from ironflow.names import Names
from ironflow_engine.read_model import StillReading

_log = get_logger("ironflow.engine")

Q = TypeVar("Q", bound=msgspec.Struct)


class Verb(msgspec.Struct, frozen=True):
    """One kind of request: what it takes, and what answers it."""

    request: type[msgspec.Struct]
    answer: Callable[[Any], Awaitable[Message | msgspec.Raw]]


def verb(request: type[Q], answer: Callable[[Q], Awaitable[Message | msgspec.Raw]]) -> Verb:
    """Return a verb whose request and answer fit together."""
    return Verb(request, answer)


class Service:
    """Listens for requests and answers each in a task of its own.

    Args:
        broker: the connection.
        names: the namespace.
        verbs: what is answered, by the last parts of the subject.

    """

    def __init__(self, broker: Broker, names: Names, verbs: Mapping[str, Verb]) -> None:
        self._broker = broker
        self._prefix = names.api("")
        self._verbs = verbs
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to answer; engines share the requests among them."""
        self._subscription = await self._broker.listen(f"{self._prefix}>", self._accept, group="engine")

    async def stop(self) -> None:
        """Accept no more, and finish what was accepted."""
        if self._subscription is not None:
            await self._subscription.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, request: Request) -> None:
        task = asyncio.create_task(self._respond(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, request: Request) -> None:
        answer = encode_record(await self._answer(request))
        try:
            request.respond(answer)
        except MessageTooLarge as error:
            name = self._verb_of(request)
            _log.error("an answer is too large for the server", verb=name, reason=str(error))
            request.respond(encode_record(_refuse("Internal", f"the answer to {name!r} is too large: {error}")))

    def _verb_of(self, request: Request) -> str:
        return request.subject.removeprefix(self._prefix)

    async def _answer(self, request: Request) -> Reply:
        name = self._verb_of(request)
        known = self._verbs.get(name)
        if known is None:
            return _refuse("BadRequest", f"this engine does not know {name!r}; is it older than the one who asks?")
        try:
            result = await known.answer(decode_record(known.request, request.payload or b"{}"))
        except RunNotFoundError as error:
            return _refuse("RunNotFound", str(error))
        except (DefinitionError, LimitError, SerializationError) as error:
            return _refuse("BadRequest", str(error))
        except BrokerError as error:
            why = "has no lists yet" if isinstance(error, StillReading) else "cannot reach its data"
            return _refuse("Unavailable", f"the engine {why}: {error}")
        except Exception as error:  # noqa: BLE001 - the engine outlives it, and its asker is told
            _log.exception("request failed", verb=name)
            return _refuse("Internal", f"the engine failed to answer {name!r}: {type(error).__name__}")
        return Reply(result=result if isinstance(result, msgspec.Raw) else msgspec.Raw(encode_record(result)))


def _refuse(kind: Literal["RunNotFound", "BadRequest", "Unavailable", "Internal"], message: str) -> Reply:
    return Reply(failure=Failure(type=kind, message=message))
