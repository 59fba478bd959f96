"""Peers under measurement. Their libraries stand in an environment of their own, so nothing else imports this."""
