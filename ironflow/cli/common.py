"""What all commands share: exit codes, how errors end a command, and the options of a connection.

A command is written like this::

    @click.command()
    @connection_options
    @json_option
    @run_async
    async def count(connection: ConnectionOptions, *, as_json: bool) -> ExitCode:
        async with open_client(connection) as client:
            ...
        return ExitCode.DONE

Long-running processes find their logging in ``ironflow.cli.logs``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import os
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import click
import msgspec

from ironflow.broker.protocol import BrokerError, Denied, NoSuchStream, Unavailable, WrongShards
from ironflow.errors import DefinitionError, EngineUnavailableError, IronflowError, LimitError, PublishError
from ironflow.shards import MOST_SHARDS

if TYPE_CHECKING:
    from ironflow.client import Client

P = ParamSpec("P")
R = TypeVar("R")


class ExitCode(enum.IntEnum):
    """What a command's exit status says."""

    DONE = 0
    FAILED = 1
    """The run failed, or the operation did."""
    USAGE = 2
    UNREACHABLE = 3
    """NATS, or the engine, does not answer."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    """Whoever read the output has had enough; shells know this number as SIGPIPE."""


_WHO_MAY = (
    "is it the right user, namespace and NATS_JS_API_PREFIX? ('ironflow nats-accounts' prints what each role may do)"
)

# How commands run and end


def run_async(coro_fn: Callable[P, Coroutine[Any, Any, ExitCode | None]]) -> Callable[P, None]:
    """Make a command of a coroutine function: it runs to its end, and its errors become exit codes.

    Args:
        coro_fn: returns the exit code; None means done.

    """

    @functools.wraps(coro_fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with errors_as_exit_codes(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(coro_fn(*args, **kwargs))
        if code:
            sys.exit(code)

    return run


@contextlib.contextmanager
def errors_as_exit_codes() -> Generator[None]:
    """End the process with one line on stderr and an exit code where the block raises: never a traceback.

    Notes of an error of ours follow that line. They are for what takes more than a line, like a place in code.
    Errors of click pass through, since click shows them as it does.
    """
    try:
        yield
        # Here and not at the interpreter's end, where a closed pipe could only be complained about.
        put("", nl=False)
    except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):
        raise
    except BrokenPipeError:
        _discard_output()
        sys.exit(ExitCode.PIPE_CLOSED)
    except BaseException as error:  # noqa: BLE001 - whatever it is, a user gets one line and not a traceback
        cause = _first_of(error)
        if os.environ.get("IRONFLOW_DEBUG"):
            traceback.print_exception(error)
        complain(describe_error(cause))
        if isinstance(cause, IronflowError):
            for note in getattr(cause, "__notes__", ()):
                complain(note)
        if isinstance(cause, OutputError):
            _discard_output()
        sys.exit(exit_code_of(cause))


def describe_error(error: BaseException) -> str:
    """Return the one line that a user gets to read about an error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, (IronflowError, BrokerError)):
        text = one_line(str(error) or type(error).__name__)
        return f"{text}; {_WHO_MAY}" if isinstance(error.__cause__ or error, Denied) else text
    text = one_line(f"internal error: {type(error).__name__}: {error}")
    return f"{text}; run again with IRONFLOW_DEBUG=1 for the traceback"


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code that an error ends a command with."""
    cause = error.__cause__ if isinstance(error, PublishError) else error
    if isinstance(cause, (EngineUnavailableError, Unavailable, NoSuchStream)):
        return ExitCode.UNREACHABLE
    if isinstance(error, (DefinitionError, LimitError, WrongShards)):
        return ExitCode.USAGE
    return ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.FAILED


class OutputError(IronflowError):
    """What a command prints cannot be written."""


def put(text: str | bytes, *, nl: bool = True) -> None:
    """Write a text to stdout.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OutputError: it cannot be written.

    """
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {error.strerror or error}") from error


def complain(message: str) -> None:
    """Write a line to stderr."""
    click.echo(message, err=True)


def one_line(text: str) -> str:
    """Return a text without line breaks, and without what would move a terminal's cursor."""
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _first_of(error: BaseException) -> BaseException:
    """Return the error itself, or the first that a group holds."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return _first_of(group.exceptions[0])
    return error


def _discard_output() -> None:
    """Let what is still buffered for a closed pipe or a full disk go nowhere: Python's last flush would complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Options


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about the connection; None where it says nothing.

    ``ironflow.settings`` knows what holds then: the environment, pyproject.toml, or the default.
    """

    nats_url: str | None = None
    creds: str | None = None
    context: str | None = None
    namespace: str | None = None
    shards: int = 1


def _not_empty(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse what is empty: mostly a variable of a script that is not set, and then the default is a surprise."""
    if value == "":
        raise click.BadParameter("it is empty; leave the option out for the default")
    return value


