"""Disks that are small enough to be filled."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

CHUNK = bytes(64 * 1024)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Generator[None]:
    """Have a folder be a file system of its own, in memory; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("there is no mount here")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([unmount, "--lazy", str(folder)], check=True)


def fill_disk(file: Path) -> None:
    """Make a file as large as its disk allows."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(CHUNK):
            pass
