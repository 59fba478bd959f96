"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ironflow.function import forget_functions


@pytest.fixture(autouse=True)
def no_functions_left() -> Iterator[None]:
    """Forget the functions that a test has defined, so that the next may use their ids."""
    yield
    forget_functions()
