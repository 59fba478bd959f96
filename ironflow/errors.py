"""Every error that Ironflow raises on purpose.

IronflowError
├── DefinitionError (also ValueError)   a function, trigger, retry or name that is not allowed
├── DuplicateStepError                  one step name used twice in one pass
├── NondeterminismError                 a recorded step is asked for as another kind of step
├── SerializationError                  a value that JSON cannot carry, or does not decode
├── LimitError (also ValueError)        over one of the documented limits
│   └── PayloadTooLargeError
├── NonRetryableError                   raised by users: do not try this again
├── RetryAfter                          raised by users: try again after this delay
├── StepError                           a step failed for good
├── StepTimeoutError (also TimeoutError)
├── WaitTimeoutError (also TimeoutError)
├── InvokeError                         a child run failed
│   └── InvokeTimeoutError
├── RunTimeoutError (also TimeoutError)
├── RunNotFoundError
├── RunFailedError
├── RunCancelledError
├── PublishError                        JetStream did not acknowledge
└── EngineUnavailableError              NATS or the engine does not answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


def named_error(name: str, text: str) -> str:
    """Return an error as one line: the name of its class, and what it says where it says anything."""
    return f"{name}: {text}" if text else name


class IronflowError(Exception):
    """Base of all errors that Ironflow raises on purpose."""


class DefinitionError(IronflowError, ValueError):
    """A definition is wrong: an id, a queue, a trigger, a retry policy, a handler."""


class DuplicateStepError(IronflowError):
    """One step name was used twice in the same scope of one pass. Not retried."""


class NondeterminismError(IronflowError):
    """The code does not fit what is recorded of its run. Not retried; nothing is overwritten.

    It asks for a recorded step as another kind of step, say, or cannot read the result that one has.
    """


class SerializationError(IronflowError):
    """A value cannot be carried as JSON, or JSON does not decode to the declared type. Not retried.

    Attributes:
        path: the place of the value that does not fit ("data.items[0].price"), where it is known.

    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class LimitError(IronflowError, ValueError):
    """A documented limit was exceeded; nothing was stored."""


class PayloadTooLargeError(LimitError):
    """An event, a step result or an output is larger than allowed; nothing was stored."""


class NonRetryableError(IronflowError):
    """Raise it in a step body or a handler: the failure is final and is not tried again."""


class RetryAfter(IronflowError):  # noqa: N818 - an instruction rather than a failure; the name is public API
    """Raise it in a step body: try again after *delay* instead of the policy's backoff.

    Args:
        delay: a duration ("30s", seconds or timedelta), or what a ``Retry-After`` header says: seconds as a text, or a
            date. With what is none of them, or is over already, the policy's backoff holds, and the log says so. It
            counts as an attempt.
        message: why; shown as the attempt's error.

    """

    def __init__(self, delay: str | float | timedelta, message: str = "") -> None:
        super().__init__(message or f"retry after {delay}")
        self.delay = delay


class StepError(IronflowError):
    """A step failed for good: after its last attempt, or on an error that is not retried.

    Attributes:
        step: the step's name.
        attempts: how many times the body was started and recorded.
        cause_type: the type name of the body's last error.
        message: the text of the body's last error.

    """

    def __init__(self, step: str, attempts: int, cause_type: str, message: str, *, path: str = "") -> None:
        # In a branch of a parallel or map the name alone does not say which step it was.
        super().__init__(
            f"step {path or step!r} failed after {attempts} attempt(s): {named_error(cause_type, message)}"
        )
        self.step = step
        self.attempts = attempts
        self.cause_type = cause_type
        self.message = message


class StepTimeoutError(IronflowError, TimeoutError):
    """A step body took longer than its *timeout*. Retried like any other failure."""


class WaitTimeoutError(IronflowError, TimeoutError):
    """No matching event came in time."""


class InvokeError(IronflowError):
    """A child run failed, or was cancelled.

    Attributes:
        run_id: the child's run id.
        cause_type: the type name of the child's error.
        message: the text of the child's error.

    """

    def __init__(self, run_id: str, cause_type: str, message: str) -> None:
        super().__init__(self._text(run_id, cause_type, message))
        self.run_id = run_id
        self.cause_type = cause_type
        self.message = message

    @staticmethod
    def _text(run_id: str, cause_type: str, message: str) -> str:
        return f"child run {run_id} failed: {named_error(cause_type, message)}"


class InvokeTimeoutError(InvokeError):
    """A child run did not end in time and was cancelled."""

    @staticmethod
    def _text(run_id: str, cause_type: str, message: str) -> str:  # noqa: ARG004 - there is no other cause
        return f"child run {run_id} timed out: {message}"


class RunTimeoutError(IronflowError, TimeoutError):
    """A run took longer than its function's *timeout*."""


class RunNotFoundError(IronflowError):
    """There is no run with that id."""


class RunFailedError(IronflowError):
    """The awaited run failed.

    Attributes:
        run_id: the run's id.
        cause_type: the type name of the error that ended it.
        message: the text of that error.

    """

    def __init__(self, run_id: str, cause_type: str, message: str) -> None:
        super().__init__(f"run {run_id} failed: {named_error(cause_type, message)}")
        self.run_id = run_id
        self.cause_type = cause_type
        self.message = message


class RunCancelledError(IronflowError):
    """The awaited run was cancelled."""


class PublishError(IronflowError):
    """JetStream did not acknowledge an event, which may be stored or not; publishing its id again is safe.

    Attributes:
        retryable: whether publishing again may help. Not so where the server refuses the event for good.

    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class EngineUnavailableError(IronflowError):
    """NATS cannot be reached or used, or no engine answers."""
