"""``just bench-peers``: the workloads A to G on Ironflow and on its peers, in one session, side by side.

The peers are installed once, into a folder outside of the repository: ``IRONFLOW_BENCH_PEERS``, by default one
in the user's cache. Rounds alternate between the systems, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.bench.drive import SYSTEMS, add_options
from tests.bench.report import Measured, conditions, drive, ratios, table
from tests.bench.workloads import WORKLOADS

PEERS = [name for name in SYSTEMS if not name.startswith("ironflow")]
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"


def install(folder: Path) -> Path:
    """Install the peers where they are not yet, and return the Python that has them."""
    python = folder / "venv" / "bin" / "python"
    done = folder / "installed"
    wanted = f"{REQUIREMENTS.read_text(encoding='utf-8')}{RESTATE_SERVER}\n"
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing the peers into {folder}", file=sys.stderr)
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS], check=True)
    subprocess.run(  # its package manager starts with the shell's PATH
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, RESTATE_SERVER],  # noqa: S607
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done.write_text(wanted, encoding="utf-8")
    return python


def main() -> int:
    """Measure, and print what each figure is and how many times better ours is."""
    parser = argparse.ArgumentParser(prog="just bench-peers")
    add_options(parser)
    parser.add_argument("--systems", default=",".join(["ironflow", *PEERS]), help="which, with commas between them")
    options = parser.parse_args()
    systems = options.systems.split(",")
    if unknown := [name for name in systems if name not in SYSTEMS]:
        parser.error(f"no system {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    if not set(options.workloads.upper()) <= set(WORKLOADS):
        parser.error(f"workloads are {', '.join(WORKLOADS)}, got {options.workloads}")
    folder = Path(os.environ.get("IRONFLOW_BENCH_PEERS") or Path.home() / ".cache" / "ironflow-bench-peers")
    os.environ["IRONFLOW_BENCH_PEERS"] = str(folder)
    python = install(folder)
    measured: dict[str, Measured] = {}
    rounds, options.rounds = options.rounds, 1
    for number in range(rounds):
        for name in systems:
            own = sys.executable if name.startswith("ironflow") else python
            if (one := drive(name, options, python=own)) is not None:
                _add(measured, name, one)
        print(f"\nafter round {number + 1} of {rounds}\n", _shown(measured), sep="\n", flush=True)
    return 0 if len(measured) == len(systems) else 1


def _add(measured: dict[str, Measured], name: str, one: Measured) -> None:
    """Add a round to what was measured of a system."""
    before = measured.setdefault(name, one)
    if before is not one:
        before.load = f"{before.load}, {one.load}"
        for figure, values in one.rounds.items():
            before.rounds.setdefault(figure, []).extend(values)


def _shown(measured: dict[str, Measured]) -> str:
    """Return the tables."""
    tables = [table(list(measured.values()))]
    if "ironflow" in measured:
        tables.append(ratios(measured["ironflow"], [one for name, one in measured.items() if name != "ironflow"]))
    return "\n\n".join([*tables, conditions(list(measured.values()))])


if __name__ == "__main__":
    sys.exit(main())
