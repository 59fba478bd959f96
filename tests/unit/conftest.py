"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from tests.unit.fake_engine import FakeEngine, Shell


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine without anything in it, which every command connects to."""
    fake = FakeEngine()
    monkeypatch.setattr("ironflow.client.connect", fake.connect)
    # A fake engine that is away does not come back by itself.
    monkeypatch.setattr("ironflow.engine_api._PATIENT_SHARE", 0.0)
    return fake


@pytest.fixture
def shell(engine: FakeEngine) -> Shell:
    """A shell of which the commands speak to the fake engine."""
    return Shell(engine)
