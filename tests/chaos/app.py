"""What the workers of the harness load."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.witness import FileWitness
from tests.chaos.workflow import program_functions

program, child_program = program_functions(FileWitness(Path(os.environ["CHAOS_FOLDER"])))
