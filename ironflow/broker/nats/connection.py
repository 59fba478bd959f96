"""The first connection: made fast or refused with one clear line, to servers that can do what is needed."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import RawCredentials

from ironflow.broker.nats.adapter import ANSWER_SECONDS, PATIENCE_SECONDS, NatsBroker
from ironflow.broker.nats.api import ApiError
from ironflow.broker.nats.settings import ConnectionSettings
from ironflow.broker.nats.wire import Wire
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.errors import DefinitionError, EngineUnavailableError
from ironflow.logs import get_logger

OLDEST_SERVER = (2, 14, 3)
ADVISED_SERVER = (2, 15, 0)
PING_SECONDS = 5
OUTSTANDING_PINGS = 2
LEAST_SECONDS = 1.0
"""A server that is far away, or busy, has this long to answer, however many others there are to be tried."""
JETSTREAM_SECONDS = 1.0
NO_JETSTREAM = frozenset({10039, 10076})
"""Not enabled for the account, not enabled."""

_FILES = {
    "creds": "credentials file",
    "nkey": "nkey seed file",
    "tls_ca": "CA file",
    "tls_cert": "certificate file",
    "tls_key": "key file",
}
_CREDENTIALS_PARTS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_CREDENTIALS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""

log = get_logger(__name__)


class UnfitServerError(nats.errors.Error):
    """The server cannot be used. It is nats-py's error, for nats-py to try the next server."""


