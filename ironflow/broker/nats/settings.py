"""Where NATS is and how to sign in: from arguments, the environment, or a context of the ``nats`` CLI."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from ironflow.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "nats://127.0.0.1:4222"
API_PREFIX = "$JS.API"
INBOX_PREFIX = "_INBOX"
CONNECT_TIMEOUT_SECONDS = 3.5
"""Leaves a command time to say so within the five seconds that it may take."""

_SCHEMES = frozenset({"nats", "tls"})
"""Not ws and wss: what nats-py needs for web sockets is not installed with us, and what we add does not reach there."""
_PREFIX = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_SECRET = frozenset({"user", "password", "token", "user_jwt", "user_seed"})

_ENVIRONMENT = {
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CA": "tls_ca",
    "NATS_CERT": "tls_cert",
    "NATS_KEY": "tls_key",
    "NATS_INBOX_PREFIX": "inbox_prefix",
    "NATS_JS_API_PREFIX": "api_prefix",
}

_CONTEXT = {
    "creds": "creds",
    "nkey": "nkey",
    "user": "user",
    "password": "password",
    "token": "token",
    "user_jwt": "user_jwt",
    "user_seed": "user_seed",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
    "inbox_prefix": "inbox_prefix",
    "jetstream_api_prefix": "api_prefix",
}


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to NATS. Its text form shows no secrets.

    Attributes:
        urls: servers of one cluster; any of them will do. One with tls:// has none of them used without TLS.
        creds: path of a credentials file (JWT and seed).
        nkey: path of an nkey seed file.
        user: user name.
        password: password of *user*.
        token: authentication token.
        user_jwt: a user JWT itself, with *user_seed*.
        user_seed: the nkey seed itself that signs for *user_jwt*.
        tls_ca: path of the CA certificates to trust, PEM. Without it, those of the system.
        tls_cert: path of the client certificate, PEM.
        tls_key: path of the client certificate's key, PEM.
        tls_first: shake hands before the server says anything, as the server must be set up to expect.
        inbox_prefix: what reply subjects start with; a least-privilege account may listen only there.
        api_prefix: what stands in place of "$JS.API" where JetStream is in another account.
        name: what the server's monitoring shows for this connection.
        connect_timeout_seconds: how long the first connection may take, over all servers.

    """

    urls: tuple[str, ...] = (DEFAULT_URL,)
    creds: str | None = None
    nkey: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    user_jwt: str | None = None
    user_seed: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_first: bool = False
    inbox_prefix: str = INBOX_PREFIX
    api_prefix: str = API_PREFIX
    name: str = "ironflow"
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS

    def __repr__(self) -> str:
        """Return the settings without their secrets."""
        shown = [f"urls={self.shown_urls!r}"]
        for field in self.__struct_fields__[1:]:
            value = getattr(self, field)
            if value not in {None, False}:
                shown.append(f"{field}={'***' if field in _SECRET else value!r}")
        return f"ConnectionSettings({', '.join(shown)})"

    @property
    def encrypted(self) -> bool:
        """Whether servers without TLS are refused. They get the same credentials, so one URL speaks for all."""
        return any(url.startswith("tls://") for url in self.urls)

    @property
    def shown_urls(self) -> str:
        """The servers as one text for messages, without user names and passwords."""
        return ", ".join(redact(url) for url in self.urls)


def redact(url: str) -> str:
    """Return a URL without the user name, password or token in front of its host."""
    scheme, separator, rest = url.rpartition("://")
    host = rest.rpartition("@")[2]
    return f"{scheme}{separator}{host}"


def split_urls(text: str) -> tuple[str, ...]:
    """Return the servers of a comma-separated list.

    Raises:
        DefinitionError: one of them cannot be the address of a NATS server.

    """
    return tuple(_check_url(url.strip()) for url in text.split(",") if url.strip()) or (DEFAULT_URL,)


