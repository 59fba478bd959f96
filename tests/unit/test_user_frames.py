"""What is left of the traceback of an exception."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import ironflow
from ironflow.durations import format_milliseconds, parse_duration
from ironflow.errors import DefinitionError
from ironflow_worker.user_frames import is_ours, without_our_frames


def names(error: BaseException) -> list[str]:
    return [line.name for line in traceback.extract_tb(error.__traceback__)]


def raised_by(call: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one it is does not matter
        call()
    error: BaseException = caught.value
    return error


class OddError(Exception):
    def with_traceback(self, tb: object) -> OddError:
        raise NotImplementedError(tb)


def test_a_package_whose_name_begins_as_ours_is_the_users() -> None:
    ours = Path(ironflow.__file__).parent
    assert is_ours(str(ours / "client.py"))
    assert is_ours(str(ours.parent / "ironflow_worker" / "worker.py"))
    assert not is_ours(str(ours.parent / "ironflow_shop" / "orders.py"))
    assert not is_ours(str(ours.parent / "ironflow_worker_shop.py"))


def test_an_error_of_ours_ends_with_the_users_line() -> None:
    error = raised_by(lambda: parse_duration("soon"))
    assert isinstance(error, DefinitionError)
    assert names(without_our_frames(error)) == ["raised_by", "<lambda>"]


def test_where_another_error_was_raised_is_kept() -> None:
    error = raised_by(lambda: format_milliseconds("soon"))  # type: ignore[arg-type]
    assert not isinstance(error, DefinitionError)
    assert names(without_our_frames(error)) == names(error)
    assert names(error)[2:]


def test_causes_that_go_in_circles_are_looked_at_once() -> None:
    one, two = raised_by(lambda: parse_duration("soon")), raised_by(lambda: parse_duration("late"))
    one.__cause__, two.__context__ = two, one
    assert names(without_our_frames(one)) == names(two) == ["raised_by", "<lambda>"]


def test_an_exception_with_methods_of_its_own_is_no_trouble() -> None:
    def fail() -> None:
        raise OddError

    assert names(without_our_frames(raised_by(fail))) == ["raised_by", "fail"]