async def connect(
    settings: ConnectionSettings | None = None,
    *,
    answer_seconds: float = ANSWER_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> NatsBroker:
    """Connect to NATS. Once connected, the broker reconnects for ever.

    Args:
        settings: where and how; default: the local server.
        answer_seconds: how long to wait for one answer of the server, in seconds.
        patience_seconds: how long calls keep trying where the server cannot answer for now, in seconds.

    Raises:
        EngineUnavailableError: no server can be reached in time, or none that can be used. One line.
        DefinitionError: a file that the settings name cannot be read, or is not what it should be.

    """
    settings = settings or ConnectionSettings()
    options = connect_options(settings)
    attempt = _Attempt(settings)
    # A connection that begins with a handshake is encrypted before the server says anything.
    wire = Wire(functools.partial(check_server, encrypted=settings.encrypted and not settings.tls_first))
    try:
        await attempt.run(wire, options)
        wire.on_down.append(attempt.lost)
        wire.on_up.append(lambda: log.info("connected to NATS again", server=wire.server_info.get("server_name")))
        broker = NatsBroker(
            wire,
            answer_seconds=answer_seconds,
            patience_seconds=patience_seconds,
            api_prefix=settings.api_prefix,
        )
        await check_inbox(broker, settings)
        await check_jetstream(broker, wire, settings)
    except BaseException:
        await wire.shut()
        raise
    return broker


class _Attempt:
    """The first connection, given up when each server was tried once; then what goes wrong with later ones."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._errors: list[Exception] = []
        self._tried_all = asyncio.Event()
        self._connected = False
        self._told: set[str] = set()
        """What was said of the connection that is being made again."""

    async def run(self, wire: Wire, options: dict[str, Any]) -> None:
        """Connect.

        Raises:
            EngineUnavailableError: no server can be reached, or none that can be used.

        """
        connecting = asyncio.create_task(wire.start(list(self._settings.urls), error_cb=self._take_error, **options))
        failing = asyncio.create_task(self._tried_all.wait())
        try:
            await asyncio.wait(
                {connecting, failing},
                timeout=self._settings.connect_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not connecting.done():
                self._errors.append(TimeoutError())
            elif (error := connecting.exception()) is None:
                self._connected = True
                # Whoever connects again has all the time that there is.
                wire.options["connect_timeout"] = self._settings.connect_timeout_seconds
                return
            elif isinstance(error, Exception):
                # Of any kind: nats-py lets out what reading credentials and certificates ends with.
                self._errors.append(error)
            else:
                raise error
        finally:
            failing.cancel()
            connecting.cancel()
        # The others are mostly about servers that are just not there.
        error = next((each for each in self._errors if isinstance(each, UnfitServerError)), self._errors[0])
        raise EngineUnavailableError(self._explain(error, said_hello=bool(wire.server_info)))

    def lost(self) -> None:
        """Tell that the connection which stood is gone."""
        log.warning("lost the connection to NATS; reconnecting")
        self._told.clear()

    async def _take_error(self, error: Exception) -> None:
        if self._connected:
            log.debug("NATS connection", error=str(error) or type(error).__name__)
            if _needs_somebody(error):
                self._tell(str(error) if isinstance(error, UnfitServerError) else self._explain(error))
            return
        self._errors.append(error)
        if len(self._errors) >= len(self._settings.urls):
            self._tried_all.set()

    def _tell(self, reason: str) -> None:
        # Once, since this goes on for ever, four times a second.
        if reason not in self._told:
            self._told.add(reason)
            log.warning("cannot use NATS any more; keeps trying", reason=reason)

    def _explain(self, error: Exception, *, said_hello: bool = False) -> str:
        where = self._settings.shown_urls
        if isinstance(error, UnfitServerError):
            return f"cannot use NATS at {where}: {error}"
        reason = reason_of(error)
        if "expecting INFO" in reason:
            return f"cannot use NATS at {where}: what answers there is no NATS server"
        if "authorization" in reason.lower():
            return f"NATS at {where} refused to sign in: {reason}. Check user, password, token or credentials"
        if isinstance(error, ssl.SSLError):
            # Python's own text has the place in its source; which certificate is wrong how stands here.
            told = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            reason = (told or reason).rstrip(".")
            return f"the TLS handshake with NATS at {where} failed: {reason}. Check CA, certificate and key"
        if isinstance(error, TimeoutError):
            heard = "it named its version and then said nothing" if said_hello else "no answer"
            reason = f"{heard} within {self._settings.connect_timeout_seconds:g} s"
        return (
            f"cannot reach NATS at {where}: {reason}. Is the server running? "
            "(`ironflow dev` starts one; NATS_URL or --nats-url names another)"
        )


def _needs_somebody(error: Exception) -> bool:
    """Tell whether a connection fails by more than that its server is away, which is over when it is back."""
    # Of nats-py's own kind is what a server says, or what reading credentials ends with.
    return isinstance(error, (UnfitServerError, ssl.SSLError, socket.gaierror)) or type(error) is nats.errors.Error


def reason_of(error: Exception) -> str:
    """Return why a connection could not be made, in a few words."""
    text = str(error)
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in text:
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, nats.errors.Error):
        return text.removeprefix("nats: ").strip("' ")
    return text or type(error).__name__


def connect_options(settings: ConnectionSettings) -> dict[str, Any]:
    """Return nats-py's options for these settings.

    Raises:
        DefinitionError: a file that they name cannot be read, or is not what it should be.

    """
    check_files(settings)
    options: dict[str, Any] = {
        "name": settings.name,
        "inbox_prefix": settings.inbox_prefix,
        # One that is down as a whole, and refuses nothing, leaves time for the others.
        "connect_timeout": max(LEAST_SECONDS, settings.connect_timeout_seconds / len(settings.urls)),
        "ping_interval": PING_SECONDS,
        "max_outstanding_pings": OUTSTANDING_PINGS,
        "tls_handshake_first": settings.tls_first,
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
        "user_credentials": settings.creds,
        "nkeys_seed": settings.nkey,
    }
    if settings.user_jwt and settings.user_seed:
        options["user_credentials"] = RawCredentials(
            _CREDENTIALS.format(jwt=settings.user_jwt, seed=settings.user_seed)
        )
    if settings.tls_ca or settings.tls_cert:
        options["tls"] = tls_context(settings)
    return options


def check_files(settings: ConnectionSettings) -> None:
    """Refuse files that cannot be read, or hold something else.

    Raises:
        DefinitionError: one of them.

    """
    for field, kind in _FILES.items():
        path = getattr(settings, field)
        if path is None:
            continue
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            message = f"cannot read the {kind} {path}: {getattr(error, 'strerror', None) or error}"
            raise DefinitionError(message) from error
        if field == "creds" and not all(part in content for part in _CREDENTIALS_PARTS):
            message = f"{path} is not a credentials file with a user JWT and an nkey seed"
            raise DefinitionError(message)
        if field == "nkey" and not content.strip().startswith(b"SU"):
            message = f"{path} is not a file with the seed of a user's nkey, which starts with SU"
            raise DefinitionError(message)


def tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Return what TLS connections trust and show.

    Raises:
        DefinitionError: a certificate or key is not what it should be.

    """
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        message = f"the TLS certificate or key cannot be used: {error}"
        raise DefinitionError(message) from error
    return context


def check_server(info: dict[str, Any], *, encrypted: bool) -> None:
    """Refuse a server that is too old, or in plaintext, by the INFO that it sends before it is told anything.

    Args:
        info: what it sends. It is changed where the server leaves TLS to its clients: nats-py would do without.
        encrypted: whether nothing may be told in plaintext.

    Raises:
        UnfitServerError: it cannot be used.

    """
    if encrypted and not (info.get("tls_required") or info.get("tls_available")):
        message = (
            "the server offers no TLS, and the URL asks for it with tls://; set up TLS on the server, "
            "or write nats:// for all servers where passwords and data may go in plaintext"
        )
        raise UnfitServerError(message)
    if encrypted:
        info["tls_required"] = True
    version = str(info.get("version", ""))
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    parsed = tuple(int(number) for number in numbers.groups()) if numbers else ()
    if parsed < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        message = f"the server is nats-server {version or 'of unknown version'}, and {oldest} or newer is needed"
        raise UnfitServerError(message)
    if parsed < ADVISED_SERVER:
        advised = ".".join(map(str, ADVISED_SERVER))
        log.warning(
            "an old nats-server; newer ones have fixes for scheduled messages", version=version, advised=advised
        )


async def check_inbox(broker: NatsBroker, settings: ConnectionSettings) -> None:
    """Refuse an account that may not hear the answers to what it asks, which would all be waited for in vain.

    Raises:
        EngineUnavailableError: it may not.

    """
    if not await broker.hears_answers():
        message = (
            f"cannot use NATS at {settings.shown_urls}: this account may not receive answers on "
            f"{settings.inbox_prefix}.>. Name its own prefix with NATS_INBOX_PREFIX"
        )
        raise EngineUnavailableError(message)


class _AccountInfo(msgspec.Struct):
    pass


async def check_jetstream(broker: NatsBroker, wire: Wire, settings: ConnectionSettings) -> None:
    """Refuse a server or account without JetStream; an account that may not ask is let through.

    Raises:
        EngineUnavailableError: there is no JetStream.

    """
    where = settings.shown_urls
    try:
        await broker.api.once("INFO", b"", _AccountInfo, JETSTREAM_SECONDS)
    except ApiError as error:
        if error.err_code in NO_JETSTREAM:
            message = f"cannot use NATS at {where}: {error.description}"
            raise EngineUnavailableError(message) from error
    except Unavailable as error:
        # A cluster that is just starting has nobody who answers either.
        if not wire.server_info.get("jetstream"):
            message = f"cannot use NATS at {where}: it runs without JetStream. Start nats-server with -js"
            raise EngineUnavailableError(message) from error
    except BrokerError:
        log.debug("could not ask for the state of JetStream")
