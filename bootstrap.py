"""Prepare the project's own environment in `.venv`, then run one of its tasks there.

    python3 bootstrap.py demo      a workflow that survives kills, on a server of its own
    python3 bootstrap.py test      the tests
    python3 bootstrap.py           lists all tasks (they are the recipes of the Justfile)

Needs Python and a package index. The hashes in `requirements/` fix what gets installed, and a
second call finds it in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent
LOCKS = [ROOT / "requirements" / f"{name}.txt" for name in ("build", "runtime", "dev")]
BUILD_LOCK, RUNTIME_LOCK, DEV_LOCK = LOCKS
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / ("python.exe" if os.name == "nt" else "python"))
# The locks name every package, build tools included, so pip has nothing to choose itself.
PIP_OPTIONS = "--no-deps --no-build-isolation --no-compile --no-input --quiet --disable-pip-version-check"
PIP_INSTALL = [PYTHON, "-m", "pip", "install", *PIP_OPTIONS.split()]


def main(words: Sequence[str]) -> int:
    """Set up what the task needs and run it; return its exit code."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"Ironflow needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    task, *arguments = words or ["default"]
    try:
        with alone():
            prepare(RUNTIME_LOCK if task == "demo" else DEV_LOCK)
        command = [PYTHON, "-m", "examples.demo"] if task == "demo" else [str(BIN / "just"), task]
        return run([*command, *arguments])
    except KeyboardInterrupt:
        return 130


def prepare(lock: Path) -> None:
    """Bring the environment to the state that the lock describes, with the project itself in it."""
    if not is_usable():
        stage("creating .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    locks = digest(*LOCKS)
    hashed = ["--require-hashes", "-r"]
    packages = {f"installing {file.stem} packages": [*hashed, str(file)] for file in (BUILD_LOCK, lock)}
    # The development lock holds all that the runtime lock does, in the same versions.
    install("packages", packages, f"{lock.stem} {locks}", f"{DEV_LOCK.stem} {locks}")
    install("project", {"installing ironflow": ["--editable", str(ROOT)]}, digest(ROOT / "pyproject.toml"))


def is_usable() -> bool:
    """Tell whether `.venv` can be kept: complete, new enough, and made in this very folder."""
    try:
        # Scripts and the editable install hold absolute paths, so a copied folder needs a new one.
        if f" {VENV}\n" not in (VENV / "pyvenv.cfg").read_text(encoding="utf-8"):
            return False
        probe = f"import pip, sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        return subprocess.run([PYTHON, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install(name: str, stages: dict[str, list[str]], wanted: str, *also_good: str) -> None:
    """Run pip once for each stage, unless the stamp of that name says that it was done from these inputs."""
    stamp = VENV / f"{name}.stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") in (wanted, *also_good):
        return
    # Gone first, so that an install which is interrupted half-way is not taken for a complete one.
    stamp.unlink(missing_ok=True)
    for title, options in stages.items():
        stage(title, [*PIP_INSTALL, *options])
    stamp.write_text(wanted, encoding="utf-8")


def stage(title: str, command: Sequence[str]) -> None:
    """Run one stage of the setup quietly; only if it fails, show what it printed and stop."""
    say(f"{title} ... ")
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    say(f"{time.monotonic() - started:.1f} s\n", prefix="")
    if done.returncode != 0:
        sys.exit(f"{done.stdout.decode(errors='replace')}bootstrap: {title} failed")


def run(command: list[str]) -> int:
    """Run the task in the environment, with the exit code and the answer to Ctrl-C its own."""
    os.chdir(ROOT)
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    # Demo and tests start many processes, each of which would compile everything where no bytecode may be kept.
    environment = os.environ | {"PATH": path, "VIRTUAL_ENV": str(VENV), "PYTHONDONTWRITEBYTECODE": ""}
    if os.name != "nt":
        os.execve(command[0], command, environment)  # noqa: S606 - a shell would take the signals
    # Windows cannot replace a process. Its console sends Ctrl-C to the task too, whose answer decides.
    with subprocess.Popen(command, env=environment) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process works on the environment, and keep the others out meanwhile."""
    # Not inside of .venv, which may have to be deleted. The system lets go when a process dies.
    with (ROOT / ".venv.lock").open("a", encoding="utf-8") as file:
        if not try_hold(file):
            say("waiting for another bootstrap.py to finish its setup\n")
            while not try_hold(file):
                time.sleep(0.2)
        yield


def try_hold(file: IO[str]) -> bool:
    """Take the system's exclusive lock of an open file, if nobody has it."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def digest(*files: Path) -> str:
    """Name the contents of some files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def say(text: str, *, prefix: str = "bootstrap: ") -> None:
    """Write to stderr, since stdout belongs to the task."""
    sys.stderr.write(prefix + text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
