"""Runs one command and ends it when the process that asked for it is gone. Started by path, never imported.

It prints the command's process id, then waits on its standard input, of which the parent holds the other
end: that reaches its end when the parent closes it or dies, however it dies. A process of its own, since the
parent may have threads (which makes code between fork and exec unsafe, and the kernel's own parent-death
signal fires when the *thread* that started a child ends). Only the standard library, for a start in milliseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

GRACE_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main(command: list[str]) -> None:
    """Run *command* until it ends by itself or the parent is gone."""
    # The data folder's lock is an inherited descriptor: it stays taken for as long as the command lives.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=die_with_guard if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads yet
    )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    threading.Thread(target=exit_with, args=(child,), daemon=True).start()
    sys.stdin.buffer.read()
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def die_with_guard() -> None:
    """Let the kernel end the command if the guard itself is killed."""
    import ctypes  # noqa: PLC0415 - Linux only

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)


def exit_with(child: subprocess.Popen[bytes]) -> None:
    """End the guard when the command ends, also while it waits for the parent."""
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(sys.argv[1:])
