"""What a handler gets."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from ironflow.events import Event
from ironflow.step import Step

if TYPE_CHECKING:
    import structlog

T = TypeVar("T", default=Any)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """The run that a handler executes.

    Attributes:
        id: the run's id.
        function_id: the id of its function.
        attempt: 1 + how often the run was retried.
        started_at: when the run was created; aware, UTC.

    """

    id: str
    function_id: str
    attempt: int
    started_at: datetime


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Context(Generic[T]):
    """What a handler gets: the event, the steps, the run and a logger.

    Write ``Context[OrderPlaced]`` to have ``event.data`` decoded and checked; data that does not fit fails the
    run, with the place. With a bare ``Context`` it is plain JSON.

    Attributes:
        event: what started the run.
        step: the steps.
        run: the run's id and the like.
        log: a structlog logger, bound to the run's id, silent while recorded steps are replayed. Facts whose names
            are taken (run, function, step, attempt, event, level …) get an underscore behind them.

    """

    event: Event[T]
    step: Step
    run: RunInfo
    log: structlog.stdlib.BoundLogger
