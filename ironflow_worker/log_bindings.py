"""What all that is logged says of the run and the step that it is about, libraries' lines included.

They are structlog's own variables. To have it look them up each time took a twentieth of a worker's time.
"""

from __future__ import annotations

import contextvars
from typing import Any

import structlog


def _logged(name: str) -> contextvars.ContextVar[Any]:
    """Return the variable in which structlog keeps what a name stands for in all that is logged."""
    tokens = structlog.contextvars.bind_contextvars(**{name: ""})
    structlog.contextvars.reset_contextvars(**tokens)
    return tokens[name].var


logged_run = _logged("run")
logged_function = _logged("function")
logged_step = _logged("step")
logged_attempt = _logged("attempt")
