"""What apps hold, asked of a worker process: this one never imports users' code."""

from __future__ import annotations

import asyncio
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

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

    """

    def __init__(self, message: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


async def describe(apps: Sequence[str], environment: Mapping[str, str]) -> list[DescribedFunction]:
    """Return the functions of some apps, by id.

    Args:
        apps: modules or files.
        environment: the environment variables that the app shall see.

    Raises:
        AppError: one of them is missing, cannot be imported, or none holds a function.

    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ironflow_worker", "--describe", "--", *apps),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(DESCRIBE_SECONDS):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise AppError(f"importing {', '.join(apps)} takes longer than {DESCRIBE_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise AppError(_last_line(complaint) or f"cannot import {', '.join(apps)}", process.returncode)
    try:
        # Only the last line: an app may print when it is imported.
        return msgspec.json.decode(_last_line(output), type=list[DescribedFunction])
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


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""
