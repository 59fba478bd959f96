"""Child processes are kept running, shown, and never left behind; with tiny children that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from ironflow.cli.supervisor import Child, Patience, Program, Say, Service, describe_exit
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are POSIX")

ROOT = Path(__file__).parents[2]
IMPATIENT = Patience(stop=0.3, first_pause=0.01, longest_pause=0.04, healthy=60.0)
QUIET = Patience(stop=5.0, first_pause=60.0, longest_pause=60.0)

REST = "import signal; print('up', flush=True); signal.pause()"
LEAVE = """
import os, signal, sys
def leave(*_):
    os.write(1, b'leaving\\n')
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print('up', flush=True)
signal.pause()
"""
STAY = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True: time.sleep(60)
"""
WITH_CHILD = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import signal; signal.pause()'])
print('child', child.pid, flush=True)
signal.pause()
"""


class Lines:
    """What was said, line by line."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def say(self, name: str, line: str) -> None:
        self.all.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.all if who == name]

    async def until(self, line: str, times: int = 1) -> None:
        """Wait until a line was said so often."""

        def said() -> None:
            assert [text for _, text in self.all].count(line) >= times, self.all

        await eventually(said, within=10.0)


@pytest.fixture
def lines() -> Lines:
    return Lines()


def program(code: str, name: str = "worker", **environment: str) -> Program:
    return Program(name, (sys.executable, "-I", "-S", "-c", code), {**os.environ, **environment})


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a service until the block ends, and wait until it has stopped."""
    task = asyncio.create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet collected by its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has just gone, or this system has no such files
        return not Path("/proc/self").exists()


async def until_gone(*pids: int) -> None:
    def gone() -> None:
        assert not [pid for pid in pids if is_alive(pid)]

    await eventually(gone, within=10.0)


# Output


async def test_every_line_of_a_child_is_shown_with_its_name_and_its_end_code_returned(lines: Lines) -> None:
    code = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(3)"
    child = await Child.start(program(code), lines.say)
    assert await child.wait() == 3
    assert sorted(lines.all) == [("worker", "to stderr"), ("worker", "to stdout")]


async def test_a_last_line_without_an_end_and_bytes_that_are_no_text_are_shown_too(lines: Lines) -> None:
    code = r"import sys; sys.stdout.buffer.write(b'first\r\n\xff no end')"
    child = await Child.start(program(code), lines.say)
    await child.wait()
    assert lines.of("worker") == ["first", "\N{REPLACEMENT CHARACTER} no end"]


async def test_a_child_sees_the_environment_that_it_was_given(lines: Lines) -> None:
    child = await Child.start(program("import os; print(os.environ['NATS_URL'])", NATS_URL="nats://x"), lines.say)
    await child.wait()
    assert lines.of("worker") == ["nats://x"]


# Stopping


async def test_a_service_that_is_cancelled_lets_its_child_end_in_good_order(lines: Lines) -> None:
    async with running(Service(program(LEAVE), lines.say, QUIET)):
        await lines.until("up")
    assert lines.of("worker") == ["up", "leaving"]


async def test_a_service_that_is_cancelled_while_its_child_starts_lets_it_end_in_good_order_too(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, is_up, gate = Child.start, asyncio.Event(), asyncio.Event()

    async def slow(program: Program, say: Say) -> Child:
        child = await start(program, say)
        await lines.until("up")
        is_up.set()
        await gate.wait()
        return child

    monkeypatch.setattr(Child, "start", slow)
    async with running(Service(program(LEAVE), lines.say, QUIET)) as service:
        await is_up.wait()
        service.cancel()
        gate.set()
    assert lines.of("worker") == ["up", "leaving"]


async def test_a_child_that_ignores_sigterm_is_killed_after_its_time(lines: Lines) -> None:
    async with running(Service(program(STAY), lines.say, IMPATIENT)):
        await lines.until("up")
    assert lines.of("worker") == ["up", "has not ended within 0.3 s and is killed"]


async def test_killing_a_service_ends_its_child_at_once(lines: Lines) -> None:
    service = Service(program(STAY), lines.say, QUIET)
    async with running(service) as task:
        await lines.until("up")
        task.cancel()
        await asyncio.sleep(0)
        service.kill()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(QUIET.stop / 2):
                await task


async def test_what_a_child_has_started_ends_with_it(lines: Lines) -> None:
    async with running(Service(program(WITH_CHILD), lines.say, QUIET)):
        await eventually(lambda: grandchild(lines), within=10.0)
    await until_gone(grandchild(lines))


async def test_nothing_is_left_when_the_supervisor_itself_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "supervise.py"
    script.write_text(
        f"""
