"""What the guarantees say, while everything is broken on purpose. ``python -m tests.chaos --help``."""
