"""The connection to Postgres, and the tables there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.resources
import re
import socket
from collections.abc import AsyncGenerator
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import asyncpg.pool
import msgspec

from ironflow.broker.protocol import Unavailable
from ironflow.errors import DefinitionError
from ironflow.logs import get_logger
from ironflow.names import DEFAULT_NAMESPACE, Names

_log = get_logger("ironflow.engine")

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_SCHEMES = ("postgresql", "postgres")
_CONNECT_SECONDS = 3.0
_STATEMENT_SECONDS = 30.0
_MOST_CONNECTIONS = 5
_FILE = re.compile(r"(\d{4})_\w+\.sql")
_TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
REFUSED = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""Postgres cannot store a value, whenever it is tried."""
_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL,
applied_at timestamptz NOT NULL DEFAULT now())
"""


class Migration(msgspec.Struct, frozen=True):
    """One numbered step from nothing to the tables as they shall be."""

    number: int
    name: str
    sql: str


class Database:
    """The tables of one namespace. It connects when it is used first, and again after every loss.

    Args:
        url: ``postgresql://user:password@host:port/database``. It is a secret, and shows up in no message.
        names: the namespace; each has a schema of its own.

    Raises:
        DefinitionError: that is no such URL.

    """

    def __init__(self, url: str, names: Names) -> None:
        self._url = _checked(url)
        self._schema = schema_of(names)
        self._pool: asyncpg.Pool | None = None
        self._migrated = False
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Disconnect at once; what was not committed did not happen."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Lend a connection; the tables are there.

        Raises:
            Unavailable: Postgres cannot be reached, or refuses.

        """
        try:
            pool = await self._ready()
            async with pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                yield connection
        except REFUSED:
            raise  # it is about what was handed over, not about the database
        except _TROUBLE as error:
            raise Unavailable(f"the archive does not answer: {_reason(error)}") from error

    async def _ready(self) -> asyncpg.Pool:
        async with self._lock:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=_MOST_CONNECTIONS,
                    timeout=_CONNECT_SECONDS,
                    command_timeout=_STATEMENT_SECONDS,
                    server_settings={"search_path": f'"{self._schema}"', "application_name": "ironflow-engine"},
                )
            if not self._migrated:
                async with self._pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                    await migrate(connection, self._schema)
                self._migrated = True
            return self._pool


def _reason(error: Exception) -> str:
    """Return what is wrong in a few words, and without the URL, which is a secret."""
    if isinstance(error, socket.gaierror):
        return "the host that its URL names is not known"
    # Where a host has several addresses, it is one error about all of them.
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "nothing listens at the host and port that its URL names"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"


def schema_of(names: Names) -> str:
    """Return the schema of a namespace."""
    return names.namespace if names.namespace == DEFAULT_NAMESPACE else f"{DEFAULT_NAMESPACE}_{names.namespace}"


def migrations() -> list[Migration]:
    """Return all migrations, in order."""
    folder = importlib.resources.files(__package__ or "") / "migrations"
    found = [(_FILE.fullmatch(file.name), file) for file in folder.iterdir()]
    return sorted(
        (Migration(int(name[1]), name[0], file.read_text(encoding="utf-8")) for name, file in found if name),
        key=lambda migration: migration.number,
    )


async def migrate(connection: Connection, schema: str) -> None:
    """Apply the migrations that are missing, each in a transaction of its own; one engine at a time does it."""
    # Who may not make tables may use those that an administrator has made.
    if await connection.fetchval("SELECT to_regclass('migrations')") is not None and not await _missing(connection):
        return
    key = int.from_bytes(hashlib.sha256(schema.encode()).digest()[:8], signed=True)
    await connection.execute("SELECT pg_advisory_lock($1)", key)
    try:
        await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        await connection.execute(_MIGRATIONS)
        for migration in await _missing(connection):
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO migrations (number, name) VALUES ($1, $2)", migration.number, migration.name
                )
            _log.info("archive migrated", migration=migration.name, schema=schema)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", key)


async def _missing(connection: Connection) -> list[Migration]:
    applied = {row["number"] for row in await connection.fetch("SELECT number FROM migrations")}
    return [migration for migration in migrations() if migration.number not in applied]


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in _SCHEMES:
        # The URL may hold a password, wherever it is wrong.
        msg = "the archive's URL is not one; write postgresql://user:password@host:5432/database"
        raise DefinitionError(msg)
    return url
