"""Fixtures of the laws."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from ironflow.function import forget_functions


@pytest.fixture(autouse=True)
def no_functions_left() -> Iterator[None]:
    """Forget the functions that a test file or a test has defined, so that the next may use their ids."""
    forget_functions()
    yield
    forget_functions()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log nothing: hundreds of worlds that go wrong on purpose have much to say."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
