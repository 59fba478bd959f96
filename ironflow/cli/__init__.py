"""The ``ironflow`` command, and what the commands of all processes share."""