def _connection_option(name: str, metavar: str, text: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    return click.option(name, metavar=metavar, callback=_not_empty, help=text)


# Their variables are named in the help only and read by ironflow.settings, which ranks them.
_CONNECTION_OPTIONS = (
    _connection_option("--nats-url", "URL", "NATS servers, with commas between them.  [env var: NATS_URL]"),
    _connection_option("--creds", "FILE", "NATS credentials file.  [env var: NATS_CREDS]"),
    _connection_option("--context", "NAME", "Context of the nats CLI.  [env var: NATS_CONTEXT]"),
    _connection_option("--namespace", "NAME", "Ironflow namespace.  [env var: IRONFLOW_NAMESPACE]"),
)


def connection_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of a connection; the command gets them as ``connection``, a ConnectionOptions."""

    @functools.wraps(command)
    def with_connection(
        *args: Any,
        nats_url: str | None,
        creds: str | None,
        context: str | None,
        namespace: str | None,
        **kwargs: Any,
    ) -> R:
        connection = ConnectionOptions(nats_url=nats_url, creds=creds, context=context, namespace=namespace)
        return command(*args, connection=connection, **kwargs)

    decorated: Callable[..., R] = with_connection
    for option in reversed(_CONNECTION_OPTIONS):
        decorated = option(decorated)
    return decorated


def json_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--json``; the command gets it as ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, envvar="IRONFLOW_JSON", show_envvar=True, help="Print JSON."
    )(command)


def shards_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--shards``; the command gets it as ``shards``."""
    return click.option(
        "--shards",
        type=click.IntRange(1, MOST_SHARDS),
        default=1,
        envvar="IRONFLOW_SHARDS",
        show_default=True,
        show_envvar=True,
        help="How many shards the namespace has: the same for all of it, and for good.",
    )(command)


def connection_options_with_shards(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of a connection and ``--shards``, for what writes to shards; it gets all as ``connection``."""

    @functools.wraps(command)
    def with_shards(*args: Any, connection: ConnectionOptions, shards: int, **kwargs: Any) -> R:
        return command(*args, connection=msgspec.structs.replace(connection, shards=shards), **kwargs)

    return connection_options(shards_option(with_shards))


def limit_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--limit``; the command gets it as ``limit``."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=50,
        envvar="IRONFLOW_LIMIT",
        show_default=True,
        show_envvar=True,
        help="At most so many, the newest.",
    )(command)


@contextlib.asynccontextmanager
async def open_client(options: ConnectionOptions) -> AsyncGenerator[Client]:
    """Connect as the options, the environment and pyproject.toml say.

    Raises:
        EngineUnavailableError: NATS cannot be reached.
        DefinitionError: a setting is not allowed.

    """
    from ironflow.client import connect  # noqa: PLC0415 - brings in NATS, which --help does without

    async with connect(
        options.nats_url, namespace=options.namespace, creds=options.creds, context=options.context
    ) as client:
        yield client
