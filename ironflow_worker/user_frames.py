"""What a traceback shows of an exception: the user's own code, rather than what called it and what it has called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import ironflow
from ironflow.errors import IronflowError

E = TypeVar("E", bound=BaseException)

_OURS = tuple(
    f"{Path(ironflow.__file__).parent}{package}{os.sep}" for package in ("", "_worker", "_engine", "_testing")
)


def is_ours(filename: str) -> bool:
    """Tell whether a file is Ironflow's, and not of whoever uses it."""
    return filename.startswith(_OURS)


def without_our_frames(error: E) -> E:
    """Take frames of Ironflow's out of the traceback of an exception, and out of those of all that has led to it.

    Behind the last of the user's they stay, since that is where it was raised; unless it is an error of Ironflow's own,
    whose text says what is wrong.
    """
    left: list[BaseException] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if id(each) in seen:  # causes may go in circles
            continue
        seen.add(id(each))
        # By the class, since an exception may have a method of its own that is called so.
        BaseException.with_traceback(each, _shown(each))
        left.extend(link for link in (each.__cause__, each.__context__) if link is not None)
        if isinstance(each, BaseExceptionGroup):
            left.extend(cast("BaseExceptionGroup[BaseException]", each).exceptions)
    return error


def _shown(error: BaseException) -> TracebackType | None:
    shown: TracebackType | None = None
    may_end_here = not isinstance(error, IronflowError)
    for line in reversed([*_lines(error)]):
        ours = is_ours(line.tb_frame.f_code.co_filename)
        may_end_here = may_end_here and ours
        if may_end_here or not ours:
            shown = TracebackType(shown, line.tb_frame, line.tb_lasti, line.tb_lineno)
    return shown


def _lines(error: BaseException) -> Iterator[TracebackType]:
    line = error.__traceback__
    while line is not None:
        yield line
        line = line.tb_next
