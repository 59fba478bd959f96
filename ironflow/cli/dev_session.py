"""What ``ironflow dev`` runs, from its start to Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from ironflow.broker.embedded import LOOPBACK, EmbeddedServer
from ironflow.broker.protocol import BrokerError
from ironflow.cli.apps import AppError, DescribedFunction, describe, folders_of
from ironflow.cli.common import put
from ironflow.cli.dev_banner import banner, hint_variables
from ironflow.cli.process import StopSignals, first_of, unless_stopped
from ironflow.cli.supervisor import Program, Say, Service
from ironflow.engine_api import EngineApi
from ironflow.errors import IronflowError
from ironflow.names import Names

READY_SECONDS = 20.0
POLL_SECONDS = 0.1
DRAIN = "3s"
"""What a worker has for its passes when it is replaced: somebody waits for the code that was just saved."""

_SHOWN_FILES = 3
_SHOWN_FUNCTIONS = 5


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, with everything that was left open decided.

    Attributes:
        environment: the variables of all children.

    """

    apps: tuple[str, ...]
    names: Names
    data: Path
    port: int
    concurrency: int
    workers: int
    reload: bool
    environment: Mapping[str, str]


class Session:
    """One ``ironflow dev``.

    Args:
        plan: what to run.

    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._worker_names = worker_names(plan.workers)
        self._say = say_on_stderr(["engine", *self._worker_names])

    async def run(self) -> None:
        """Run everything until a signal comes.

        Raises:
            AppError: an app cannot be loaded.
            EngineUnavailableError: the NATS server cannot be started.
            Interrupted: the signal came before either had happened.

        """
        plan = self._plan
        signals = StopSignals()
        functions = await unless_stopped(signals, describe(plan.apps, plan.environment))
        server = EmbeddedServer(make_data_folder(plan.data), port=free_or_any(plan.port))
        async with contextlib.AsyncExitStack() as stack:
            await unless_stopped(signals, stack.enter_async_context(server))
            environment = {**plan.environment, "NATS_URL": server.url, "IRONFLOW_NAMESPACE": plan.names.namespace}
            engine = Service(engine_program(environment), self._say)
            workers = [Service(each, self._say) for each in self._worker_programs(functions, environment)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(service.run()) for service in (engine, *workers)]
                tasks.append(group.create_task(self._keep_server(server)))
                tasks.append(group.create_task(self._welcome(server.url, functions)))
                if plan.reload:
                    tasks.append(group.create_task(self._reload(workers, environment)))
                await signals.first.wait()
                self._say("dev", "stopping; Ctrl-C once more stops at once")
                await stop(tasks, signals, (engine, *workers))

    def _worker_programs(self, functions: Iterable[DescribedFunction], environment: Mapping[str, str]) -> list[Program]:
        queues = sorted({function.queue for function in functions})
        command = (
            *(sys.executable, "-m", "ironflow_worker"),
            *(f"--queue={queue}" for queue in queues),
            *(f"--concurrency={self._plan.concurrency}", f"--drain-timeout={DRAIN}"),
            *("--", *self._plan.apps),
        )
        return [Program(name, command, environment) for name in self._worker_names]

    async def _welcome(self, url: str, functions: Sequence[DescribedFunction]) -> None:
        """Say what runs, once it does."""
        if not await until_ready(url, self._plan.names, {function.id for function in functions}):
            self._say("dev", f"engine and worker are not ready after {READY_SECONDS:g} s; see above")
        variables = hint_variables(url, self._plan.names)
        put(banner(url, self._plan.data, functions, variables))
        sys.stdout.flush()
        await self._tell_left_over(url, functions)

    async def _tell_left_over(self, url: str, functions: Iterable[DescribedFunction]) -> None:
        """Say which functions are registered from before that none of the apps has: a renamed one is two."""
        left_over = sorted(await registered_functions(url, self._plan.names) - {function.id for function in functions})
        for function in left_over[:_SHOWN_FUNCTIONS]:
            self._say(
                "dev",
                f"{function} is registered from before, and none of the apps has it: its events go on starting runs, "
                f"which wait for a worker; `ironflow functions delete {shlex.quote(function)}` ends that",
            )
        if len(left_over) > _SHOWN_FUNCTIONS:
            self._say("dev", f"and {len(left_over) - _SHOWN_FUNCTIONS} more like it, see `ironflow functions list`")

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Start the NATS server again should it crash: same port, same data."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not server.running:
                self._say("dev", f"the NATS server ended; starting it again (its log: {server.log_file})")
                await asyncio.to_thread(server.restart)

    async def _reload(self, workers: Sequence[Service], environment: Mapping[str, str]) -> None:
        """Replace the workers whenever code has changed that can be imported."""
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 # pyright: ignore[reportUnknownVariableType]

        try:
            async for changes in awatch(*folders_of(self._plan.apps, Path.cwd()), watch_filter=PythonFilter()):
                self._say("dev", f"{changed_files(path for _, path in changes)} changed")
                await self._replace(workers, environment)
        except (OSError, RuntimeError) as error:  # a system has only so many watches
            self._say("dev", f"cannot watch for changes, start again to have them: {error}")

    async def _replace(self, workers: Sequence[Service], environment: Mapping[str, str]) -> None:
        """Have the workers run the code as it is now, if it can be imported."""
        try:
            functions = await describe(self._plan.apps, environment)
        except AppError as error:
            for line in (f"not reloaded, the code from before goes on: {error}", *error.details):
                self._say("dev", line)
            return
        programs = self._worker_programs(functions, environment)
        await asyncio.gather(*(worker.replace(program) for worker, program in zip(workers, programs, strict=True)))
        self._say("dev", f"reloaded {', '.join(function.id for function in functions)}")
        await self._tell_left_over(environment["NATS_URL"], functions)


async def stop(tasks: Sequence[asyncio.Task[None]], signals: StopSignals, services: Iterable[Service]) -> None:
    """End all tasks, and with them the services' processes; at once where another signal comes."""
    for task in tasks:
        task.cancel()
    await first_of(signals.second.wait(), asyncio.wait(tasks))
    if signals.second.is_set():
        for service in services:
            service.kill()


