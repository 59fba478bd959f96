"""A message that a consumer handed out."""

from __future__ import annotations

import re

from ironflow.broker.nats.wire import Wire

ACK = b"+ACK"
NAK = b"-NAK"
PROGRESS = b"+WPI"

_TOKENS_WITHOUT_DOMAIN = 9
_COUNTS_WITHOUT_DOMAIN = 4
_COUNTS_WITH_DOMAIN = 6


_LEASE = re.compile(r"\$JS\.ACK(?:\.[^.\s]+\.[^.\s]+)?\.([^.\s]+)\.([^.\s]+)(?:\.\d+){5}(?:\.[^.\s]+)?")


def names_delivery(lease: str, stream: str, consumer: str) -> bool:
    """Tell whether a lease is the subject that takes the acknowledgements of a delivery of that consumer."""
    found = _LEASE.fullmatch(lease)
    return found is not None and found.groups() == (stream, consumer)


def counts_of(lease: str) -> tuple[int, int]:
    """Return which delivery of its consumer one is, from 1, and how many messages that had to deliver behind it."""
    tokens = lease.split(".")
    start = _COUNTS_WITHOUT_DOMAIN if len(tokens) == _TOKENS_WITHOUT_DOMAIN else _COUNTS_WITH_DOMAIN
    return int(tokens[start + 2]), int(tokens[start + 4])


class NatsDelivery:
    """See :class:`ironflow.broker.protocol.Delivery`.

    Everything but the subject and the payload stands in the subject that takes the acknowledgement, as
    ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>``, or
    with ``<domain>.<account hash>`` behind ``ACK``, and perhaps more tokens at the end.
    """

    __slots__ = ("_wire", "delivered", "lease", "payload", "sequence", "subject", "time_ms")

    def __init__(self, wire: Wire, subject: bytes, lease: bytes, payload: bytes) -> None:
        self._wire = wire
        # One that is no text means nothing to anybody, and is done with as that.
        self.subject = subject.decode(errors="replace")
        self.payload = payload
        self.lease = lease.decode(errors="replace")
        tokens = self.lease.split(".")
        start = _COUNTS_WITHOUT_DOMAIN if len(tokens) == _TOKENS_WITHOUT_DOMAIN else _COUNTS_WITH_DOMAIN
        self.delivered = int(tokens[start])
        self.sequence = int(tokens[start + 1])
        self.time_ms = int(tokens[start + 3]) // 1_000_000

    def ack(self) -> None:
        """Tell the server that it is done with."""
        self._wire.send(self.lease, ACK)

    def nak(self, delay_seconds: float = 0.0) -> None:
        """Hand it back, to be delivered again after the delay."""
        if delay_seconds <= 0:
            self._wire.send(self.lease, NAK)
        else:
            self._wire.send(self.lease, b'%b {"delay":%d}' % (NAK, round(delay_seconds * 1_000_000_000)))
