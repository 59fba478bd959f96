"""``ironflow-engine`` and ``python -m ironflow_engine``.

Imports are most of its first second, and Ctrl-C would end them with a traceback. So this imports next to nothing.
"""

from __future__ import annotations

import os
import signal

_INTERRUPTED = 130


def main() -> None:
    """Run the command; an interrupt before it can take care of one is one line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as "nohup" has it
        signal.signal(signal.SIGINT, _interrupted)
    from ironflow_engine.main import main as run  # noqa: PLC0415 - interrupts are taken care of now

    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _interrupted(_number: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
