"""The commands as the processes that they are, without the second that each takes to start.

Each is forked from one process that has imported everything already. It has a working directory, an
environment, standard streams and an exit code of its own, and runs ``python -m MODULE WORDS…``.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

COMMAND = "ironflow.cli.main"
ENGINE = "ironflow_engine"
WORKER = "ironflow_worker"

LONGEST_SECONDS = 30.0

_IMPORTED = (
    *("__main__", COMMAND, "ironflow_engine.main", "ironflow_worker.main", "ironflow.client"),
    *(f"ironflow.cli.{name}" for name in ("events", "functions", "publish", "queues", "runs", "schemas", "workers")),
    *("ironflow.broker.nats", "structlog", "tabulate", "uvloop"),
)

_numbers = itertools.count(1)


class Call(NamedTuple):
    """A command line: ``python -m MODULE WORDS…``."""

    module: str
    words: tuple[str, ...]


class Outcome(NamedTuple):
    """How a command ended; its code is negative where it had to be killed."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class Commands:
    """Runs commands.

    Args:
        folder: where they run; their output is kept below it.
        environment: the environment variables that they see, and no others but PATH.

    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], **environment}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_IMPORTED))

    def run(self, module: str, *words: str, stdin: bytes = b"", **environment: str) -> Outcome:
        """Run a command to its end."""
        return self.run_all([Call(module, words)], environment, stdin)[0]

    def run_all(self, calls: Sequence[Call], environment: Mapping[str, str], stdin: bytes = b"") -> list[Outcome]:
        """Run commands at the same time, each to its end."""
        began = time.monotonic()
        folders = [self._new_folder(stdin) for _ in calls]
        # One thread starts them all and awaits them all: multiprocessing takes no more for one process.
        processes = [
            self._start(call, folder, {**self.environment, **environment})
            for call, folder in zip(calls, folders, strict=True)
        ]
        ended: dict[int, float] = {}
        while len(ended) < len(processes) and (left := began + LONGEST_SECONDS - time.monotonic()) > 0:
            running = [process.sentinel for process in processes if process.sentinel not in ended]
            for sentinel in multiprocessing.connection.wait(running, left):
                assert isinstance(sentinel, int)
                ended[sentinel] = time.monotonic()
        return [
            _outcome(process, folder, ended.get(process.sentinel, time.monotonic()) - began)
            for process, folder in zip(processes, folders, strict=True)
        ]

    def _new_folder(self, stdin: bytes) -> Path:
        folder = self.folder / f".command-{next(_numbers)}"
        folder.mkdir()
        (folder / "stdin").write_bytes(stdin)
        return folder

    def _start(self, call: Call, folder: Path, environment: dict[str, str]) -> ForkServerProcess:
        process = self._context.Process(
            target=_become, args=(call.module, call.words, environment, str(self.folder), str(folder))
        )
        process.start()
        return process


def _outcome(process: ForkServerProcess, folder: Path, seconds: float) -> Outcome:
    process.kill()  # does nothing to one that has ended
    process.join()
    code = process.exitcode
    assert code is not None
    process.close()
    return Outcome(code, (folder / "stdout").read_text("utf-8"), (folder / "stderr").read_text("utf-8"), seconds)


def _become(module: str, words: tuple[str, ...], environment: dict[str, str], folder: str, own: str) -> None:
    """Make this process what ``python -m`` would have started."""
    for descriptor, (name, mode) in enumerate((("stdin", os.O_RDONLY), ("stdout", _WRITE), ("stderr", _WRITE))):
        os.dup2(os.open(f"{own}/{name}", mode, 0o600), descriptor)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # "python -m" finds nothing either
    runpy.run_module(module, run_name="__main__", alter_sys=True)


_WRITE = os.O_WRONLY | os.O_CREAT
