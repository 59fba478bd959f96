"""Keys, credentials and certificates that tests sign in with; all made anew."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import nkeys  # type: ignore[import-untyped]
import pytest

UNLIMITED = (
    *("subs", "data", "payload", "imports", "exports", "conn", "leaf"),
    *("mem_storage", "disk_storage", "streams", "consumer"),
)


def new_key(kind: int = nkeys.PREFIX_BYTE_USER) -> nkeys.KeyPair:
    """Return a new nkey."""
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def public(key: nkeys.KeyPair) -> str:
    """Return the public part of an nkey."""
    found: Any = key.public_key
    return str(found.decode())


def seed(key: nkeys.KeyPair) -> str:
    """Return the secret part of an nkey."""
    found: Any = key.seed
    return bytes(found).decode()


class Operator(NamedTuple):
    """A server's configuration with an operator and one account with JetStream, and credentials of a user there."""

    configuration: dict[str, Any]
    credentials: str


def new_operator() -> Operator:
    """Make an operator, its accounts and a user, with all of their keys."""
    operator, system = new_key(nkeys.PREFIX_BYTE_OPERATOR), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    account, user = new_key(nkeys.PREFIX_BYTE_ACCOUNT), new_key()
    limits = {"limits": dict.fromkeys(UNLIMITED, -1) | {"wildcards": True}}
    no_storage = {"limits": dict.fromkeys(UNLIMITED[:7], -1) | {"wildcards": True}}
    configuration: dict[str, Any] = {
        "operator": _jwt(operator, public(operator), "operator", {"system_account": public(system)}),
        "system_account": public(system),
        "resolver": "MEMORY",
        "resolver_preload": {
            public(account): _jwt(operator, public(account), "account", limits),
            public(system): _jwt(operator, public(system), "account", no_storage),
        },
    }
    token = _jwt(account, public(user), "user", {"subs": -1, "data": -1, "payload": -1})
    credentials = (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed(user)}\n------END USER NKEY SEED------\n"
    )
    return Operator(configuration, credentials)


def _jwt(issuer: nkeys.KeyPair, subject: str, kind: str, claims: dict[str, Any]) -> str:
    body = {
        "iat": int(time.time()),
        "iss": public(issuer),
        "name": kind,
        "sub": subject,
        "nats": claims | {"type": kind, "version": 2},
    }
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    signed = ".".join(_encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{signed}.{_encode(issuer.sign(signed.encode()))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_EXTENSIONS = """\
subjectAltName=IP:127.0.0.1
authorityKeyIdentifier=keyid
subjectKeyIdentifier=hash
"""
"""What Python demands from 3.13 on stands here too, as it does in what cert-manager makes."""


def make_certificates(folder: Path) -> None:
    """Make ``ca.pem``, and ``server`` and ``client`` as ``.pem`` and ``.key``."""
    _openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca",
        "-addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem",
    )
    for name in ("server", "client"):
        _openssl(
            folder,
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes",
            f"-subj /CN={name} -keyout {name}.key -out {name}.csr",
        )
        (folder / "extensions").write_text(_EXTENSIONS)
        _openssl(
            folder,
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2",
            f"-extfile extensions -out {name}.pem",
        )


def _openssl(folder: Path, *words: str) -> None:
    try:
        subprocess.run(
            ["openssl", *" ".join(words).split()],  # noqa: S607 - whichever there is
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl to make certificates with")
