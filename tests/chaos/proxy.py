"""A TCP proxy between one process and NATS, which can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncGenerator
from typing import Literal, Self

import msgspec

CHUNK = 64 * 1024
CONNECT_SECONDS = 2.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST instead of FIN."""
IN_VAIN = (b"NATS/1.0 503", b'"err_code":10008')
"""What the server answers while a stream has no leader."""


class ProxyMode(msgspec.Struct, frozen=True):
    """What happens to the bytes.

    What is held back goes on when the mode changes, as TCP does after a partition.

    Attributes:
        hold_up: bytes to the server are held back.
        hold_down: bytes from the server are held back.
        delay: seconds by which each chunk comes later.

    """

    hold_up: bool = False
    hold_down: bool = False
    delay: float = 0.0


ModeName = Literal["pass", "black_hole", "deaf", "mute", "slow"]
MODES: dict[ModeName, ProxyMode] = {
    "pass": ProxyMode(),
    "black_hole": ProxyMode(hold_up=True, hold_down=True),
    "mute": ProxyMode(hold_up=True),
    "deaf": ProxyMode(hold_down=True),
    "slow": ProxyMode(delay=0.1),
}


class Proxy:
    """Forwards connections to a port of this machine; an async context manager.

    Args:
        upstream: the server's port.

    Attributes:
        port: where it listens.
        in_vain: when, in milliseconds by the machine's clock, a connection was asked for that could not be had, or the
            server answered that nobody is there who could do what was asked for.

    """

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.in_vain: list[float] = []
        self._upstream = upstream
        self._mode = MODES["pass"]
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def set(self, mode: ProxyMode) -> None:
        """Treat all bytes so from now on, those of open connections too."""
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    def reset(self) -> None:
        """Break all connections off, as a crashed router does; new ones are served."""
        for writers in self._connections.values():
            for writer in writers:
                _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (writer,)
        try:
            async with self._upstream_connection() as (server_reader, server_writer):
                self._connections[task] = (writer, server_writer)
                pumps = [
                    asyncio.create_task(self._pump(reader, server_writer, up=True)),
                    asyncio.create_task(self._pump(server_reader, writer, up=False)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, TimeoutError):
            self.in_vain.append(time.time() * 1000)  # the server is down, so the client's connection ends here
        except asyncio.CancelledError:
            pass  # the harness ends
        finally:
            del self._connections[task]
            writer.close()

    @contextlib.asynccontextmanager
    async def _upstream_connection(self) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._mode.delay:
                    await asyncio.sleep(self._mode.delay)
                while self._mode.hold_up if up else self._mode.hold_down:
                    await self._changed.wait()
                if not up and (count := sum(map(data.count, IN_VAIN))):
                    self.in_vain += [time.time() * 1000] * count
                writer.write(data)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
