"""A function with some of everything in its life; its bodies are seen in the file that WITNESS names."""

from __future__ import annotations

import os
import time

from tests.support.lives import life_of


def witness(run: str, body: str, what: str) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{run} {body} {what} {time.time_ns() // 1_000_000}\n".encode())
    finally:
        os.close(handle)


life = life_of(witness)