@contextlib.asynccontextmanager
async def engine_at(url: str, names: Names) -> AsyncGenerator[EngineApi]:
    """Ask engines at a NATS server.

    Raises:
        BrokerError, IronflowError: it cannot be reached.

    """
    from ironflow.broker.nats import ConnectionSettings, connect  # noqa: PLC0415 - keeps --help fast

    broker = await connect(ConnectionSettings(urls=(url,), name="ironflow-dev"))
    try:
        yield EngineApi(broker, names, timeout_seconds=1.0)
    finally:
        await broker.close()


async def until_ready(url: str, names: Names, wanted: set[str]) -> bool:
    """Wait until the engine knows these functions and workers have them; tell whether that came in time."""
    with contextlib.suppress(BrokerError, IronflowError, TimeoutError):
        async with engine_at(url, names) as engine, asyncio.timeout(READY_SECONDS):
            while True:
                if wanted <= await ready_functions(engine):
                    return True
                await asyncio.sleep(POLL_SECONDS)
    return False


async def registered_functions(url: str, names: Names) -> set[str]:
    """Return the ids of all functions that events start; none where no engine tells."""
    with contextlib.suppress(BrokerError, IronflowError):
        async with engine_at(url, names) as engine:
            return {function.id for function in (await engine.functions()).functions}
    return set()


async def ready_functions(engine: EngineApi) -> set[str]:
    """Return the ids of the functions that are registered, and executed by a worker that answers."""
    try:
        registered = {function.id for function in (await engine.functions()).functions}
        workers = (await engine.workers()).workers
    except (BrokerError, IronflowError):
        return set()
    return registered & {function for worker in workers for function in worker.functions}


def engine_program(environment: Mapping[str, str]) -> Program:
    """Return the engine's command."""
    return Program("engine", (sys.executable, "-m", "ironflow_engine"), environment)


def worker_names(count: int) -> list[str]:
    """Return the names that mark the workers' lines."""
    return ["worker"] if count == 1 else [f"worker-{number}" for number in range(1, count + 1)]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for all children: ours, without what would lead them to another NATS server."""
    kept = {name: value for name, value in environment.items() if not name.startswith("NATS_")}
    kept.setdefault("IRONFLOW_LOG_ERRORS", "full")  # whoever reads the log has made the data
    # Compiled files are told apart by whole seconds and sizes, which two quick saves can share.
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def make_data_folder(data: Path) -> Path:
    """Make the folder that everything is kept in, unseen by git; return the NATS server's part of it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not (data / ".gitignore").exists():
            (data / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot keep data in {data}: {error.strerror or error}") from error
    return data / "nats"


def free_or_any(port: int) -> int:
    """Return the port if nobody listens on it, else 0, which stands for any."""
    with socket.socket() as probe:
        if os.name != "nt":  # there it would allow what is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return 0
    return port


def changed_files(paths: Iterable[str]) -> str:
    """Return the names of some changed files, for people."""
    names = sorted({Path(path).name for path in paths})
    more = len(names) - _SHOWN_FILES
    return ", ".join(names[:_SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")


def say_on_stderr(names: Iterable[str]) -> Say:
    """Return what shows a line of somebody; the lines of all of these names are aligned."""
    width = max(map(len, names))

    def say(name: str, line: str) -> None:
        click.echo(f"{name:<{width}} │ {line}", err=True)

    return say
