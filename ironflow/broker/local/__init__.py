"""A broker within the process: the contract of :mod:`ironflow.broker.protocol` in memory, for tests.

    server = LocalServer()
    broker = server.connect()

Run it with :func:`run_virtual`, and the hours that a workflow sleeps take no time.
"""

from ironflow.broker.local.connection import LocalBroker
from ironflow.broker.local.local_server import LocalServer
from ironflow.broker.local.server import Interceptor, Stage
from ironflow.broker.local.virtual_time import StuckError, VirtualTimeLoop, run_virtual

__all__ = [
    "Interceptor",
    "LocalBroker",
    "LocalServer",
    "Stage",
    "StuckError",
    "VirtualTimeLoop",
    "run_virtual",
]
