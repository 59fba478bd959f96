"""The in-process server, and how to connect to it."""

from __future__ import annotations

from ironflow.broker.local.connection import LocalBroker
from ironflow.broker.local.server import ServerProcess
from ironflow.broker.protocol import Unavailable

PATIENCE_SECONDS = 15.0
"""A leader change takes up to 9 s, so the NATS adapter waits this long too."""


class LocalServer(ServerProcess):
    """A JetStream server in memory; see :class:`ironflow.broker.local.server.ServerProcess` for its arguments."""

    def connect(self, *, patience_seconds: float = PATIENCE_SECONDS) -> LocalBroker:
        """Return a new connection.

        Args:
            patience_seconds: how long its calls wait for a server that is down, in seconds; default 15.

        Raises:
            Unavailable: the server is stopped.

        """
        if not self.running:
            raise Unavailable("the server is stopped")
        connection = LocalBroker(self, patience_seconds)
        self._connections[connection] = None
        return connection
