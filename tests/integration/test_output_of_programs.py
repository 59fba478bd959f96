"""What a program that uses the client finds in its own output: nothing of ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from ironflow.names import Names
from tests.support import fresh_namespace
from tests.support.identities import make_certificates
from tests.support.processes import functions_are_known
from tests.support.secured import Secured
from tests.support.servers import configured_server

PUBLISHES = """
import asyncio
import ironflow

async def main():
    async with ironflow.connect() as client:
        print((await client.publish("order.placed", id="e-1")).id)

asyncio.run(main())
"""


async def test_a_publisher_prints_what_it_prints_and_nothing_of_ours(tmp_path: Path) -> None:
    with Secured(Names(fresh_namespace()), tmp_path).running() as secured:
        secured.engine()
        async with secured.client("operator") as operator:
            await functions_are_known(operator)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PUBLISHES],
            env={**os.environ, **secured.environment("publisher")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "e-1\n", "")


def test_a_command_with_wrong_credentials_over_tls_says_so_in_one_line(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    tls = {"cert_file": str(tmp_path / "server.pem"), "key_file": str(tmp_path / "server.key")}
    user = {"users": [{"user": "me", "password": "sesame"}]}
    with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path)}, tls=tls, authorization=user) as url:
        done = subprocess.run(
            [sys.executable, "-m", "ironflow.cli.main", "runs", "list"],
            env={
                **os.environ,
                "NATS_URL": url,
                "NATS_USER": "me",
                "NATS_PASSWORD": "x",
                "NATS_CA": f"{tmp_path}/ca.pem",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "refused to sign in" in line