def _check_url(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    try:
        parts = urlsplit(url if separator else f"nats://{url}")
        # Reading the port is what refuses one that is no number or too large.
        fits = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0 and parts.path in {"", "/"}
    except ValueError:
        fits = False
    if not fits or not url.isprintable() or " " in url:
        message = f"{redact(url)!r} is not a NATS URL; write it like {DEFAULT_URL}, several with commas between them"
        raise DefinitionError(message)
    # nats-py knows schemes in small letters only.
    return f"{scheme.lower()}{separator}{rest}"


def from_environment(environment: Mapping[str, str]) -> ConnectionSettings:
    """Return the settings that environment variables describe.

    Read are ``NATS_URL`` (several servers with commas between), ``NATS_CREDS``, ``NATS_NKEY``, ``NATS_USER``,
    ``NATS_PASSWORD``, ``NATS_TOKEN``, ``NATS_CA``, ``NATS_CERT``, ``NATS_KEY``, ``NATS_INBOX_PREFIX`` and
    ``NATS_JS_API_PREFIX``. Empty ones count as not set.

    Raises:
        DefinitionError: ``NATS_URL`` holds what is no URL of a server, or a prefix is no subject.

    """
    found = {field: environment[name] for name, field in _ENVIRONMENT.items() if environment.get(name)}
    return _checked(
        msgspec.structs.replace(ConnectionSettings(urls=split_urls(environment.get("NATS_URL", ""))), **found)
    )


def context_file(name: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return where the ``nats`` CLI keeps the context of that name."""
    home = (os.environ if environment is None else environment).get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "nats" / "context" / f"{name}.json"


def from_context(file: Path) -> ConnectionSettings:
    """Return the settings of a context file of the ``nats`` CLI.

    Raises:
        DefinitionError: there is no such file, it is not JSON, or it asks for what this client cannot do.

    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        message = f"there is no NATS context {file.stem!r} (looked for {file}); `nats context ls` shows what there is"
        raise DefinitionError(message) from None
    except (OSError, msgspec.DecodeError) as error:
        message = f"cannot read the NATS context {file}: {error}"
        raise DefinitionError(message) from None
    for unsupported in ("socks_proxy", "jetstream_domain"):
        if content.get(unsupported):
            message = f"the NATS context {file.stem!r} sets {unsupported}, which Ironflow does not support"
            raise DefinitionError(message)
    texts = {key: value for key, value in content.items() if isinstance(value, str) and value}
    found = {field: _resolve(key, texts[key]) for key, field in _CONTEXT.items() if key in texts}
    settings = ConnectionSettings(urls=split_urls(texts.get("url", "")), tls_first=bool(content.get("tls_first")))
    return _checked(msgspec.structs.replace(settings, **found))


def _checked(settings: ConnectionSettings) -> ConnectionSettings:
    """Return settings whose prefixes subjects can start with, without a dot at their ends."""
    prefixes: dict[str, str] = {}
    for field in ("inbox_prefix", "api_prefix"):
        prefix = prefixes[field] = getattr(settings, field).removesuffix(".")
        if not _PREFIX.fullmatch(prefix):
            message = f"{field} {prefix!r} is not what a subject can start with; write it like _INBOX_worker"
            raise DefinitionError(message)
    return msgspec.structs.replace(settings, **prefixes)


def _resolve(key: str, value: str) -> str:
    """Follow the URI that a context may hold in place of a value."""
    is_path = key in {"creds", "nkey", "ca", "cert", "key"}
    scheme, separator, rest = value.partition("://")
    if scheme == "file" and separator:
        path = Path(rest).expanduser()
        return str(path) if is_path else _read(key, path)
    if scheme == "env" and rest in os.environ:
        return os.environ[rest]
    if value.startswith("data:;base64,") and not is_path:
        return _decode(key, value.removeprefix("data:;base64,"))
    if (separator and scheme in {"env", "op", "nsc"}) or value.startswith("data:"):
        message = f"cannot resolve {key} of the NATS context from {scheme.partition(':')[0]}:…; give a file instead"
        raise DefinitionError(message)
    return str(Path(value).expanduser()) if is_path else value


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {key} of the NATS context: {error}"
        raise DefinitionError(message) from None


def _decode(key: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        message = f"{key} of the NATS context is not base64 of a text"
        raise DefinitionError(message) from None
