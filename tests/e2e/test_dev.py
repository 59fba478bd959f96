"""``ironflow dev`` as a developer meets it: one command, real processes, code that changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import ironflow
from ironflow.client import Client
from ironflow.errors import IronflowError
from tests.support import eventually
from tests.unit.test_supervisor import until_gone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are POSIX")

T = TypeVar("T")

READY_SECONDS = 30.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("IRONFLOW_", "NATS_"))}
APP = """
import ironflow

@ironflow.function(id="greet", queue="orders", triggers=["order.placed"])
async def greet(ctx):
    return await ctx.step.run("greet", lambda: "{word}")
"""
NEVER_IMPORTED = """
import os, pathlib, threading
pathlib.Path("pid").write_text(f"{os.getpid()}\\n")
threading.Event().wait()
"""


class Dev:
    """A running ``ironflow dev`` in a folder of its own.

    Args:
        folder: where it runs.
        words: its arguments.

    Attributes:
        process: its process.

    """

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ironflow.cli.main", "dev", *words],
                cwd=folder,
                env=ENVIRONMENT,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written to stdout."""
        return self._out.read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self._err.read_text(encoding="utf-8")

    async def url(self) -> str:
        """Wait until it runs, and return where NATS listens."""

        def found() -> str:
            assert self.process.poll() is None, self.log
            assert "\nfunctions  " in self.output, self.log
            return self.output.partition("\nNATS ")[2].split("\n")[0].strip()

        return await eventually(found, within=READY_SECONDS)

    async def logged(self, text: str, times: int = 1) -> None:
        """Wait until a text stands in its log so often."""

        def found() -> None:
            assert self.log.count(text) >= times, self.log

        await eventually(found, within=READY_SECONDS)

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return await asyncio.to_thread(self.process.wait, READY_SECONDS)


@contextlib.asynccontextmanager
async def running(folder: Path, *words: str) -> AsyncGenerator[tuple[Dev, Client]]:
    """Run ``ironflow dev`` until the block ends, with a client of it."""
    dev = Dev(folder, *words)
    try:
        async with ironflow.connect(await dev.url()) as client:
            yield dev, client
    finally:
        dev.process.terminate()
        try:
            await dev.ended()
        finally:
            dev.process.kill()


