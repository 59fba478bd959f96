"""What was given, and what comes of it: an exit code, one line that says what to do, and nothing stored.

The commands run as processes against a real nats-server and a real engine; see tests/support/commands.py.
"""
