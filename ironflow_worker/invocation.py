"""What a call of ``step.invoke`` or ``step.invoke_async`` asks for, and what it returns: pure."""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.codec import decode_value, encode_value
from ironflow.durations import Duration, parse_duration
from ironflow.errors import DefinitionError, InvokeError, InvokeTimeoutError, LimitError
from ironflow.function import check_function_id
from ironflow.invocable import Invocable
from ironflow.limits import Limits, check_payload
from ironflow.names import detached_event_id, invoke_event_id, run_id
from ironflow.records import EventRecord, StepRecord, WaitRecord
from ironflow.triggers import INVOKED
from ironflow_worker.failures import raise_at, raise_recorded


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """A checked call.

    Attributes:
        function: the id of the function.
        output_type: what its output is decoded into.
        timeout_ms: how long to wait for its end; None for ever.

    """

    function: str
    output_type: Any = Any
    timeout_ms: int | None = None

    def child(self, run: str, key: str, wait: WaitRecord | None) -> str:
        """Return the id of the run that a step waits for.

        Args:
            run: the run of the step.
            key: the step's key.
            wait: what is recorded of it, by code that may have named another function.

        """
        return run_id(self.function if wait is None else wait.function, invoke_event_id(run, key))

    def result(self, record: StepRecord, child: str, sequence: int) -> Any:
        """Return or raise what is recorded of the child's end.

        Args:
            record: the step's result.
            child: the child's id.
            sequence: where the result stands in the journal.

        Raises:
            InvokeError: the child failed or was cancelled.
            InvokeTimeoutError: it did not end in time.
            SerializationError: its output does not decode.

        """
        if record.status == "completed":
            return decode_value(record.output, self.output_type, f"output of {record.name!r}")
        error = record.error
        if error is not None and error.type == InvokeTimeoutError.__name__:
            raise_at(InvokeTimeoutError(child, error.cause or "", error.message), sequence)
        if error is not None and error.type == InvokeError.__name__:
            raise_at(InvokeError(child, error.cause or "", error.message), sequence)
        return raise_recorded(record, sequence)


def invocation(function: object, call: str, timeout: Duration | None = None) -> Invocation:
    """Check a call.

    Args:
        function: what is to be invoked.
        call: the name of the method, for messages.
        timeout: how long to wait for its end.

    Raises:
        DefinitionError: it is no function and no function's id, or the timeout is none.
        LimitError: the timeout is too long.

    """
    timeout_ms = None if timeout is None else parse_duration(timeout, "timeout")
    if isinstance(function, Invocable):
        return Invocation(function=function.id, output_type=function.output_type, timeout_ms=timeout_ms)
    if not isinstance(function, str):
        msg = f"{call} takes an ironflow function or its id, got {function!r}"
        raise DefinitionError(msg)
    return Invocation(function=check_function_id(function), timeout_ms=timeout_ms)


def given_data(wanted: Invocation, data: object, depth: int, limits: Limits) -> msgspec.Raw:
    """Return the JSON of what a child is given.

    Args:
        wanted: the call.
        data: what it is given.
        depth: how many runs stand above the one that calls.
        limits: bounds both.

    Raises:
        LimitError: the child would stand too deep.
        DefinitionError: it is given a function, which was to be invoked itself.
        SerializationError: JSON cannot carry the data.
        PayloadTooLargeError: it is too large.

    """
    if depth >= limits.child_depth:
        msg = (
            f"{wanted.function!r} is not invoked: at most {limits.child_depth} runs may stand above one, each started "
            f"by the one before, and {depth} stand above this one; does it invoke itself without end?"
        )
        raise LimitError(msg)
    if isinstance(data, Invocable):  # what comes first elsewhere is the step's name
        msg = (
            f"the function to invoke comes before its data, and a name for the step is given as name=…; got "
            f"{wanted.function!r} as the function, and the function {data.id!r} as its data"
        )
        raise DefinitionError(msg)
    encoded = encode_value(data, "data")
    check_payload(bytes(encoded), f"data for {wanted.function!r}", limits.payload_bytes)
    return encoded


def detached_event(wanted: Invocation, data: msgspec.Raw, run: str, key: str, depth: int, time: str) -> EventRecord:
    """Return the event that starts a run which nobody waits for.

    Args:
        wanted: the call.
        data: what the run is given.
        run: the run that calls.
        key: the key of its step.
        depth: how many runs stand above that run.
        time: when it is published, ISO 8601.

    """
    return EventRecord(
        id=detached_event_id(run, key),
        name=INVOKED,
        time=time,
        data=data,
        source=f"run/{run}",
        target=wanted.function,
        depth=depth + 1,
    )
