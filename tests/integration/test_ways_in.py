"""Every way to sign in to NATS works for the engine, the worker with both of its connections, and the client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ironflow
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.errors import EngineUnavailableError
from ironflow.names import Names
from tests.support import fresh_namespace
from tests.support.identities import make_certificates, new_key, new_operator, public, seed
from tests.support.processes import APPS, Process, cluster, functions_are_known
from tests.support.secured import Secured
from tests.support.servers import configured_server

WORKER = ("--queue", "orders", str(APPS / "flows.py"))
VARIABLES = ("URL", "CREDS", "NKEY", "USER", "PASSWORD", "TOKEN", "CA", "CERT", "KEY", "CONTEXT")


class Way(NamedTuple):
    """A server's configuration, and the variables that let a process in."""

    configuration: dict[str, Any]
    variables: dict[str, str]


def password(_: Path) -> Way:
    users = [{"user": "me", "password": "sesame"}]
    return Way({"authorization": {"users": users}}, {"NATS_USER": "me", "NATS_PASSWORD": "sesame"})


def token(_: Path) -> Way:
    return Way({"authorization": {"token": "sesame"}}, {"NATS_TOKEN": "sesame"})


def nkey(folder: Path) -> Way:
    key = new_key()
    (folder / "me.nk").write_text(seed(key))
    return Way({"authorization": {"users": [{"nkey": public(key)}]}}, {"NATS_NKEY": str(folder / "me.nk")})


def creds(folder: Path) -> Way:
    operator = new_operator()
    (folder / "me.creds").write_text(operator.credentials)
    return Way(operator.configuration, {"NATS_CREDS": str(folder / "me.creds")})


def tls(folder: Path) -> Way:
    make_certificates(folder)
    server = {"cert_file": str(folder / "server.pem"), "key_file": str(folder / "server.key")}
    return Way({"tls": server}, {"NATS_CA": str(folder / "ca.pem")})


def client_certificate(folder: Path) -> Way:
    way = tls(folder)
    assert isinstance(way.configuration["tls"], dict)
    way.configuration["tls"] |= {"ca_file": str(folder / "ca.pem"), "verify": True}
    certificate = {"NATS_CERT": str(folder / "client.pem"), "NATS_KEY": str(folder / "client.key")}
    return Way(way.configuration, way.variables | certificate)


def context(folder: Path) -> Way:
    """A context of the ``nats`` command, with an nkey and TLS."""
    encrypted, signed = tls(folder), nkey(folder)
    said = {"nkey": str(folder / "me.nk"), "ca": str(folder / "ca.pem"), "inbox_prefix": "_INBOX_me"}
    contexts = folder / "nats" / "context"
    contexts.mkdir(parents=True)
    (contexts / "mine.json").write_text(json.dumps(said))
    variables = {"XDG_CONFIG_HOME": str(folder), "NATS_CONTEXT": "mine"}
    return Way(encrypted.configuration | signed.configuration, variables)


WAYS = (password, token, nkey, creds, tls, client_certificate, context)


@pytest.mark.parametrize("make", WAYS)
async def test_all_processes_and_the_client_get_in(
    make: Callable[[Path], Way], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = make(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(f"NATS_{variable}", raising=False)
    with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path / "data")}, **way.configuration) as url:
        address = url.replace("tls://", "nats://")
        await nobody_gets_in(address)
        for name, value in (way.variables | {"NATS_URL": address}).items():
            monkeypatch.setenv(name, value)
        with cluster(address, fresh_namespace(), tmp_path) as system:
            system.engine()
            system.worker("flows.py")
            async with ironflow.connect(namespace=system.names.namespace) as client:
                await functions_are_known(client, "ten-steps")
                assert await (await client.start("ten-steps")).result("20s") == 55
            listed = await system.command("runs", "list")
            assert "completed" in listed.stdout, listed.stderr


async def test_a_context_holds_all_that_a_role_needs_under_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Secured(Names(fresh_namespace()), tmp_path).running() as secured:
        for role in ("engine", "worker-orders", "publisher", "operator"):
            write_context(tmp_path, role, secured.settings(role))
        for variable in VARIABLES:
            monkeypatch.delenv(f"NATS_{variable}", raising=False)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.setenv("IRONFLOW_NAMESPACE", secured.names.namespace)
        (tmp_path / "witness").touch()
        witness = {"WITNESS": str(tmp_path / "witness")}
        for role, *words in (("engine", "ironflow_engine"), ("worker-orders", "ironflow_worker", *WORKER)):
            process = Process([*words, "--context", role], witness, tmp_path / f"{role}.log")
            secured.processes.append(process)  # it ends them
        async with ironflow.connect(context="operator") as client:
            await functions_are_known(client, "ten-steps")
        async with ironflow.connect(context="publisher") as client:
            assert await (await client.start("ten-steps")).result("20s") == 55
        examined = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ironflow.cli.main", "doctor", "--json", "--context", "operator"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        levels = {each["check"]: each["level"] for each in json.loads(examined.stdout)}
        assert levels["access"] == levels["streams"] == levels["workers"] == "ok"


def write_context(folder: Path, name: str, settings: ConnectionSettings) -> None:
    said: dict[str, str | None] = {
        "url": settings.urls[0],
        "user": settings.user,
        "password": settings.password,
        "inbox_prefix": settings.inbox_prefix,
        "jetstream_api_prefix": settings.api_prefix,
    }
    contexts = folder / "nats" / "context"
    contexts.mkdir(parents=True, exist_ok=True)
    (contexts / f"{name}.json").write_text(json.dumps(said))


async def nobody_gets_in(url: str) -> None:
    """Make sure that the server wants to be shown something."""
    with pytest.raises(EngineUnavailableError, match=r"\A[^\n]*(sign in|TLS|authoriz|closed)[^\n]*\Z"):
        await connect(ConnectionSettings(urls=(url,), connect_timeout_seconds=2.0))


@pytest.mark.parametrize(
    ("host", "authority", "reason"),
    [("127.0.0.1", "other", "local issuer certificate|self-signed"), ("localhost", ".", "not valid for 'localhost'")],
)
async def test_why_a_certificate_is_not_trusted_is_told(host: str, authority: str, reason: str, tmp_path: Path) -> None:
    way = tls(tmp_path)
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    with configured_server(tmp_path, **way.configuration) as url:
        address = f"nats://{host}:{url.rpartition(':')[2]}"
        settings = ConnectionSettings(urls=(address,), tls_ca=str(tmp_path / authority / "ca.pem"))
        with pytest.raises(EngineUnavailableError, match=rf"\A[^\n]*({reason})[^\n]*Check CA[^\n]*\Z"):
            await connect(settings)
