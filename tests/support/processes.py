"""Engines and workers as the separate processes that they are in production, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.errors import EngineUnavailableError
from ironflow.names import Names
from tests.support.eventually import eventually

APPS = Path(__file__).parent / "apps"
PATIENCE_SECONDS = 40.0


class Process:
    """One engine or worker.

    Args:
        arguments: the module and its options.
        log: where its stderr goes, for whoever reads a failed test.

    """

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def terminate(self, within: float = PATIENCE_SECONDS) -> int:
        """Tell it to stop, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it takes longer.

        """
        return self._end(signal.SIGTERM, within)

    def wait(self, within: float = PATIENCE_SECONDS) -> int:
        """Wait until it ends by itself, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it takes longer.

        """
        assert self._process is not None
        return self._process.wait(timeout=within)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals, within: float = PATIENCE_SECONDS) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout=within)


class Cluster:
    """Starts processes of one namespace, and ends them all.

    Args:
        url: the server.
        namespace: the namespace.
        folder: for logs, for the witness file, and for traces.
        traced: whether all of them export their spans.
        shards: into how many the namespace is divided.

    """

    def __init__(self, url: str, namespace: str, folder: Path, *, traced: bool = False, shards: int = 1) -> None:
        self.url = url
        self.names = Names(namespace, shards)
        self.folder = folder
        self.traces = folder / "traces"
        self.witness = folder / "witness"
        self.witness.touch()
        self.processes: list[Process] = []
        self._before = ["tests.support.traced"] if traced else []

    def engine(self, *options: str) -> Process:
        """Start an engine."""
        return self._start("engine", ["ironflow_engine", *options])

    def worker(self, app: str, *options: str, queue: str = "orders") -> Process:
        """Start a worker of an app in tests/support/apps."""
        return self._start("worker", ["ironflow_worker", "--queue", queue, str(APPS / app), *options])

    def stop(self) -> None:
        """Kill all processes."""
        for process in self.processes:
            process.kill()

    def witnessed(self) -> Counter[str]:
        """Return how often each body has run, by what it wrote into the witness file."""
        return Counter(self.witness.read_text().splitlines())

    def logs(self) -> str:
        """Return what all processes have logged."""
        return "\n".join(f"--- {process.log.name}\n{process.log.read_text()}" for process in self.processes)

    async def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``ironflow`` with these words, to its end."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", *self._before, "ironflow.cli.main", *words],
            env={**os.environ, **self._environment()},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def _start(self, kind: str, arguments: list[str]) -> Process:
        log = self.folder / f"{kind}-{len(self.processes)}.log"
        process = Process([*self._before, *arguments], self._environment(), log)
        self.processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        return {
            "NATS_URL": self.url,
            "IRONFLOW_NAMESPACE": self.names.namespace,
            "IRONFLOW_SHARDS": str(self.names.shards),
            "WITNESS": str(self.witness),
            "GATE": str(self.folder / "gate"),
            "TRACES": str(self.traces),
        }

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """Connect a client."""
        broker = await connect(ConnectionSettings(urls=tuple(self.url.split(","))))
        try:
            yield Client(broker, self.names)
        finally:
            await broker.close()


@contextlib.contextmanager
def cluster(url: str, namespace: str, folder: Path, *, traced: bool = False, shards: int = 1) -> Generator[Cluster]:
    """Have a cluster whose processes end with the block; their logs are shown where it fails."""
    made = Cluster(url, namespace, folder, traced=traced, shards=shards)
    try:
        yield made
    except BaseException:
        print(made.logs())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        made.stop()


async def functions_are_known(client: Client, *functions: str, within: float = 20.0) -> None:
    """Wait until an engine knows the functions."""

    async def known() -> None:
        page = await client.engine.functions()
        assert {function.id for function in page.functions} >= set(functions)

    await eventually(answered(known), within=within)


async def workers_answer(client: Client, count: int, *, within: float = 20.0) -> None:
    """Wait until so many workers answer."""

    async def answer() -> None:
        assert len((await client.engine.workers()).workers) == count

    await eventually(answered(answer), within=within)


def answered(assertion: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Have "no engine answers yet" be one more reason to try again."""

    async def attempt() -> None:
        try:
            await assertion()
        except EngineUnavailableError as error:
            raise AssertionError(str(error)) from error

    return attempt