@pytest.fixture(scope="module")
def taken_port() -> Iterator[str]:
    """A port on which somebody listens already, so that a free one is taken: tests never meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, taken_port: str) -> Iterator[Dev]:
    """One ``ironflow dev`` for the tests that change nothing about it."""
    folder = tmp_path_factory.mktemp("dev")
    write_app(folder)
    dev = Dev(folder, "app.py", "--port", taken_port, "--no-reload")
    yield dev
    dev.process.terminate()
    dev.process.wait(READY_SECONDS)


def write_app(folder: Path, word: str = "hello") -> Path:
    """Write an app whose one function puts out a word."""
    app = folder / "app.py"
    app.write_text(APP.format(word=word), encoding="utf-8")
    return app


async def greeting(client: Client) -> object:
    """Publish an order and return what the run that it starts puts out."""
    published = await client.publish_record("order.placed", {})
    [run], _ = await client.runs_of(published)
    return await client.run(run).result("20s")


async def pids(client: Client) -> set[int]:
    """Return the process ids of the engine and the worker."""

    async def both() -> set[int]:
        try:
            engine, workers = await client.engine.status(), (await client.engine.workers()).workers
        except IronflowError as error:
            raise AssertionError(str(error)) from error
        assert len(workers) == 1
        return {engine.pid, workers[0].pid}

    return await eventually(both, within=READY_SECONDS)


def pid_in(file: Path) -> int:
    """Return the process id that an app has written to a file."""
    assert file.exists()
    assert file.read_text(encoding="utf-8").endswith("\n")
    return int(file.read_text(encoding="utf-8"))


def nats_pid(folder: Path) -> int:
    """Return the process id of the NATS server whose data is in a folder."""
    owner = (folder / ".ironflow" / "nats" / "owner.lock").read_text(encoding="utf-8")
    return int(owner.rpartition("process ")[2].rstrip(")\n"))


async def test_one_command_runs_an_app_and_says_how_to_reach_it(shared: Dev) -> None:
    url = await shared.url()
    assert "greet  queue orders  ← order.placed" in shared.output
    assert f"NATS_URL={url} ironflow publish order.placed --data '{{…}}' --wait" in shared.output
    async with ironflow.connect(url) as client:
        assert await greeting(client) == "hello"
    assert "engine │ " in shared.log
    assert "worker │ " in shared.log
    assert "Traceback" not in shared.log


async def test_a_second_command_in_the_same_folder_is_refused(shared: Dev) -> None:
    await shared.url()
    refused = run_here(shared.folder, "dev", "app.py", "--no-reload")
    assert refused.returncode != 0
    assert "is in use by process" in refused.stderr


async def test_the_doctor_finds_nothing_wrong(shared: Dev) -> None:
    found = run_here(shared.folder, "doctor", "--nats-url", await shared.url())
    assert found.returncode == 0, found.stdout
    assert {line.split()[0] for line in found.stdout.splitlines()} == {"ok"}


async def test_ctrl_c_leaves_no_process_and_all_runs(tmp_path: Path, taken_port: str) -> None:
    write_app(tmp_path)
    async with running(tmp_path, "app.py", "--port", taken_port) as (dev, client):
        assert await greeting(client) == "hello"
        processes = {*await pids(client), nats_pid(tmp_path)}
        dev.process.send_signal(signal.SIGINT)
        assert await dev.ended() == 0
    await until_gone(*processes)
    async with running(tmp_path, "app.py", "--port", taken_port) as (_, client):
        assert [(await run.state()).status async for run in client.runs()] == ["completed"]
    assert (tmp_path / ".ironflow" / ".gitignore").read_text(encoding="utf-8") == "*\n"


async def test_ctrl_c_while_the_app_is_imported_leaves_no_process_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(NEVER_IMPORTED, encoding="utf-8")
    dev = Dev(tmp_path, "slow.py")
    try:
        importing = await eventually(lambda: pid_in(tmp_path / "pid"), within=READY_SECONDS)
        os.killpg(dev.process.pid, signal.SIGINT)  # as a terminal does
        assert await dev.ended() == 130
    finally:
        dev.process.kill()
        await dev.ended()
    assert (dev.output, dev.log) == ("", "interrupted\n")
    await until_gone(importing)


async def test_what_imports_the_app_ends_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(NEVER_IMPORTED, encoding="utf-8")
    dev = Dev(tmp_path, "slow.py")
    try:
        importing = await eventually(lambda: pid_in(tmp_path / "pid"), within=READY_SECONDS)
    finally:
        dev.process.kill()
        await dev.ended()
    await until_gone(importing)


async def test_saved_code_is_taken_up_and_broken_code_waits_for_the_next_save(tmp_path: Path, taken_port: str) -> None:
    app = write_app(tmp_path, "first")
    async with running(tmp_path, "app.py", "--port", taken_port) as (dev, client):
        assert await greeting(client) == "first"
        app.write_text("def broken(:", encoding="utf-8")
        await dev.logged("not reloaded, the code from before goes on: cannot import app.py: SyntaxError")
        await dev.logged("│     def broken(:\n")
        assert await greeting(client) == "first"
        write_app(tmp_path, "second")
        await dev.logged("reloaded greet")
        await greets(client, "second")
        assert "registered from before" not in dev.log
        app.write_text(app.read_text(encoding="utf-8").replace('id="greet"', 'id="salute"'), encoding="utf-8")
        await dev.logged("reloaded salute")
        await dev.logged("greet is registered from before, and none of the apps has it")
    assert "ended with code" not in dev.log


async def test_a_killed_engine_and_a_killed_worker_are_started_again(tmp_path: Path, taken_port: str) -> None:
    write_app(tmp_path)
    async with running(tmp_path, "app.py", "--port", taken_port, "--no-reload") as (dev, client):
        first = await pids(client)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        await dev.logged("was ended by SIGKILL; starting it again", times=2)
        assert not first & await pids(client)
        assert await greeting(client) == "hello"


async def test_nothing_is_left_when_the_command_itself_is_killed(tmp_path: Path, taken_port: str) -> None:
    write_app(tmp_path)
    async with running(tmp_path, "app.py", "--port", taken_port, "--no-reload") as (dev, client):
        processes = {*await pids(client), nats_pid(tmp_path)}
        dev.process.kill()
        await until_gone(*processes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no APP"),
        (["missing.py"], "no such file: missing.py"),
        (["no_such_module_here"], "no module named"),
        (["empty.py"], "no functions found in empty.py"),
    ],
)
def test_an_app_that_cannot_be_run_is_one_clear_line(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty.py").touch()
    refused = run_here(tmp_path, "dev", *words)
    assert refused.returncode == 2
    assert message in refused.stderr.splitlines()[-1]
    assert refused.stdout == ""
    assert not (tmp_path / ".ironflow").exists()


def test_an_app_with_a_mistyped_line_is_refused_with_that_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(:", encoding="utf-8")
    refused = run_here(tmp_path, "dev", "broken.py")
    assert (refused.returncode, refused.stdout) == (2, "")
    message, *code = refused.stderr.splitlines()
    assert message.startswith("cannot import broken.py: SyntaxError: ")
    assert code == ["    def broken(:", "               ^"]
    assert not (tmp_path / ".ironflow").exists()


def run_here(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an ``ironflow`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ironflow.cli.main", *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )


async def greets(client: Client, word: str) -> None:
    """Wait until new runs are executed by the code that says this word."""

    async def greeted() -> None:
        assert await greeting(client) == word

    await eventually(greeted, within=READY_SECONDS)
