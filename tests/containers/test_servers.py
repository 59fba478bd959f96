"""How servers in containers are stopped and started, on containers that only take notes."""

from __future__ import annotations

import pytest

from tests.support.containers import ContainerPostgres, ContainerServer, why_there_are_none


class Notes:
    """A container that notes what it is told, and needs two looks until it is ready."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")

    def kill(self) -> None:
        self.told.append("kill")

    def is_ready(self) -> bool:
        self.told.append("ready?")
        return self.told[-2:] == ["ready?", "ready?"]


def test_a_server_is_killed_and_comes_back_when_it_is_ready() -> None:
    notes = Notes()
    server = ContainerServer(notes, "nats://127.0.0.1:1", notes.is_ready)
    server.kill()
    server.kill()
    server.restart()
    assert notes.told == ["ready?", "ready?", "kill", "start", "ready?", "ready?"]


def test_a_server_that_runs_is_restarted_in_good_order() -> None:
    notes = Notes()
    ContainerServer(notes, "nats://127.0.0.1:1", notes.is_ready).restart()
    assert notes.told[2:] == ["stop", "start", "ready?", "ready?"]


def test_a_database_is_stopped_once_and_started_once() -> None:
    notes = Notes()
    postgres = ContainerPostgres(notes, "postgresql://", notes.is_ready)
    postgres.stop()
    postgres.stop()
    postgres.start()
    assert notes.told == ["ready?", "ready?", "kill", "start", "ready?", "ready?"]


def test_where_no_engine_answers_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    reason = why_there_are_none()
    assert reason is not None
    assert "DockerException" in reason
