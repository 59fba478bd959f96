"""Fixtures of the integration tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ironflow.function import forget_functions
from tests.support.inprocess import COMPLAINTS


@pytest.fixture(autouse=True)
def no_functions_left() -> Iterator[None]:
    """Forget the functions that a test has defined, so that the next may use their ids."""
    yield
    forget_functions()


@pytest.fixture(autouse=True)
def nothing_goes_unnoticed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where a task was left behind, or an exception that nobody has seen."""
    if request.node.get_closest_marker("virtual_time") is None:
        yield
        return
    gc.freeze()  # what is there already need not be looked at
    yield
    gc.collect()
    gc.unfreeze()
    assert COMPLAINTS == []
