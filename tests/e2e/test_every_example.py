"""Every example runs in process, in virtual time, and does what it says; the real time that it takes is printed.

That each takes less than a second is what ``python -m tests.bench examples`` is for: on a machine that does other
things too, a bound on time fails without a reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from tests.support.examples import PLAYS, Played, examples, play

EXPECTED_LATER = ("onboarding.py", "trip.py")
"""What uses steps that are not there yet: it must fail until they are, and then leaves this list."""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_example_is_played() -> None:
    assert examples() == sorted(PLAYS)
    assert set(EXPECTED_LATER) <= PLAYS.keys()


@pytest.mark.parametrize("example", [name for name in PLAYS if name not in EXPECTED_LATER])
def test_an_example_does_what_it_says(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    played = quietly(example)
    with capsys.disabled():
        print(f"\n{example}: {played.seconds * 1000:.0f} ms of real time", end="")  # noqa: T201 - the figure is wanted

    assert played.differences(PLAYS[example]) == []


@pytest.mark.parametrize("example", EXPECTED_LATER)
def test_an_example_whose_steps_are_not_there_yet_fails_for_that_reason(example: str) -> None:
    played = quietly(example)

    assert played.differences(PLAYS[example]), f"{example} works: take it off EXPECTED_LATER"
    assert played.run.error is not None
    assert "has no attribute" in played.run.error.message


def quietly(example: str) -> Played:
    with structlog.testing.capture_logs():
        return play(example)


def test_a_difference_is_found() -> None:
    played = quietly("approval.py")
    told = PLAYS["approval.py"]

    assert played.differences(told._replace(output="no")) == ["output is 'ada: accepted by grace', should be 'no'"]
    assert played.differences(told._replace(error="no")) == ["error is None, should be 'no'"]
    assert played.differences(told._replace(steps=("tell", "ask"))) == ["step 'ask' is not recorded, or not in order"]
