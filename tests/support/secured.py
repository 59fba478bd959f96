"""A real server with the accounts of a namespace, and its processes with the rights of their roles."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Generator, Iterable
from pathlib import Path

from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.names import Names
from ironflow.nats_accounts import account_name, accounts, render, user_name
from ironflow.permissions import Role, api_prefix, engine, inbox_prefix, roles, secret_variable
from tests.support.processes import APPS, Process
from tests.support.servers import configured_server

QUEUES = ("orders", "reports")


class Secured:
    """A server whose users have the rights of a namespace's roles.

    Args:
        names: the namespace.
        folder: for data and logs.
        changed: roles that take the place of those with their names.
        beside: a second namespace on the same server.
        together: the roles whose users stand in the engine's account, with their permissions as the only wall.

    Attributes:
        url: the server.

    """

    def __init__(
        self,
        names: Names,
        folder: Path,
        *,
        changed: Iterable[Role] = (),
        together: Iterable[str] = (),
        beside: Names | None = None,
    ) -> None:
        self.names = names
        self.folder = folder
        others = {role.name: role for role in changed}
        self.roles = {
            role.name: others.get(role.name, role) for role in roles(names, tuple((queue,) for queue in QUEUES))
        }
        self.processes: list[Process] = []
        self.url = ""
        self._beside = beside
        self._together = frozenset(together)
        self._passwords = {name: f"p{secrets.token_hex(8)}" for name in (*self.roles, "admin")}

    @contextlib.contextmanager
    def running(self) -> Generator[Secured]:
        """Run the server until the block ends, and end all processes."""
        self.folder.mkdir(exist_ok=True)
        environment = {secret_variable(self.names, role): self._passwords[role.name] for role in self.roles.values()}
        if self._beside is not None:
            environment |= {
                secret_variable(self._beside, role): self._passwords[role.name] for role in roles(self._beside, ())
            }
        with configured_server(
            self.folder, self._accounts(), environment, jetstream={"store_dir": str(self.folder / "data")}
        ) as self.url:
            try:
                yield self
            except BaseException:
                print(self.logs())  # noqa: T201 - pytest shows it with the failure
                raise
            finally:
                self.stop()

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()

    def logs(self) -> str:
        """Return what all processes have logged."""
        return "\n".join(process.log.read_text() for process in self.processes)

    def settings(self, role: str) -> ConnectionSettings:
        """Return how a role signs in; "admin" may do anything in the engine's account."""
        if role == "admin":
            return ConnectionSettings(urls=(self.url,), user=role, password=self._passwords[role])
        found = self.roles[role]
        outside = role != "engine" and role not in self._together
        return ConnectionSettings(
            urls=(self.url,),
            user=user_name(self.names, found),
            password=self._passwords[role],
            inbox_prefix=inbox_prefix(self.names, found),
            api_prefix=api_prefix(self.names) if outside else "$JS.API",
        )

    def stranger(self) -> ConnectionSettings:
        """Return how the engine of the second namespace signs in."""
        assert self._beside is not None
        role = engine(self._beside)
        return ConnectionSettings(
            urls=(self.url,),
            user=user_name(self._beside, role),
            password=self._passwords[role.name],
            inbox_prefix=inbox_prefix(self._beside, role),
        )

    def environment(self, role: str) -> dict[str, str]:
        """Return the variables that a process of a role is started with."""
        settings = self.settings(role)
        assert settings.user
        assert settings.password
        return {
            "NATS_URL": self.url,
            "NATS_USER": settings.user,
            "NATS_PASSWORD": settings.password,
            "NATS_INBOX_PREFIX": settings.inbox_prefix,
            "NATS_JS_API_PREFIX": settings.api_prefix,
            "IRONFLOW_NAMESPACE": self.names.namespace,
            "IRONFLOW_SHARDS": str(self.names.shards),
            "WITNESS": str(self.folder / "witness"),
            "GATE": str(self.folder / "gate"),
        }

    def engine(self, *options: str) -> Process:
        """Start an engine."""
        return self._start("engine", "ironflow_engine", *options)

    def worker(self, queue: str, app: str, *options: str, role: str = "") -> Process:
        """Start a worker of an app in tests/support/apps."""
        return self._start(role or f"worker-{queue}", "ironflow_worker", "--queue", queue, str(APPS / app), *options)

    @contextlib.asynccontextmanager
    async def client(self, role: str) -> AsyncGenerator[Client]:
        """Connect a client with the rights of a role."""
        broker = await connect(self.settings(role))
        try:
            yield Client(broker, self.names)
        finally:
            await broker.close()

    def _start(self, role: str, *words: str) -> Process:
        (self.folder / "witness").touch()
        log = self.folder / f"{role}-{len(self.processes)}.log"
        process = Process(list(words), self.environment(role), log)
        self.processes.append(process)
        return process

    def _accounts(self) -> str:
        block = accounts(self.names, self.roles.values())
        engine, *_ = self.roles.values()
        core = block[account_name(self.names, engine)]
        assert isinstance(core, dict)
        core["users"].append({"user": "admin", "password": self._passwords["admin"]})
        for role in self._together:
            there = block[account_name(self.names, self.roles[role])]
            assert isinstance(there, dict)
            (user,) = there["users"]
            user["permissions"]["publish"]["allow"] = list(self.roles[role].asks)
            core["users"].append(user)
            there["users"] = []
        if self._beside is not None:
            block |= accounts(self._beside, roles(self._beside, ()))
        return f"accounts {{\n{render(block)}}}\n"
