"""The thumbnails example makes real pictures smaller, in threads, and records nothing large."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from PIL import Image

from examples import thumbnails
from ironflow.broker.local.virtual_time import run_virtual
from ironflow.messages import RunView, StepView
from tests.support.inprocess import running_system

PICTURES = 7


async def run_album(album: dict[str, Any]) -> tuple[RunView, list[StepView]]:
    async with running_system(thumbnails.make_thumbnails) as system:
        published = await system.client.publish_record("album.created", album)
        (run,), _ = await system.client.runs_of(published)
        handle = system.client.run(run)
        return await handle.wait("1m"), await handle.steps()


def run(album: dict[str, Any]) -> tuple[RunView, list[StepView]]:
    with structlog.testing.capture_logs():
        return run_virtual(run_album(album))


def test_thumbnails_are_pictures_whose_longest_side_is_as_asked(tmp_path: Path) -> None:
    run({"folder": str(tmp_path), "pictures": PICTURES, "longest_side": 64})

    for number in range(1, PICTURES + 1):
        with (
            Image.open(tmp_path / f"picture-{number:04}.jpg") as picture,
            Image.open(tmp_path / f"picture-{number:04}.thumbnail.jpg") as thumbnail,
        ):
            assert max(thumbnail.size) == 64
            assert thumbnail.width / thumbnail.height == pytest.approx(picture.width / picture.height, rel=0.02)
            assert thumbnail.getextrema() != ((0, 0), (0, 0), (0, 0))
    assert len(list(tmp_path.iterdir())) == 2 * PICTURES, "nothing unfinished is left"


def test_bodies_run_in_threads_and_no_more_at_once_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, most, threads = 0, 0, set[int]()
    lock, two_at_work, shrink = threading.Lock(), threading.Event(), thumbnails.shrink

    def watched(picture: str, longest_side: int) -> thumbnails.Thumbnail:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            threads.add(threading.get_ident())
            if at_work == 2:
                two_at_work.set()
        try:
            assert two_at_work.wait(10), "bodies do not overlap"
            return shrink(picture, longest_side)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(thumbnails, "shrink", watched)
    view, _ = run({"folder": str(tmp_path), "pictures": PICTURES})

    assert view.status == "completed"
    assert threading.get_ident() not in threads
    assert most <= thumbnails.AT_ONCE


def test_what_is_recorded_of_a_picture_is_small(tmp_path: Path) -> None:
    _, steps = run({"folder": str(tmp_path), "pictures": PICTURES})

    recorded = [step for step in steps if step.name == "shrink"]
    assert len(recorded) == PICTURES
    assert all(len(bytes(step.output or b"")) < len(str(tmp_path)) * 2 + 200 for step in recorded)


def test_an_album_without_pictures_is_refused_at_once(tmp_path: Path) -> None:
    view, _ = run({"folder": str(tmp_path), "pictures": 0})

    assert view.error is not None
    assert "an album has 1 to 1,000 pictures, got 0" in view.error.message
    assert list(tmp_path.iterdir()) == []
