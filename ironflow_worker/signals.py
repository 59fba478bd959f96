"""The signals that end a pass early."""

from __future__ import annotations

from typing import cast


class PassEnded(BaseException):
    """Everything that is left of this pass waits; the handler runs again when there is something to do.

    If you see this in your own code: let it pass. Catch ``Exception`` rather than ``BaseException``, and put
    what must happen at the end of a run into a step of its own.
    """

    def __init__(self) -> None:
        super().__init__(
            "this pass ends here, because everything left of it waits; the handler runs again later. "
            "Do not catch it: use 'except Exception', not 'except BaseException' or a bare 'except'"
        )


class PassStopped(Exception):  # noqa: N818 - an answer that decides, rather than a failure
    """The run was ended from outside while its pass ran: the pass has no outcome of its own."""


def is_pass_end(error: BaseException) -> bool:
    """Tell whether an error is the signal, alone or in a group as a TaskGroup raises it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_pass_end(part) for part in group.exceptions)
    return isinstance(error, PassEnded)
