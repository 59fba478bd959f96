"""A server that hangs up just behind the handshake is noticed at once, however it does it, on either event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ironflow.broker.nats.wire import Wire
from tests.support.identities import make_certificates
from tests.support.servers import info_line

NOTICES_WITHIN_SECONDS = 5.0
"""Far more than it takes, and far less than pings would take."""
PING_SECONDS = 600

RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], object]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


class HangsUp:
    """A server that shakes hands, and ends each of its first connections at once."""

    def __init__(self, tls: ssl.SSLContext | None, *, resets: bool, times: int = 1) -> None:
        self._tls = tls
        self._resets = resets
        self._left = times
        self._writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(info_line("2.15.1", headers=True, **({"tls_required": True} if self._tls else {})))
        await writer.drain()
        if self._tls:
            await writer.start_tls(self._tls)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                await writer.drain()
                if self._left:
                    self._left -= 1
                    self._hang_up(writer)
                    return

    def _hang_up(self, writer: asyncio.StreamWriter) -> None:
        if not self._resets:
            writer.close()
            return
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


async def come_back(server_tls: ssl.SSLContext | None, client_tls: ssl.SSLContext | None, *, resets: bool) -> None:
    """Connect to a server that hangs up; return once the connection stands again."""
    made = HangsUp(server_tls, resets=resets)
    server = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    wire, back = Wire(lambda _: None), asyncio.Event()
    wire.on_up.append(back.set)

    async def ignore(_: Exception) -> None:
        """What is lost is told by coming back."""

    options = {"tls": client_tls} if client_tls else {}
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(NOTICES_WITHIN_SECONDS):
            await wire.start([url], error_cb=ignore, ping_interval=PING_SECONDS, **options)
            # Where it was noticed during the first connection, that was made anew, and stands.
            if wire.is_connected and made._left == 0 and len(made._writers) > 1:  # noqa: SLF001 - ours
                return
            await back.wait()
    finally:
        await wire.shut()
        made.close()
        server.close()


@pytest.mark.parametrize("loop", RUNNERS)
@pytest.mark.parametrize("resets", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_connection_that_is_lost_behind_the_handshake_is_made_again_at_once(
    *, loop: str, resets: bool, encrypted: bool, tmp_path: Path
) -> None:
    server_tls = client_tls = None
    if encrypted:
        make_certificates(tmp_path)
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        client_tls = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    RUNNERS[loop](come_back(server_tls, client_tls, resets=resets))
