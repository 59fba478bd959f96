"""Following runs: one until it ends, or the newest ones of a namespace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ironflow.cli.common import ExitCode, complain, one_line, put
from ironflow.cli.output import (
    format_elapsed,
    format_error,
    format_json,
    format_status,
    path_of,
    print_json_line,
    printable,
    run_document,
)
from ironflow.clock import now_ms, to_iso
from ironflow.errors import EngineUnavailableError, RunNotFoundError
from ironflow.names import readable
from ironflow.records import TERMINAL

if TYPE_CHECKING:
    from ironflow.broker.protocol import Broker, Request
    from ironflow.client import Client
    from ironflow.messages import RunView, StepView

T = TypeVar("T")

FOLLOWED = 20
"""How many of the newest runs are followed."""
CALM_SECONDS = 1.0
"""How often the engine is asked where no hint comes; only the end of a run has one."""
LEAST_SECONDS = 0.2
"""How often it is asked at the most, however many runs end."""
MOST_SHARE = 0.2
"""How much of the time may go into asking, so that a run with very many steps is asked for less often."""


class Show(Protocol):
    """Prints what has changed."""

    def run(self, view: RunView) -> None:
        """Print a run that is new or has changed."""
        ...

    def run_with_steps(self, view: RunView, steps: Sequence[StepView]) -> None:
        """Print a run of which something has changed."""
        ...


class LineShow:
    """Prints a JSON document a line: the whole of what has changed."""

    def run(self, view: RunView) -> None:
        """Print the run as ``runs list`` does."""
        print_json_line(run_document(view))

    def run_with_steps(self, view: RunView, steps: Sequence[StepView]) -> None:
        """Print the run as ``runs get`` does."""
        print_json_line(run_document(view, steps))


class TextShow:
    """Prints a line for each run, and each step, that is not as it was printed last."""

    def __init__(self) -> None:
        self._steps: set[str] = set()
        self._status = ""

    def run(self, view: RunView) -> None:
        """Print the run's status."""
        took = f" after {format_elapsed(view.started_at, view.finished_at)}" if view.finished_at else ""
        result = format_error(view.error) or format_json(view.output)
        time = view.finished_at or to_iso(now_ms())
        status = format_status(view.status, view.compensation)
        self._line(time, f"{view.id}  {view.function}", f"{status}{took}", result)

    def run_with_steps(self, view: RunView, steps: Sequence[StepView]) -> None:
        """Print the steps that are new or have another status, and the run's status where that is new."""
        for step in steps:
            key = f"{view.id} {view.attempt} {path_of(step)} {step.status} {step.attempt}"
            if key not in self._steps:
                self._steps.add(key)
                attempt = f" (attempt {step.attempt})" if step.attempt > 1 else ""
                result = format_error(step.error) or format_json(step.output)
                time = step.finished_at or step.started_at
                self._line(time, f"{view.id}  {path_of(step)}", f"{step.status}{attempt}", result)
        if view.status != self._status:
            self._status = view.status
            self.run(view)

    def _line(self, time: str, *parts: str) -> None:
        put("  ".join([f"{time[:19]}Z", *(printable(part) for part in parts if part)]))


@contextlib.contextmanager
def naming_run(run: str) -> Generator[None]:
    """Say which run there is none of."""
    try:
        yield
    except RunNotFoundError as error:
        msg = f"no run {readable(run)}"
        raise RunNotFoundError(msg) from error


async def follow_run(client: Client, run_id: str, show: Show) -> ExitCode:
    """Print each change of a run until it ends.

    Raises:
        RunNotFoundError: there is no run with that id.
        EngineUnavailableError: no engine answers; later on, one that is away for a while is waited for.

    """
    # An id that was mistyped must not become a subject, which may not hold any text.
    await client.engine.run(run_id)
    last: tuple[RunView, list[StepView]] | None = None
    async with _pace(client.broker, client.names.ended(run_id)) as pace:
        while True:
            found = await pace.ask(lambda: _run_and_steps(client, run_id))
            if found is not None:
                if found != last:
                    show.run_with_steps(*found)
                    last = found
                if found[0].status in TERMINAL:
                    return ExitCode.DONE if found[0].status == "completed" else ExitCode.FAILED
            await pace.rest()


async def follow_namespace(client: Client, show: Show) -> None:
    """Print each change of the newest runs, for ever.

    Raises:
        EngineUnavailableError: no engine answers; later on, one that is away for a while is waited for.

    """
    seen: dict[str, RunView] = {}
    newest = await _newest(client)
    async with _pace(client.broker, client.names.every_end) as pace:
        while True:
            for view in reversed(newest):
                if seen.get(view.id) != view:
                    show.run(view)
            seen = {view.id: view for view in newest}
            await pace.rest()
            newest = await pace.ask(lambda: _newest(client)) or newest


async def _run_and_steps(client: Client, run_id: str) -> tuple[RunView, list[StepView]]:
    # The run first: once it says that it has ended, the steps are all there.
    return await client.engine.run(run_id), await client.engine.steps(run_id)


async def _newest(client: Client) -> list[RunView]:
    return [view async for view in client.engine.runs(limit=FOLLOWED)]


class Pace:
    """When to ask the engine again: on a hint, or after a while, and never in a hurry."""

    def __init__(self) -> None:
        self._hint = asyncio.Event()
        self._away = False
        self._took = 0.0

    async def on_hint(self, _request: Request) -> None:
        """Note that something has ended."""
        self._hint.set()

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """Return the answer; None where no engine gives one, which is mentioned once."""
        clock = asyncio.get_running_loop().time
        began = clock()
        self._hint.clear()
        try:
            answer = await question()
        except EngineUnavailableError as error:
            if not self._away:
                complain(f"waiting for an engine: {one_line(str(error))}")
            self._away = True
            return None
        self._away = False
        self._took = clock() - began
        return answer

    async def rest(self) -> None:
        """Wait until it is time to ask again."""
        await asyncio.sleep(max(LEAST_SECONDS, self._took / MOST_SHARE))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALM_SECONDS):
                await self._hint.wait()


@contextlib.asynccontextmanager
async def _pace(broker: Broker, subject: str) -> AsyncGenerator[Pace]:
    pace = Pace()
    subscription = await broker.listen(subject, pace.on_hint)
    try:
        yield pace
    finally:
        await subscription.stop()
