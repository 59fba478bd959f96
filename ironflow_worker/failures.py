"""What an exception means for a step, a pass and a run: pure."""

from __future__ import annotations

from typing import NoReturn, cast

from ironflow.errors import (
    EngineUnavailableError,
    InvokeError,
    IronflowError,
    NondeterminismError,
    NonRetryableError,
    PayloadTooLargeError,
    PublishError,
    RetryAfter,
    SerializationError,
    StepError,
    StepTimeoutError,
    WaitTimeoutError,
)
from ironflow.names import step_path
from ironflow.records import ErrorRecord, StepRecord
from ironflow.retry import RetryPolicy
from ironflow_worker.retry_after import asked_delay_ms, why_unusable
from ironflow_worker.signals import BodyFailure, leaves

_LONGEST_MESSAGE = 8_192
_LONGEST_TYPE = 256
_DEEPEST_SHOWN = 20
"""How many levels of groups within groups a message tells of."""
_DEEPEST_SEARCHED = 100
"""How many levels of groups within groups are searched for a failed step; Python's stack ends at about 1,000 calls."""

_RAISED_AS_THEMSELVES: dict[str, type[IronflowError]] = {
    "SerializationError": SerializationError,
    "PayloadTooLargeError": PayloadTooLargeError,
}
"""Recorded failures that are raised again by their own class. No class is ever looked up anywhere else."""


def error_record(error: BaseException, *, step: str | None = None, attempts: int | None = None) -> ErrorRecord:
    """Return an exception as data. Exceptions whose text cannot be made, or is huge, are recorded all the same."""
    error = raised(error)
    message = _storable(_text(error), _LONGEST_MESSAGE)
    # Users may raise our errors too, with whatever arguments, and a record that cannot be read stops its run.
    if isinstance(error, StepError):
        of_step, made = getattr(error, "step", step), getattr(error, "attempts", attempts)
        return ErrorRecord(
            type="StepError",
            message=message,
            step=None if of_step is None else _storable(str(of_step), _LONGEST_MESSAGE),
            attempts=made if type(made) is int else attempts,
        )
    path = getattr(error, "path", None) if isinstance(error, SerializationError) else None
    cause = getattr(error, "cause_type", None) if isinstance(error, InvokeError) else None
    return ErrorRecord(
        type=_storable(_type_name(error), _LONGEST_TYPE),
        message=message,
        step=step,
        attempts=attempts,
        path=_storable(path, _LONGEST_MESSAGE) if isinstance(path, str) else None,
        cause=_storable(cause, _LONGEST_TYPE) if isinstance(cause, str) else None,
    )


def raised(error: BaseException) -> BaseException:
    """Return what was raised in a body, where that is wrapped."""
    return error.raised if isinstance(error, BodyFailure) else error


def _storable(text: str, longest: int) -> str:
    # Lone surrogates have no UTF-8 form.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= longest else text[:longest] + "…"


def _type_name(error: BaseException) -> str:
    name = type(error).__name__
    own = _RAISED_AS_THEMSELVES.get(name)
    # Other libraries have a SerializationError too, and theirs must not come back as ours.
    return name if own is None or isinstance(error, own) else f"{type(error).__module__}.{name}"


def _text(error: BaseException, depth: int = 0) -> str:
    try:
        text = str(error)
    except Exception as unprintable:  # noqa: BLE001 - an exception of a user may fail in its own __str__
        text = f"(its text cannot be shown: {type(unprintable).__name__})"
    if isinstance(error, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if depth == _DEEPEST_SHOWN:
            return f"{text}: …"
        text += ": " + "; ".join(f"{type(part).__name__}: {_text(part, depth + 1)}" for part in parts)
    return text


def delay_after(error: BaseException, policy: RetryPolicy, attempt: int, chance: float, now_ms: int) -> int | None:
    """Return after how many milliseconds a failed attempt is made again; None where it is final.

    A ``RetryAfter`` whose delay is not usable is retried by the policy: what a service has answered, and nobody tries
    before it is down, must not make a failure final.

    Args:
        error: what the attempt failed with.
        policy: the step's retry policy.
        attempt: the number of the attempt, from 1.
        chance: a random number in [0, 1).
        now_ms: what the clock says.

    """
    if is_final(error):
        return None
    planned = policy.delay_ms(attempt, chance)
    if planned is None or not isinstance(error, RetryAfter) or why_unusable(error.delay, now_ms) is not None:
        return planned
    return asked_delay_ms(error.delay, now_ms)


def is_final(error: BaseException) -> bool:
    """Tell whether trying again is pointless: the user said so, or our own API refused what it was given.

    A group, as a TaskGroup raises it, is final where a part of it is.
    """
    if isinstance(error, BodyFailure):
        return is_final(error.raised)
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_final, leaves(cast("BaseException", error))))
    # Not reaching NATS or an engine is no refusal, and may be over soon.
    if isinstance(error, PublishError):
        return not error.retryable
    if isinstance(error, (RetryAfter, StepTimeoutError, EngineUnavailableError)):
        return False
    return isinstance(error, (NonRetryableError, IronflowError))


def is_parked(error: BaseException) -> bool:
    """Tell whether a run does not fit its code any more, so that it stands still until the code is right."""
    return any(isinstance(part, NondeterminismError) for part in leaves(error))


_RECORDED_AT = "_ironflow_recorded_at"


def raise_recorded(record: StepRecord, sequence: int) -> NoReturn:
    """Raise the failure that is recorded of a step, the same on the first pass and on every replay.

    Args:
        record: the step's result.
        sequence: where it stands in the journal.

    Raises:
        StepError: the body failed.
        SerializationError, PayloadTooLargeError: its result could not be recorded.
        WaitTimeoutError: the event that it waits for did not come in time.

    """
    raise_at(_recorded_failure(record), sequence)


def raise_at(failure: IronflowError, sequence: int) -> NoReturn:
    """Raise a failure that is recorded, and note on it where."""
    setattr(failure, _RECORDED_AT, sequence)
    try:
        raise failure
    finally:
        del failure  # its traceback leads here, and from here to all that the pass knows


def recorded_at(error: BaseException) -> int | None:
    """Return where the failed step behind an exception stands in the journal; None where there is none.

    The exception may be the step's own, or have been raised because of it, or be a group with such parts.
    """
    return _recorded_at(error, set(), 0)


def _recorded_at(error: BaseException, seen: set[int], depth: int) -> int | None:
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        own: int | None = getattr(link, _RECORDED_AT, None)
        if own is not None:
            return own
        if isinstance(link, BaseExceptionGroup) and depth < _DEEPEST_SEARCHED:
            parts = cast("BaseExceptionGroup[BaseException]", link).exceptions
            # A part that was raised while its group was handled has the group as its context.
            places = [_recorded_at(part, seen, depth + 1) for part in parts]
            found = [place for place in places if place is not None]
            if found:
                return min(found)
        link = link.__cause__ or link.__context__
    return None


def _recorded_failure(record: StepRecord) -> IronflowError:
    error = record.error or ErrorRecord(type="Unknown", message="no reason recorded")
    # What a body raises by that name is its failure like any other.
    if record.kind == "wait_for_event" and error.type == WaitTimeoutError.__name__:
        return WaitTimeoutError(error.message)
    own = _RAISED_AS_THEMSELVES.get(error.type)
    if own is SerializationError:
        return SerializationError(error.message, error.path)
    if own is not None:
        return own(error.message)
    path = step_path(record.scope, record.name)
    return StepError(record.name, record.attempt, error.type, error.message, path=path)
