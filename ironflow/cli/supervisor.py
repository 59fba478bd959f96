"""Keeps child processes running, shows what they write, and leaves none behind.

Each child runs behind a guard (``ironflow.broker.embedded_guard``), which ends it when this process is gone,
however that went. Guard, child and what the child started are one process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from ironflow.broker import embedded_guard

Say = Callable[[str, str], None]
"""Shows a line of somebody: ``say("worker", "ready")``."""

LAST_OUTPUT_SECONDS = 1.0
"""How long to wait for what an ended child has written: something that it started may hold the pipe open."""
LONGEST_LINE = 1 << 20

_PID_LINE = re.compile(rb"\d+\r?")


class Program(msgspec.Struct, frozen=True):
    """A command that is kept running.

    Attributes:
        name: what its lines are marked with.
        command: program and arguments.
        environment: all of its environment variables.

    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take, in seconds.

    Attributes:
        stop: what a child has to end after SIGTERM; then it is killed.
        first_pause: before a child that crashed is started again. It doubles with each crash.
        longest_pause: the bound of that.
        healthy: a child that has run for so long starts over with the first pause.

    """

    stop: float = 6.0
    first_pause: float = 0.5
    longest_pause: float = 10.0
    healthy: float = 10.0


class Child(asyncio.SubprocessProtocol):
    """A running process. Made by :meth:`start`."""

    def __init__(self, name: str, say: Say) -> None:
        self._name = name
        self._say = say
        self._transport: asyncio.SubprocessTransport | None = None
        self._unfinished: dict[int, bytes] = {}
        self._pid_is_due = True
        self._exited = asyncio.Event()
        self._silent = asyncio.Event()

    @classmethod
    async def start(cls, program: Program, say: Say) -> Child:
        """Start a program; what it writes is shown line by line."""
        transport, child = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(program.name, say),
            *(sys.executable, "-I", "-S", embedded_guard.__file__),
            *program.command,
            env=program.environment,
            # Ctrl-C in a terminal reaches us alone; we pass it on in the right order.
            start_new_session=True,
        )
        child._transport = transport  # noqa: SLF001 - it is our own
        return child

    async def wait(self) -> int:
        """Return the exit code once the process has ended and what it wrote is shown."""
        await self._exited.wait()
        self.kill()
        # Who stops a program has often been cancelled, and before Python 3.11.4 ``asyncio.timeout`` ends for such a
        # task with the cancellation rather than with TimeoutError.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._silent.wait(), LAST_OUTPUT_SECONDS)
        assert self._transport is not None  # noqa: S101 - start() set it
        code = self._transport.get_returncode()
        self._transport.close()
        return 0 if code is None else code

    async def stop(self, seconds: float) -> None:
        """Ask the process to end (SIGTERM), and kill it if it has not after that time."""
        self._ask_to_end()
        try:
            await asyncio.wait_for(self._exited.wait(), seconds)  # as in wait()
        except TimeoutError:
            self._say(self._name, f"has not ended within {seconds:g} s and is killed")
        finally:
            self.kill()
        await self.wait()

    def kill(self) -> None:
        """End at once whatever is left of the process and of those that it started."""
        assert self._transport is not None  # noqa: S101 - start() set it
        if sys.platform == "win32":
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
            return
        # The guard may have ended; its group is there as long as any member is.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), signal.SIGKILL)

    def _ask_to_end(self) -> None:
        """Close the guard's input, on which it sends SIGTERM."""
        assert self._transport is not None  # noqa: S101 - start() set it
        pipe = self._transport.get_pipe_transport(0)
        if pipe is not None:
            cast("asyncio.WriteTransport", pipe).close()

    # What asyncio calls

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Show the lines that are complete."""
        *lines, rest = (self._unfinished.get(fd, b"") + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._unfinished[fd] = rest
        for line in lines:
            self._show(fd, line)

    def process_exited(self) -> None:
        """Let those go on who wait for the end."""
        self._exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Show what was left without a line end."""
        del exc
        for fd, line in self._unfinished.items():
            if line:
                self._show(fd, line)
        self._silent.set()

    def _show(self, fd: int, line: bytes) -> None:
        # The guard writes the child's process id, as the first line unless the child was faster.
        if self._pid_is_due and fd == 1 and _PID_LINE.fullmatch(line):
            self._pid_is_due = False
            return
        self._say(self._name, line.decode("utf-8", "replace").rstrip("\r"))


class Service:
    """A program that is started again when it crashes.

    Args:
        program: what to run.
        say: shows lines.
        patience: how long things may take.

    """

    def __init__(self, program: Program, say: Say, patience: Patience | None = None) -> None:
        self._program = program
        self._say = say
        self._patience = patience or Patience()
        self._child: Child | None = None
        self._replaced = asyncio.Event()

    async def run(self) -> None:
        """Keep the program running until this is cancelled; then it is stopped."""
        pause = self._patience.first_pause
        try:
            while True:
                ran_seconds, code = await self._run_once()
                if self._replaced.is_set():
                    continue
                if ran_seconds >= self._patience.healthy:
                    pause = self._patience.first_pause
                self._say(self._program.name, f"{describe_exit(code)}; starting it again in {pause:g} s")
                await self._pause(pause)
                pause = min(pause * 2, self._patience.longest_pause)
        finally:
            if self._child is not None:
                await self._child.stop(self._patience.stop)
                self._child = None

    async def replace(self, program: Program) -> None:
        """Stop what runs, and have *program* started in its place."""
        self._program = program
        self._replaced.set()
        if self._child is not None:
            await self._child.stop(self._patience.stop)

    def kill(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.kill()

    async def _run_once(self) -> tuple[float, int]:
        """Run the program to its end; return how long that took, and the exit code."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._replaced.clear()
        child = self._child = await self._start()
        if self._replaced.is_set():  # while it was being started
            await child.stop(self._patience.stop)
        code = await child.wait()
        self._child = None
        return loop.time() - started, code

    async def _start(self) -> Child:
        """Start the program; who cancels that waits until it is there, since nothing else could stop it."""
        starting = asyncio.ensure_future(Child.start(self._program, self._say))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._child = await starting
            raise

    async def _pause(self, seconds: float) -> None:
        """Wait for that long, or until there is another program to start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._replaced.wait()


def describe_exit(code: int) -> str:
    """Return how a process ended, for people; a shell's codes for signals are understood."""
    number = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with code {code}"
