"""Storing messages: how they are encoded, and what JetStream's answers mean."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import random
import time
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from ironflow.broker.nats.batch_costs import BatchCosts
from ironflow.broker.nats.batches import batch_headers, new_batch_id, split, stream_of
from ironflow.broker.nats.pacer import Pacer
from ironflow.broker.nats.requester import Answer, Failure, Reply, Requester
from ironflow.broker.nats.wire import too_large
from ironflow.broker.protocol import (
    Ambiguous,
    BrokerError,
    MessageTooLarge,
    Publication,
    Schedule,
    StorageFull,
    Stored,
    SubjectTaken,
    Unavailable,
    WrongRevision,
)
from ironflow.names import digest

LONGEST_MESSAGE_ID = 256
LATEST_SCHEDULE_MS = 9_223_372_036_000
"""In the year 2262. The server takes what lies beyond for overdue and fires it at once."""
IN_FLIGHT_PAUSE_SECONDS = 0.001

SUBJECT_HOLDS_ONE = "maximum messages per subject exceeded"


class Again(enum.Enum):
    """Answers after which it is sure that nothing was stored, and that trying again may help."""

    IN_FLIGHT = "another write to the subject is under way"
    NO_RESPONDERS = "no stream takes the subject, or its leader is being elected"


class _ServerError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Acknowledgement(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _ServerError | None = None


_decode = msgspec.json.Decoder(_Acknowledgement).decode

_MEANINGS: dict[int, type[BrokerError] | Again] = {
    10002: StorageFull,  # resource limits exceeded for account
    10008: Again.NO_RESPONDERS,  # JetStream system temporarily unavailable
    10023: StorageFull,  # insufficient resources
    10028: StorageFull,  # insufficient memory resources available
    10047: StorageFull,  # insufficient storage resources available
    10054: MessageTooLarge,  # message size exceeds maximum allowed
    10071: WrongRevision,  # wrong last sequence: N
    10077: StorageFull,  # any text but SUBJECT_HOLDS_ONE
    10097: MessageTooLarge,  # header size exceeds maximum allowed of 64k
    10122: StorageFull,  # stream max bytes exceeds account limit max stream bytes
    10158: Again.IN_FLIGHT,  # duplicate message id is in process
    10163: Again.NO_RESPONDERS,  # expected last sequence per subject temporarily unavailable
    10164: Again.IN_FLIGHT,  # wrong last sequence (without a number)
    10167: Again.NO_RESPONDERS,  # too many requests
    10176: Ambiguous,  # atomic publish batch is incomplete
    10210: Ambiguous,  # too many atomic publish batches in flight
}

_REFUSED_BATCHES = (10176, 10210)
"""What single messages would call ambiguous. A batch that we sent once and whole is not stored."""


def judge(answer: Answer, subject: str) -> Stored | BrokerError | Again:
    """Return what an answer to a publish means."""
    if isinstance(answer, Failure):
        return answer.error(subject)
    if answer.headers and answer.no_responders:
        return Again.NO_RESPONDERS
    try:
        acknowledgement = _decode(answer.payload)
    except msgspec.DecodeError:
        return Ambiguous(f"not a JetStream acknowledgement: {answer.payload[:80]!r} ({subject})")
    if (error := acknowledgement.error) is None:
        return Stored(acknowledgement.seq, acknowledgement.duplicate)
    return judge_error(error.code, error.err_code, error.description, subject)


def judge_error(code: int, err_code: int, description: str, subject: str) -> BrokerError | Again:
    """Return what an error that JetStream answered means.

    Args:
        code: an HTTP-like class of errors.
        err_code: JetStream's own number of it.
        description: the text, which decides where one number stands for several errors.
        subject: for the message.

    """
    text = f"{description} ({subject}, error {err_code})"
    if err_code == 10077 and description == SUBJECT_HOLDS_ONE:  # noqa: PLR2004 - see the table
        return SubjectTaken(text)
    meaning = _MEANINGS.get(err_code)
    if isinstance(meaning, Again):
        return meaning
    if meaning is not None:
        return meaning(text)
    # A refused request changed nothing. After a failure inside of the server nobody knows.
    return BrokerError(text) if 400 <= code < 500 else Ambiguous(text)  # noqa: PLR2004 - as HTTP has it


def is_refused_batch(verdict: Ambiguous) -> bool:
    """Tell whether the server has refused to take a batch at all, so that surely none of it is stored."""
    return any(f"error {number})" in str(verdict) for number in _REFUSED_BATCHES)


def encode_headers(publication: Publication, more: str = "") -> bytes:
    """Return a publication's headers as they are sent, with *more* whole lines; nothing where it needs none."""
    message_id, revision, schedule = (
        publication.message_id,
        publication.expected_revision,
        publication.schedule,
    )
    if message_id is None and revision is None and schedule is None:
        return f"NATS/1.0\r\n{more}\r\n".encode() if more else b""
    lines = ["NATS/1.0"]
    if message_id is not None:
        lines.append(f"Nats-Msg-Id: {header_text(message_id)}")
    if revision is not None:
        lines.append(f"Nats-Expected-Last-Subject-Sequence: {revision}")
    if schedule is not None:
        lines.append(f"Nats-Schedule: {schedule_text(schedule)}")
        lines.append(f"Nats-Schedule-Target: {schedule.target}")
    lines.append(f"{more}\r\n")
    return "\r\n".join(lines).encode()


