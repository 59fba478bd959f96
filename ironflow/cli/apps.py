"""What apps hold, asked of a worker process: this one never imports users' code."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.machinery
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ironflow.broker import embedded_guard
from ironflow.cli.common import ExitCode, one_line

DESCRIBE_SECONDS = 60.0


class DescribedFunction(msgspec.Struct, frozen=True):
    """A function as ``ironflow-worker --describe`` prints it."""

    id: str
    queue: str
    triggers: tuple[str, ...] = ()


class AppError(Exception):
    """An app cannot be loaded.

    Attributes:
        code: the exit code that says so.
        details: lines that say more about where.

    """

    def __init__(self, message: str, code: int = ExitCode.FAILED, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


async def describe(apps: Sequence[str], environment: Mapping[str, str]) -> list[DescribedFunction]:
    """Return the functions of some apps, by id.

    Args:
        apps: modules or files.
        environment: the environment variables that the app shall see.

    Raises:
        AppError: one of them is missing, cannot be imported, or none holds a function.

    """
    # Behind a guard it ends with this process, and in a session of its own Ctrl-C does not reach it: whoever waits for
    # it is told, and would take the interrupted import for a mistake of the app.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", embedded_guard.__file__),
        *(sys.executable, "-m", "ironflow_worker", "--describe", "--", *apps),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DESCRIBE_SECONDS):
            output, complaint = await _written_by(process)
    except TimeoutError:
        raise AppError(f"importing {', '.join(apps)} takes longer than {DESCRIBE_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            _kill(process)
            await process.wait()
    if process.returncode:
        message, details = _complaint_in(complaint)
        raise AppError(message or f"cannot import {', '.join(apps)}", process.returncode, details)
    try:
        return msgspec.json.decode(_description_in(output), type=list[DescribedFunction])
    except msgspec.MsgspecError as error:
        raise AppError(f"cannot read what {', '.join(apps)} holds: {error}") from error


def folders_of(apps: Iterable[str], cwd: Path) -> tuple[Path, ...]:
    """Return the folders in which the code of some apps lies, without those inside of others.

    Args:
        apps: modules or files.
        cwd: where relative files and modules are looked for.

    """
    found = {_folder_of(app, cwd) for app in apps}
    return tuple(sorted(folder for folder in found if not any(other in folder.parents for other in found)))


def _folder_of(app: str, cwd: Path) -> Path:
    if app.endswith(".py") or "/" in app or os.sep in app:
        return (cwd / app).resolve().parent
    package = app.partition(".")[0]
    spec = importlib.machinery.PathFinder.find_spec(package, [str(cwd), *sys.path])
    if spec is None:
        return cwd
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve().parent if spec.origin else cwd


async def _written_by(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Wait until a process has ended; return what it wrote to stdout and stderr.

    ``communicate`` would close its input first, which is what a guard takes for our end.
    """
    assert process.stdout is not None  # noqa: S101 - it was started with all three
    assert process.stderr is not None  # noqa: S101
    output, complaint, _ = await asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait())
    return output, complaint


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a process that leads a session, and all others in it."""
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _description_in(output: bytes) -> bytes:
    """Return the line that describes functions; the guard writes a process id, and an app may print too."""
    lines = [line for line in output.splitlines() if line.startswith(b"[")]
    return lines[-1] if lines else b""


def _complaint_in(output: bytes) -> tuple[str, list[str]]:
    """Return the last line that is not indented, and those behind it; an app may have written others before."""
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    start = max((number for number, line in enumerate(lines) if not line.startswith("  ")), default=0)
    return (one_line(lines[start]), lines[start + 1 :]) if lines else ("", [])
