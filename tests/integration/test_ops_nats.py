"""The server configuration in ops/nats is what the code makes, and what nats-server takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from ironflow.broker.embedded import find_server
from ironflow.cli.nats_accounts import nats_accounts
from tests.support.identities import make_certificates, new_key, public

OPS = Path(__file__).parents[2] / "ops" / "nats"


def test_the_accounts_are_those_that_the_command_makes() -> None:
    written = (OPS / "accounts.conf").read_text("utf-8")
    first = written.splitlines()[0].removeprefix("# Made by: ironflow nats-accounts ")
    assert CliRunner().invoke(nats_accounts, first.split()).output == written


@pytest.mark.parametrize("options", [(), ("--nkeys",), ("--namespace", "other", "--worker", "a,b", "--worker", "c")])
def test_the_server_takes_it_with_tls_and_without(options: tuple[str, ...], tmp_path: Path) -> None:
    make_certificates(tmp_path)
    accounts = (OPS / "accounts.conf").read_text("utf-8")
    if options:
        accounts = CliRunner().invoke(nats_accounts, options).output
    accounts += CliRunner().invoke(nats_accounts, ["--namespace", "staging", "--worker", "orders"]).output
    (tmp_path / "accounts.conf").write_text(accounts, encoding="utf-8")
    plain = (OPS / "nats.conf").read_text("utf-8").replace("/etc/nats", str(tmp_path)).replace("/var/lib/nats", "data")
    assert "sync_interval: always" in plain
    encrypted = re.sub(r"(?m)^# (?=tls|  |})", "", plain)
    assert "\ntls {" in encrypted
    for text in (plain, encrypted):
        (tmp_path / "nats.conf").write_text(text, encoding="utf-8")
        variables = dict.fromkeys(re.findall(r"\$([A-Z0-9_]+_(?:PASSWORD|NKEY))", accounts), "secret")
        variables |= {name: public(new_key()) for name in variables if name.endswith("NKEY")}
        ended = subprocess.run(
            [find_server(), "-t", "-c", "nats.conf"], cwd=tmp_path, env=variables, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode()
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


@pytest.mark.parametrize("words", [("--worker", "a b"), ("--namespace", "UPPER"), ("--worker", "a", "--worker", "A")])
def test_what_cannot_be_is_a_usage_error(words: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(nats_accounts, words)
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
