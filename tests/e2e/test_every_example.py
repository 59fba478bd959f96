"""Every example runs in process, in virtual time, and does what it says; the real time that it takes is printed.

That each takes less than a second is what ``python -m tests.bench examples`` is for: on a machine that does other
things too, a bound on time fails without a reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from tests.support.examples import PLAYS, Played, examples, play


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_example_is_played() -> None:
    assert examples() == sorted(PLAYS)


@pytest.mark.parametrize("example", PLAYS)
def test_an_example_does_what_it_says(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    played = quietly(example)
    with capsys.disabled():
        print(f"\n{example}: {played.seconds * 1000:.0f} ms of real time", end="")  # noqa: T201 - the figure is wanted

    assert played.differences(PLAYS[example]) == []


def quietly(example: str) -> Played:
    with structlog.testing.capture_logs():
        return play(example)


def test_a_difference_is_found() -> None:
    played = quietly("approval.py")
    told = PLAYS["approval.py"]

    assert played.differences(told._replace(output="no")) == ["output is 'ada: accepted by grace', should be 'no'"]
    assert played.differences(told._replace(error="no")) == ["error is None, should be 'no'"]
    assert played.differences(told._replace(steps=("tell", "ask"))) == ["step 'ask' is not recorded, or not in order"]
