"""Starts an engine or a worker as ``ironflow-engine`` and ``ironflow-worker`` do, on a broker that goes wrong.

    python -m tests.chaos.child engine --lease 1
    python -m tests.chaos.child worker --queue chaos tests.chaos.app

CHAOS_FOLDER is the harness's folder. CHAOS_SEED makes its choices, and CHAOS_CRASH, like "12:before", ends it at
that durable write.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
from pathlib import Path
from typing import Literal, cast

import ironflow.broker.nats
from ironflow.broker.nats import ConnectionSettings
from ironflow.broker.protocol import Broker
from tests.chaos.faulty_broker import CrashPoint, FaultSwitch, FaultyBroker
from tests.chaos.witness import FileWitness

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the command that the first argument names."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the harness
    _go_wrong_on_purpose(Path(os.environ["CHAOS_FOLDER"]))
    kind = sys.argv.pop(1)
    if kind == "engine":
        from ironflow_engine.main import main as run  # noqa: PLC0415 - one process is either of them
    else:
        from ironflow_worker.main import main as run  # noqa: PLC0415 - one process is either of them
    run()


def _go_wrong_on_purpose(folder: Path) -> None:
    """Have every connection that this process opens be a faulty one."""
    connect = ironflow.broker.nats.connect
    number, _, stage = os.environ.get("CHAOS_CRASH", "0:before").partition(":")
    crash = CrashPoint(int(number), cast("Literal['before', 'after']", stage))
    switch, witness = FaultSwitch(folder / "faults.json"), FileWitness(folder)
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "0")) + os.getpid())

    async def connect_faulty(settings: ConnectionSettings) -> Broker:
        return FaultyBroker(await connect(settings), switch, crash, witness, chance)

    ironflow.broker.nats.connect = connect_faulty  # type: ignore[assignment]


if __name__ == "__main__":
    main()
