"""Tests against the real nats-server."""
