"""Requests to JetStream's JSON API, with what its errors mean and the patience that they need."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ironflow.broker.nats.pacer import Pacer
from ironflow.broker.nats.requester import Requester
from ironflow.broker.nats.settings import API_PREFIX
from ironflow.broker.protocol import BrokerError, NoSuchStream, StorageFull, Unavailable

T = TypeVar("T", bound=msgspec.Struct)

NO_SUCH = frozenset({10014, 10059})
"""Consumer not found, stream not found."""
NOT_NOW = frozenset({10004, 10008, 10009, 10118, 10119, 10167})
"""No leader, not this server, offline, too many requests: it may work in a moment."""
FULL = frozenset({10002, 10023, 10028, 10047})


class ApiError(BrokerError):
    """JetStream refused a request; nothing was changed.

    Attributes:
        err_code: JetStream's number of the error.
        description: its text.

    """

    def __init__(self, verb: str, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({verb}, error {err_code})")
        self.err_code = err_code
        self.description = description


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Response(msgspec.Struct):
    error: _Error | None = None


class Api:
    """Asks JetStream's API. Everything asked through it may be asked twice.

    Args:
        requester: carries requests and answers.
        pacer: paces what nobody answers.
        answer_seconds: how long to wait for one answer.
        patience_seconds: how long to keep asking while there is none.
        prefix: what all of its subjects start with.

    Attributes:
        pacer: as above.

    """

    def __init__(
        self,
        requester: Requester,
        pacer: Pacer,
        *,
        answer_seconds: float,
        patience_seconds: float,
        prefix: str = API_PREFIX,
    ) -> None:
        self.pacer = pacer
        self._requester = requester
        self._prefix = prefix
        self._answer_seconds = answer_seconds
        self._patience_seconds = patience_seconds

    def subject(self, verb: str) -> str:
        """Return the subject of a request."""
        return f"{self._prefix}.{verb}"

    async def call(self, verb: str, request: object, answer: type[T]) -> T:
        """Send a request and return its decoded answer.

        Args:
            verb: the subject after the prefix.
            request: what to send as JSON; None for nothing.
            answer: what to decode; fields that it does not name are ignored.

        Raises:
            NoSuchStream: the stream or consumer does not exist.
            Unavailable: nobody answered in time.
            StorageFull: the server has no room.
            Denied: the account's permissions do not allow it.
            ApiError: refused for another reason.

        """
        payload = b"" if request is None else msgspec.json.encode(request)
        return await self.pacer.persist(
            verb,
            lambda seconds: self.once(verb, payload, answer, seconds),
            answer_seconds=self._answer_seconds,
            patience_seconds=self._patience_seconds,
            is_closed=lambda: self._requester.closed,
        )

    async def once(self, verb: str, payload: bytes, answer: type[T], timeout_seconds: float) -> T:
        """Send a request a single time and return its decoded answer; see :meth:`call`.

        Raises:
            Ambiguous: it was sent and no answer came.

        """
        reply = await self._requester.ask(self.subject(verb), payload, timeout_seconds)
        if (error := msgspec.json.decode(reply.payload, type=_Response).error) is None:
            return msgspec.json.decode(reply.payload, type=answer)
        if error.err_code in NO_SUCH:
            message = f"{error.description} ({verb})"
            raise NoSuchStream(message)
        if error.err_code in NOT_NOW:
            message = f"{error.description} ({verb})"
            raise Unavailable(message)
        if error.err_code in FULL:
            message = f"{error.description} ({verb})"
            raise StorageFull(message)
        raise ApiError(verb, error.err_code, error.description)