import asyncio, os, sys
sys.path.insert(0, {str(ROOT)!r})
from ironflow.cli.supervisor import Program, Service
code = "import os, signal; print(os.getpid(), 'up', flush=True); signal.pause()"
command = (sys.executable, "-I", "-S", "-c", code)
asyncio.run(Service(Program("worker", command, dict(os.environ)), lambda _, line: print(line, flush=True)).run())
""",
        encoding="utf-8",
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, script, stdout=asyncio.subprocess.PIPE)
    assert supervisor.stdout is not None
    child = int((await supervisor.stdout.readline()).split()[0])
    supervisor.kill()
    await supervisor.wait()
    await until_gone(child)


# Crashes


async def test_a_child_that_crashed_is_started_again_with_growing_pauses(lines: Lines) -> None:
    async with running(Service(program("import sys; sys.exit(7)"), lines.say, IMPATIENT)):
        await lines.until("ended with code 7; starting it again in 0.04 s", times=2)
    assert lines.of("worker")[:4] == [
        f"ended with code 7; starting it again in {pause} s" for pause in ("0.01", "0.02", "0.04", "0.04")
    ]


async def test_a_child_that_was_killed_is_said_to_have_been(lines: Lines) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    async with running(Service(program(code), lines.say, QUIET)):
        await lines.until("was ended by SIGKILL; starting it again in 60 s")


async def test_a_child_that_ran_for_long_starts_over_with_the_first_pause(lines: Lines) -> None:
    patience = Patience(first_pause=0.01, longest_pause=9.0, healthy=0.0)
    async with running(Service(program("pass"), lines.say, patience)):
        await lines.until("ended with code 0; starting it again in 0.01 s", times=3)
    assert not [line for line in lines.of("worker") if not line.endswith("0.01 s")]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with code 0"),
        (1, "ended with code 1"),
        (-signal.SIGKILL, "was ended by SIGKILL"),
        (128 + signal.SIGTERM, "was ended by SIGTERM"),
        (255, "ended with code 255"),
    ],
)
def test_how_a_process_ended_is_told(code: int, text: str) -> None:
    assert describe_exit(code) == text


# Replacing


async def test_a_program_that_is_replaced_ends_before_the_next_one_starts(lines: Lines) -> None:
    service = Service(program(LEAVE), lines.say, QUIET)
    async with running(service):
        await lines.until("up")
        await service.replace(program("import signal; print('new', flush=True); signal.pause()"))
        await lines.until("new")
    assert lines.of("worker") == ["up", "leaving", "new"]


async def test_a_program_that_waits_to_be_started_again_is_replaced_at_once(lines: Lines) -> None:
    service = Service(program("pass"), lines.say, QUIET)
    async with running(service):
        await lines.until("ended with code 0; starting it again in 60 s")
        await service.replace(program(REST))
        await lines.until("up")


async def test_a_program_can_be_replaced_while_it_is_being_started(lines: Lines) -> None:
    service = Service(program(STAY), lines.say, IMPATIENT)
    async with running(service):
        await asyncio.sleep(0)
        await service.replace(program("import signal; print('new', flush=True); signal.pause()"))
        await lines.until("new")


def grandchild(lines: Lines) -> int:
    """Return the process id that a child has said it started."""
    found = [match for line in lines.of("worker") if (match := re.fullmatch(r"child (\d+)", line))]
    assert found
    return int(found[0][1])
