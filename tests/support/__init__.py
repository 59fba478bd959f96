"""What tests of all kinds share: waiting for a condition, servers, names of their own."""

from tests.support.eventually import eventually, holds_for
from tests.support.servers import fresh_namespace, nats_server_in

__all__ = ["eventually", "fresh_namespace", "holds_for", "nats_server_in"]
