"""Ironflow: durable workflows for Python on NATS JetStream."""

from ironflow.client import Client, connect
from ironflow.context import Context, RunInfo
from ironflow.durations import Duration
from ironflow.errors import (
    DefinitionError,
    DuplicateStepError,
    EngineUnavailableError,
    InvokeError,
    InvokeTimeoutError,
    IronflowError,
    LimitError,
    NondeterminismError,
    NonRetryableError,
    PayloadTooLargeError,
    PublishError,
    RetryAfter,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunTimeoutError,
    SerializationError,
    StepError,
    StepTimeoutError,
    WaitTimeoutError,
)
from ironflow.events import Event
from ironflow.function import Function, function
from ironflow.handles import RunHandle
from ironflow.retry import Retry
from ironflow.step import Step
from ironflow.version import __version__

__all__ = [
    "Client",
    "Context",
    "DefinitionError",
    "DuplicateStepError",
    "Duration",
    "EngineUnavailableError",
    "Event",
    "Function",
    "InvokeError",
    "InvokeTimeoutError",
    "IronflowError",
    "LimitError",
    "NonRetryableError",
    "NondeterminismError",
    "PayloadTooLargeError",
    "PublishError",
    "Retry",
    "RetryAfter",
    "RunCancelledError",
    "RunFailedError",
    "RunHandle",
    "RunInfo",
    "RunNotFoundError",
    "RunTimeoutError",
    "SerializationError",
    "Step",
    "StepError",
    "StepTimeoutError",
    "WaitTimeoutError",
    "__version__",
    "connect",
    "function",
]