def header_text(text: str) -> str:
    """Return a header value for any text; different texts give different values."""
    # Anything else could end the header, or be trimmed until it equals another.
    if text.isascii() and text.isprintable() and " " not in text and 0 < len(text) <= LONGEST_MESSAGE_ID:
        return text
    # No space can be in a text that stays as it is.
    return f"sha256 {digest(text.encode('utf-8', 'surrogatepass'))}"


def schedule_text(schedule: Schedule) -> str:
    """Return when a schedule fires, in the server's notation; what was due before 1970 fires at once all the same."""
    seconds, milliseconds = divmod(max(0, min(schedule.at_ms, LATEST_SCHEDULE_MS)), 1000)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"@at {moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


class Publisher:
    """Stores messages through JetStream.

    Args:
        requester: carries the messages and their answers.
        pacer: paces what nobody answers.
        max_payload: tells how many bytes the connected server takes, headers included.
        answer_seconds: how long to wait for the answer to a message that was sent.
        patience_seconds: how long to keep trying where nothing can be stored for now.

    """

    def __init__(
        self,
        requester: Requester,
        pacer: Pacer,
        max_payload: Callable[[], int],
        *,
        answer_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._requester = requester
        self._pacer = pacer
        self._max_payload = max_payload
        self._answer_seconds = answer_seconds
        self._patience_seconds = patience_seconds
        self._loop = asyncio.get_running_loop()
        self._costs = BatchCosts()

    async def publish(self, publication: Publication) -> Stored:
        """Store a message; see :meth:`ironflow.broker.protocol.Broker.publish`."""
        began = self._loop.time()
        if not self._requester.is_connected:
            await self._requester.connected(self._patience_seconds)
        if not self._pacer.idle and self._pacer.is_out(stream_of(publication.subject)):
            verdict: Stored | BrokerError | Again = Again.NO_RESPONDERS
        else:
            sent = self._send(publication)
            verdict = sent if isinstance(sent, BrokerError) else self._verdict(await sent, publication.subject)
        if isinstance(verdict, Again):
            verdict = (await self._persist([publication], [verdict], began + self._patience_seconds))[0]
        if isinstance(verdict, Stored):
            return verdict
        raise verdict

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        """Store messages, all in flight at a time; see :meth:`ironflow.broker.protocol.Broker.publish_all`.

        Many messages of one stream go out as an atomic batch. A batch that is refused, because one of its
        messages is, goes out again message by message.
        Those on one subject should not depend on their order: one that has to be sent again is sent later.
        """
        if len(publications) == 1:
            return [await self._alone(publications[0])]
        # What goes nowhere for now would be sent again message by message, so it is not tried together.
        smallest = self._costs.next_smallest_batch() if self._pacer.idle else len(publications) + 1
        batches, singles = split(publications, smallest)
        if not batches:
            return await self._singly(publications)
        try:
            await self._requester.connected(self._patience_seconds)
        except Unavailable as error:
            return [error] * len(publications)
        verdicts: dict[int, Stored | BrokerError] = {}
        began = time.perf_counter()  # uvloop's own clock stands still for a millisecond at a time
        sent = [(batch, self._send_batch([publications[place] for place in batch.places])) for batch in batches]
        for batch, future in sent:
            answer = None if future is None else self._verdict(await future, publications[batch.places[-1]].subject)
            if isinstance(answer, Stored):
                self._costs.note_batch(len(batch.places), (time.perf_counter() - began) / len(batches))
                # The messages of a batch stand one behind the other.
                first = answer.sequence - len(batch.places) + 1
                verdicts |= {place: Stored(first + index) for index, place in enumerate(batch.places)}
            elif isinstance(answer, Ambiguous) and not is_refused_batch(answer):
                verdicts |= dict.fromkeys(batch.places, answer)
            else:
                singles += batch.places
        singles.sort()
        answers = await self._singly([publications[place] for place in singles]) if singles else []
        verdicts |= zip(singles, answers, strict=True)
        return [verdicts[place] for place in range(len(publications))]

    async def _alone(self, publication: Publication) -> Stored | BrokerError:
        try:
            return await self.publish(publication)
        except BrokerError as error:
            return error

    def _send_batch(self, publications: Sequence[Publication]) -> asyncio.Future[Answer] | None:
        """Send a batch and return its acknowledgement to come; None where a message is too large for the server."""
        for publication in publications:
            check_subject(publication.subject)
        batch_id, size, limit = new_batch_id(), len(publications), self._max_payload()
        messages = [
            (each.subject, encode_headers(each, batch_headers(batch_id, position, size)), each.payload)
            for position, each in enumerate(publications, 1)
        ]
        if any(len(headers) + len(payload) > limit for _, headers, payload in messages):
            return None
        *before, (subject, headers, payload) = messages
        self._requester.post_all(before)
        return self._requester.send(subject, payload, self._answer_seconds, headers)

    async def _singly(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        deadline = self._loop.time() + self._patience_seconds
        try:
            await self._requester.connected(self._patience_seconds)
        except Unavailable as error:
            return [error] * len(publications)
        verdicts = await self._first_round(publications)
        return await self._persist(publications, verdicts, deadline)

    async def _persist(
        self,
        publications: Sequence[Publication],
        verdicts: list[Stored | BrokerError | Again],
        deadline: float,
    ) -> list[Stored | BrokerError]:
        """Send those again that may yet be stored, until the deadline; return the final verdicts."""
        places: dict[str, list[int]] = {}
        for index, verdict in enumerate(verdicts):
            if isinstance(verdict, Again):
                places.setdefault(stream_of(publications[index].subject), []).append(index)
        if not places:
            return cast("list[Stored | BrokerError]", verdicts)
        # A stream without a leader does not hold up the others.
        await asyncio.gather(*(self._persist_at(*each, publications, verdicts, deadline) for each in places.items()))
        closed = "the connection to NATS was closed" if self._requester.closed else None
        return [
            Unavailable(f"{closed or verdict.value} ({publication.subject})") if isinstance(verdict, Again) else verdict
            for publication, verdict in zip(publications, verdicts, strict=True)
        ]

    async def _persist_at(
        self,
        place: str,
        left: list[int],
        publications: Sequence[Publication],
        verdicts: list[Stored | BrokerError | Again],
        deadline: float,
    ) -> None:
        """Send those of one stream again; while nobody answers there, one at a time, and more with each answer."""
        width = 1
        while left and await self._may_go_on(place, reasons := [verdicts[index] for index in left], deadline):
            part = left[:width] if Again.NO_RESPONDERS in reasons else left
            answers = await self._round([publications[index] for index in part])
            for index, verdict in zip(part, answers, strict=True):
                verdicts[index] = verdict
            width = 1 if Again.NO_RESPONDERS in answers else 2 * width
            left = [index for index in left if isinstance(verdicts[index], Again)]

    async def _may_go_on(self, place: str, reasons: Sequence[object], deadline: float) -> bool:
        """Wait until messages may be sent again; tell whether that is in time."""
        if Again.NO_RESPONDERS not in reasons:
            await asyncio.sleep(IN_FLIGHT_PAUSE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - hides nothing
        elif not await self._pacer.turn(place, deadline):
            return False
        try:
            await self._requester.connected(deadline - self._loop.time())
        except Unavailable:
            return False
        return self._loop.time() < deadline

    async def _round(self, publications: Sequence[Publication]) -> list[Stored | BrokerError | Again]:
        """Send all, then collect all answers."""
        began = time.perf_counter()
        sent = [self._send(publication) for publication in publications]
        answers = [
            future if isinstance(future, BrokerError) else self._verdict(await future, publication.subject)
            for publication, future in zip(publications, sent, strict=True)
        ]
        if all(isinstance(answer, Stored) for answer in answers):
            self._costs.note_singles(len(answers), time.perf_counter() - began)
        return answers

    async def _first_round(self, publications: Sequence[Publication]) -> list[Stored | BrokerError | Again]:
        """Send those that are not known to go nowhere, then collect all answers."""
        if self._pacer.idle:
            return await self._round(publications)
        verdicts: list[Stored | BrokerError | Again] = [Again.NO_RESPONDERS] * len(publications)
        taken = [
            index
            for index, publication in enumerate(publications)
            if not self._pacer.is_out(stream_of(publication.subject))
        ]
        for index, verdict in zip(taken, await self._round([publications[index] for index in taken]), strict=True):
            verdicts[index] = verdict
        return verdicts

    def _verdict(self, answer: Answer, subject: str) -> Stored | BrokerError | Again:
        """Return what an answer means, and have the others that wait for one learn of it."""
        verdict = judge(answer, subject)
        if verdict is Again.NO_RESPONDERS:
            self._pacer.in_vain(stream_of(subject))
        elif not self._pacer.idle and isinstance(answer, Reply):
            self._pacer.heard(stream_of(subject))
        return verdict

    def _send(self, publication: Publication) -> asyncio.Future[Answer] | BrokerError:
        subject = publication.subject
        check_subject(subject)
        headers = encode_headers(publication)
        size = len(headers) + len(publication.payload)
        if size > (limit := self._max_payload()):
            return too_large(size, limit, subject)
        return self._requester.send(subject, publication.payload, self._answer_seconds, headers)


def check_subject(subject: str) -> None:
    """Refuse what would end the line that carries it.

    Raises:
        ValueError: it is not a subject; that is a mistake of ours, since ids are escaped long before.

    """
    if " " in subject or not subject.isprintable():
        message = f"{subject!r} is not a NATS subject"
        raise ValueError(message)
