"""The broker over NATS JetStream. The only package that imports the NATS client."""

from ironflow.broker.nats.adapter import NatsBroker
from ironflow.broker.nats.connection import connect
from ironflow.broker.nats.settings import ConnectionSettings

__all__ = ["ConnectionSettings", "NatsBroker", "connect"]
