"""What stands on the command line: the names of benches, then the options of one."""

from __future__ import annotations

import itertools
import sys


def names() -> list[str]:
    """Return the benches that are named."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))


def options() -> list[str]:
    """Return all that comes behind the names."""
    return sys.argv[1 + len(names()) :]
