"""The connection itself: nats-py's client, with a plain-call way out and a short way in.

The one module that touches nats-py's insides (its methods with a leading underscore), for reasons that its
public surface cannot meet: an acknowledgement is sent without awaiting; what was not yet sent when a
connection broke is dropped, not sent after the reconnect, when somebody has read back that it is not stored;
no error that a server reports closes the client for good; and what comes needs no task and no coroutine.
``tests/integration/test_nats_connection.py`` fails if a release of nats-py moves one of them.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, cast

import nats.errors
from nats.aio.client import Client, Server

from ironflow.broker.nats.incoming import Handler, Incoming
from ironflow.broker.protocol import MessageTooLarge
from ironflow.logs import get_logger

FIRST_RECONNECT_SECONDS = 0.03
RECONNECT_SECONDS = 0.25
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_READER = "_io_reader"
_WRITER = "_io_writer"
_AT_END = "_eof"
"""Where nats-py's transport has its streams, and such a stream whether its end has come. There are no public names."""

_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')

log = get_logger(__name__)


class Wire(Client):
    """A connection that sends without awaiting and never gives up.

    Args:
        introduced: is given each server's INFO; raises :class:`nats.errors.Error` to refuse the server.

    Attributes:
        up: whether there is a connection now.
        on_up: called after each reconnect.
        on_down: called when the connection is lost; what was sent on it may have arrived or not.
        on_denied: called with "publish" or "subscription" and a subject (in lower case) that was refused.

    """

    def __init__(self, introduced: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.up = False
        self._socket: asyncio.WriteTransport | None = None
        """Where what is sent goes, while up."""
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str, str], None]] = []
        self._introduced = introduced
        self._handlers: dict[int, Handler] = {}
        self._kept: dict[int, bytes] = {}
        self._barriers: set[asyncio.Future[bool]] = set()
        self._unpinged: list[asyncio.Future[bool]] = []
        self._operations: set[asyncio.Task[None]] = set()
        self._will_flush = False
        self._was_shut = False

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server said of itself when this connection was made."""
        return self._server_info

    # Out

    def send(
        self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"", *, at_once: bool = False
    ) -> None:
        """Send a message with what else is sent in this turn of the event loop; drop it while disconnected.

        Args:
            subject: trusted to be a valid subject.
            payload: the body.
            reply: where an answer goes.
            headers: encoded, from ``NATS/1.0`` to the empty line; or nothing.
            at_once: spare it the wait for the end of the turn, for what is likely to be sent alone.

        Raises:
            MessageTooLarge: the server would close the connection over it.

        """
        size = len(headers) + len(payload)
        if size > self._max_payload:
            raise too_large(size, self._max_payload, subject)
        if headers:
            line = f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode()
            self._write(b"%b%b%b\r\n" % (line, headers, payload), at_once=at_once)
        else:
            line = f"PUB {subject} {reply} {size}\r\n".encode()
            self._write(b"%b%b\r\n" % (line, payload), at_once=at_once)

    def send_all(self, messages: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Send messages as :meth:`send` does; each is a subject, headers and a payload, and asks for no answer.

        None of them may be over max_payload.
        """
        self._write(
            b"".join(
                [
                    b"HPUB %b  %d %d\r\n%b%b\r\n"
                    % (subject.encode(), len(headers), len(headers) + len(payload), headers, payload)
                    for subject, headers, payload in messages
                ]
            )
        )

    async def barrier(self, timeout_seconds: float) -> bool:
        """Return True once the server has processed all that was sent before, False if it is out of reach.

        nats-py's own ``flush`` writes its PING past the commands that are still buffered.
        """
        if not self.up or self._transport is None:
            return False
        loop = asyncio.get_running_loop()
        passed: asyncio.Future[bool] = loop.create_future()
        self._barriers.add(passed)
        self._unpinged.append(passed)
        self._flush_soon()
        timer = loop.call_later(timeout_seconds, settle, passed)
        try:
            return await passed
        finally:
            timer.cancel()
            self._barriers.discard(passed)

    def _ping(self) -> None:
        """Write one PING behind all that is buffered, for all barriers of this turn of the event loop."""
        waiting, self._unpinged = self._unpinged, []
        if not self.up or self._transport is None:
            settle_all(waiting, value=False)
            return
        # nats-py settles the one that it is given without looking, so that one must not be cancelled.
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        pong.add_done_callback(lambda _: settle_all(waiting, value=True))
        self._pongs.append(pong)  # pyright: ignore[reportUnknownMemberType]
        self._pending.append(PING)

    # In

    def attach(self, subject: str, handler: Handler, *, keep: bool, group: str = "") -> int:
        """Subscribe; return what :meth:`detach` takes.

        Args:
            subject: may have wildcards.
            handler: called for each message as it is read from the connection, so it must be quick.
            keep: subscribe again after each reconnect; else a lost connection ends the subscription.
            group: the queue group that shares the messages.

        """
        self._sid += 1
        self._handlers[self._sid] = handler
        command = f"SUB {subject} {group} {self._sid}\r\n".encode()
        if keep:
            self._kept[self._sid] = command
        self._write(command)
        return self._sid

    def detach(self, subscription: int) -> None:
        """Receive nothing more, but for what is on its way."""
        self._kept.pop(subscription, None)
        self._write(f"UNSUB {subscription}\r\n".encode())

    def forget(self, subscription: int) -> None:
        """Drop what is still on its way after :meth:`detach`."""
        self._handlers.pop(subscription, None)

    async def _read_loop(self) -> None:
        """Have what comes handed over without a task, for as long as the connection lasts."""
        try:
            error = await self._read()
        except Exception as failure:  # noqa: BLE001 - whatever it is, nobody reads any more
            error = failure
        log.debug("a NATS connection has ended", error=repr(error), cause=repr(error.__cause__))
        if isinstance(error, nats.errors.UnexpectedEOF):
            await self._error_cb(error)
        await self._process_op_err(error)

    async def _read(self) -> Exception:
        """Have what comes handed over, and return what has ended the connection."""
        reader: asyncio.StreamReader = getattr(self._transport, _READER)
        transport = self._find_socket()
        # Some turns of the event loop have gone by since the handshake, and the server may have hung up meanwhile; not
        # at_eof(), which is only true once all is read.
        if transport.is_closing() or reader.exception() is not None or getattr(reader, _AT_END):
            return nats.errors.UnexpectedEOF()
        stream = cast("asyncio.BaseProtocol | None", transport.get_protocol())
        if stream is None:  # a TLS connection that was lost has none any more
            return nats.errors.UnexpectedEOF()
        incoming = Incoming(self._handlers, self._take_operation, stream)
        transport.set_protocol(incoming)
        # What nats-py's stream has read on its own account comes first.
        reader.feed_eof()
        if early := await reader.read():
            incoming.data_received(early)
        return await incoming.lost

    def _take_operation(self, line: bytes) -> None:
        """Do what the server asks for, or note what it says; both are rare."""
        operation = line[:4].upper()
        if operation == b"PING":
            self._write(PONG)
        elif operation == b"PONG":
            self._run(self._process_pong())
        elif operation == b"INFO":
            self._run(self._process_info(json.loads(line[4:])))
        elif operation == b"-ERR":
            self._run(self._process_err(line[4:].strip().decode(errors="replace").lower()))
        elif operation != b"+OK":
            message = f"not an operation of NATS: {line[:40]!r}"
            raise ValueError(message)

    def _run(self, operation: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(operation)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)

    # Life

    async def start(self, servers: list[str], **options: Any) -> None:
        """Connect, and from then on reconnect for ever.

        Args:
            servers: URLs.
            options: as nats-py's ``connect`` takes them.

        """
        await self.connect(
            servers,
            reconnected_cb=self._reconnected,
            reconnect_to_server_handler=choose_server,
            max_reconnect_attempts=-1,
            pending_size=0,
            **options,
        )
        self._came_up()

    async def shut(self, *, is_flushed: bool = False) -> None:
        """Disconnect for good, in whatever state the connection is, and however often this is cancelled meanwhile.

        Args:
            is_flushed: whether the server has all that was sent. Otherwise it may take nothing any more, and what has
                not left this process is dropped.

        """
        self.up = False
        self._was_shut = True
        if not is_flushed:
            self._abort()
        try:
            # Only made while connecting, which bad credentials already prevent.
            if self._flush_queue is not None:
                await self.close()
        finally:
            # nats-py takes for closed what it has begun to close, and a failed first attempt with another one open.
            self._cancel_tasks()
            if self._reconnection_task is not None:
                self._reconnection_task.cancel()
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call] # nats-py has no types there

    async def _reconnected(self) -> None:
        if self._was_shut:
            return
        self._came_up()
        for command in self._kept.values():
            self._write(command)
        for callback in self.on_up:
            callback()

    async def _process_op_err(self, e: Exception) -> None:
        if self.up:
            self.up = False
            self._forget_pending()
            self._abort()
            settle_all(self._barriers, value=False)
            for callback in self.on_down:
                callback()
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        if found := _PERMISSION.search(err_msg):
            for callback in self.on_denied:
                callback(found[1], found[2])
        else:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        if initial_connection:
            self._introduced(info)
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        self._check_wanted()
        await super()._connect_to_server(s)
        self._check_wanted()

    def _check_wanted(self) -> None:
        """Have whoever connects give up where the connection was shut meanwhile.

        Before Python 3.12 ``asyncio.wait_for``, which nats-py connects with, keeps a cancellation for itself that comes
        together with what it waits for.

        Raises:
            CancelledError: it was.

        """
        if self._was_shut:
            self._cancel_tasks()
            self._abort()
            raise asyncio.CancelledError

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            self._check_wanted()
            if not self.is_connected:
                self._cancel_tasks()
                message = "nats: the server closed the connection during the handshake"
                raise nats.errors.Error(message)  # noqa: TRY301 - as the other failures of a handshake
        except (OSError, nats.errors.Error):
            self._abort()
            raise
        except Exception as error:
            self._abort()
            # Anything else would end the task that reconnects.
            message = f"nats: {type(error).__name__}: {error}"
            raise nats.errors.Error(message) from error

    # Insides

    def _write(self, command: bytes, *, at_once: bool = False) -> None:
        if not self.up:
            return
        self._pending.append(command)
        if at_once:
            self._flush()
        else:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        """Send all that was written in this turn of the event loop and is not sent yet."""
        self._will_flush = False
        if self._unpinged:
            self._ping()
        self._flush()

    def _flush(self) -> None:
        """Send all that is written so far, past nats-py's task for that."""
        pending = self._pending
        if not pending or not self.up:
            return
        # Each message comes by here, so what follows calls as little as it can.
        self._pending = []
        self._pending_data_size = 0
        transport = self._socket
        # What has just closed refuses to take more, and is about to say that it has.
        if transport is not None and not transport.is_closing():
            transport.write(pending[0] if len(pending) == 1 else b"".join(pending))

    def _came_up(self) -> None:
        self._socket = self._find_socket()
        self.up = True

    def _find_socket(self) -> asyncio.WriteTransport:
        writer: asyncio.StreamWriter = getattr(self._transport, _WRITER)
        return writer.transport

    def _abort(self) -> None:
        """Drop the socket. Closing would wait until what is buffered was sent, if it ever is."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, _WRITER, None)
        if writer is not None:
            writer.transport.abort()

    def _cancel_tasks(self) -> None:
        for name in ("_reading_task", "_ping_interval_task", "_flusher_task"):
            task: asyncio.Task[None] | None = getattr(self, name)
            if task is not None:
                task.cancel()

    def _forget_pending(self) -> None:
        self._pending = []
        self._pending_data_size = 0


def settle(future: asyncio.Future[bool], *, value: bool = False) -> None:
    """Set the result of a future that has none."""
    if not future.done():
        future.set_result(value)


def settle_all(futures: Iterable[asyncio.Future[bool]], *, value: bool) -> None:
    """Set the result of those that have none."""
    for future in futures:
        settle(future, value=value)


def too_large(size: int, limit: int, subject: str) -> MessageTooLarge:
    """Return why a message is not sent."""
    return MessageTooLarge(f"{size:,} bytes; the server takes at most {limit:,} ({subject})")


def choose_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Take the server that was tried least: nearly at once after a loss, then with a jittered pause."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    pause = RECONNECT_SECONDS if server.reconnects else FIRST_RECONNECT_SECONDS
    return server, pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads reconnects, hides nothing
