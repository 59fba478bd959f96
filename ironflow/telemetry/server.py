"""Serves ``/livez``, ``/readyz`` and ``/metrics`` over HTTP, from a thread of its own.

The thread answers also while the event loop is blocked, which is when somebody wants to know. What has to be asked
of the loop is asked there, with a time limit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import http.server
import socketserver
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Protocol, Self, TypeVar

import prometheus_client
from prometheus_client.exposition import choose_encoder

from ironflow.logs import get_logger
from ironflow.telemetry.heartbeat import Heartbeat
from ironflow.telemetry.metrics import ProcessMetrics

T = TypeVar("T")

_log = get_logger("ironflow.health")

LIVE_SECONDS = 30.0
"""For so long the event loop may stand still before the process counts as dead. Leases are kept meanwhile."""
_LOOP_SECONDS = 2.5
_GRACE_SECONDS = 0.25
_CLIENT_SECONDS = 5.0
_TEXT = "text/plain; charset=utf-8"

_Answer = tuple[HTTPStatus, str, bytes]


class Observed(Protocol):
    """A process as its probes see it."""

    @property
    def metrics(self) -> ProcessMetrics:
        """What it counts."""
        ...

    async def problems(self) -> Sequence[str]:
        """Return why it is not ready; nothing where it is."""
        ...

    async def sample(self) -> None:
        """Bring the metrics up to date that are measured rather than counted."""
        ...


class HealthServer:
    """Has a process answer probes and scrapes while its context is open.

    Args:
        port: where to listen, on all addresses; 0 takes a free one.
        observed: the process, whose event loop is the running one.

    Raises:
        OSError: the port is taken, or not ours to take.

    """

    def __init__(self, port: int, observed: Observed) -> None:
        self._observed = observed
        self._loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(observed.metrics.event_loop_lag.observe)
        self._beating: asyncio.Task[None] | None = None
        self._scrape = threading.Lock()
        self._server = _Server(("", port), functools.partial(_Handler, self._answer))
        self._thread = threading.Thread(target=self._server.serve_forever, name="ironflow-health", daemon=True)

    async def __aenter__(self) -> Self:
        # They would double the number of series, and tell when each was first seen.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._beating = asyncio.create_task(self._heartbeat.run(), name="heartbeat")
        self._thread.start()
        _log.info("health and metrics are served", port=self.port)
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._beating is not None:
            self._beating.cancel()
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def _answer(self, path: str, accept: str) -> _Answer:
        match path:
            case "/livez":
                return _verdict(self._stuck())
            case "/readyz":
                return _verdict(self._unready())
            case "/metrics":
                return self._metrics(accept)
            case _:
                return HTTPStatus.NOT_FOUND, _TEXT, b"there are /livez, /readyz and /metrics\n"

    def _stuck(self) -> Sequence[str]:
        seconds = self._heartbeat.stopped_for()
        return () if seconds < LIVE_SECONDS else (f"the event loop has not turned for {seconds:.0f} s",)

    def _unready(self) -> Sequence[str]:
        try:
            return self._in_loop(self._observed.problems)
        except TimeoutError:
            return (f"the event loop did not answer within {_LOOP_SECONDS:g} s",)

    def _metrics(self, accept: str) -> _Answer:
        encode, content_type = choose_encoder(accept)
        with self._scrape:
            # What cannot be measured now is told as it was measured last.
            with contextlib.suppress(TimeoutError):
                self._in_loop(self._observed.sample)
            return HTTPStatus.OK, content_type, encode(self._observed.metrics.registry)

    def _in_loop(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine in the event loop.

        Raises:
            TimeoutError: it took too long, or the loop is closed.

        """

        async def asked() -> T:
            async with asyncio.timeout(_LOOP_SECONDS):
                return await ask()

        future = _submit(asked(), self._loop)
        try:
            return future.result(_LOOP_SECONDS + _GRACE_SECONDS)
        except concurrent.futures.CancelledError as error:
            raise TimeoutError from error
        finally:
            future.cancel()


def _submit(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError as error:  # the loop is closed
        coroutine.close()
        raise TimeoutError from error


def _verdict(problems: Sequence[str]) -> _Answer:
    if not problems:
        return HTTPStatus.OK, _TEXT, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "".join(f"{problem}\n" for problem in problems).encode()


class _Server(socketserver.ThreadingTCPServer):
    """Listens; each request has a thread."""

    # http.server's own class asks DNS for this machine's name first, which may take long.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's
        _log.debug("a probe or scrape was not answered", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = _CLIENT_SECONDS
    server_version = "ironflow"
    sys_version = ""

    def __init__(self, answer: Callable[[str, str], _Answer], *args: Any) -> None:
        self._answer = answer
        super().__init__(*args)

    def do_GET(self) -> None:
        status, content_type, body = self._answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: probes come every few seconds."""
