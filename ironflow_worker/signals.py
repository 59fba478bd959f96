"""The signals that end a pass early."""

from __future__ import annotations

from collections.abc import Iterator
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


class BodyFailure(Exception):  # noqa: N818 - it stands for what it holds
    """A step's body raised something that is no Exception, or that no coroutine may raise: it has failed like others.

    Let through, KeyboardInterrupt and SystemExit would end the worker, GeneratorExit and CancelledError the pass
    without a word, and a StopIteration would never arrive.

    Args:
        raised: what the body raised.

    """

    def __init__(self, raised: BaseException) -> None:
        super().__init__(type(raised).__name__)
        self.raised = raised


def exit_text(error: SystemExit | KeyboardInterrupt) -> str:
    """Return what somebody did that would have ended the worker."""
    return f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else "raised KeyboardInterrupt"


def is_pass_end(error: BaseException) -> bool:
    """Tell whether an error is the signal, alone or in a group as a TaskGroup raises it."""
    return all(isinstance(part, PassEnded) for part in leaves(error))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, or in the place of a group all that is in it, however deep."""
    left = [error]
    while left:
        part = left.pop()
        if isinstance(part, BaseExceptionGroup):
            left.extend(cast("BaseExceptionGroup[BaseException]", part).exceptions)
        else:
            yield part
