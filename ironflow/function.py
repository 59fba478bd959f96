"""The ``@function`` decorator, and the functions that were defined with it."""

from __future__ import annotations

import contextlib
import inspect
import re
import typing
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Never, TypeVar

from ironflow.annotations import PLAIN, Readable, annotation_of, raw_annotations, readable
from ironflow.context import Context
from ironflow.durations import Duration, parse_duration
from ironflow.errors import DefinitionError, LimitError
from ironflow.invocable import Invocable
from ironflow.records import FunctionRecord
from ironflow.retry import Retry
from ironflow.triggers import RESERVED_PREFIX, check_trigger

In = TypeVar("In")
Out = TypeVar("Out")
Handler = Callable[[Context[In]], Coroutine[Any, Any, Out]]

_FUNCTION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class Function(Invocable[In, Out]):
    """A durable function: a handler with an id, a queue and triggers. Made by :func:`function`.

    Calling it calls the handler, as if it had not been decorated.

    Attributes:
        id: names it in the namespace.
        queue: the workers of this queue execute it.
        triggers: the event patterns that start it.
        retry: the policy of its steps.
        timeout_ms: how long a run may take, in milliseconds; None for no bound.
        input_type: what ``ctx.event.data`` is decoded into; ``Any`` for plain JSON.
        output_type: what a caller gets the output decoded into; ``Any`` for plain JSON.
        unreadable: what is wrong with the annotations, where a type is ``Any`` for that; else None.

    """

    def __init__(
        self,
        handler: Handler[In, Out],
        *,
        id: str,
        queue: str,
        triggers: tuple[str, ...],
        retry: Retry,
        timeout_ms: int | None,
    ) -> None:
        self.handler = handler
        self.id = id
        self.queue = queue
        self.triggers = triggers
        self.retry = retry
        self.timeout_ms = timeout_ms
        self.input_type, self.output_type, self.unreadable = _types_of(handler)
        self.__doc__ = handler.__doc__
        self.__name__ = handler.__name__
        self.__module__ = handler.__module__
        self.__wrapped__ = handler

    def __call__(self, ctx: Context[In]) -> Coroutine[Any, Any, Out]:
        """Call the handler."""
        return self.handler(ctx)

    def __repr__(self) -> str:
        return f"Function(id={self.id!r}, queue={self.queue!r}, triggers={list(self.triggers)!r})"

    def record(self) -> FunctionRecord:
        """Return what the engine must know of it."""
        return FunctionRecord(
            id=self.id,
            queue=self.queue,
            triggers=self.triggers,
            retry=self.retry.policy,
            timeout_ms=self.timeout_ms,
        )


_registry: dict[str, Function[Any, Any]] = {}
_imports: dict[str, object] = {}
"""The import in which the function of an id was defined, where it was one of :func:`one_import`."""
_current_import: list[object] = []


def function(
    *misplaced: Never,
    id: str,
    queue: str = "default",
    triggers: Iterable[str] = (),
    retry: Retry | None = None,
    timeout: Duration | None = None,
) -> Callable[[Handler[In, Out]], Function[In, Out]]:
    """Make an ``async`` handler a durable function.

    Args:
        misplaced: nothing; there are keywords only.
        id: names it in the namespace; a letter or digit, then up to 127 letters, digits, ``_ . -``.
        queue: the workers of this queue execute it; as *id*, without dots.
        triggers: event names that start it; ``*`` stands for one part between dots, ``>`` for all the rest.
            Without any it is only started by ``client.start`` or invoked.
        retry: how its steps are retried. Default three attempts, 1 s and 2 s apart.
        timeout: the longest that a whole run may take. Default no bound.

    Raises:
        DefinitionError: a value is not allowed, the handler is not ``async``, or another function has this id.
            It is raised when the file is imported, and says what is allowed.

    """
    if misplaced:
        msg = f"@ironflow.function takes keywords only, like id={id!r}; got {', '.join(map(repr, misplaced))}"
        raise DefinitionError(msg)
    check_function_id(id)
    check_queue(queue)
    checked = _check_triggers(id, triggers)
    checked_retry = _check_retry(id, retry)
    timeout_ms = _check_timeout(id, timeout)

    def decorate(handler: Handler[In, Out]) -> Function[In, Out]:
        _check_handler(id, handler)
        made = Function(handler, id=id, queue=queue, triggers=checked, retry=checked_retry, timeout_ms=timeout_ms)
        _register(made)
        return made

    return decorate


def registered_functions() -> dict[str, Function[Any, Any]]:
    """Return the functions defined so far, by id."""
    return dict(_registry)


def forget_functions() -> None:
    """Forget all definitions; tests use it."""
    _registry.clear()
    _imports.clear()


@contextlib.contextmanager
def one_import() -> Generator[None]:
    """Take the block as one import: in it a module that defines an id twice makes a duplicate, wherever it does.

    Elsewhere the second definition replaces the first, since a module may be executed again.
    """
    _current_import.append(object())
    try:
        yield
    finally:
        _current_import.pop()


def check_function_id(function_id: str) -> str:
    """Return *function_id* where a function may have that id.

    Raises:
        DefinitionError: it may not.

    """
    _check_pattern(function_id, _FUNCTION_ID, "id", "_ . -")
    if function_id.startswith(RESERVED_PREFIX):
        msg = f"function id {function_id!r} is reserved: ids that start with {RESERVED_PREFIX!r} are Ironflow's own"
        raise DefinitionError(msg)
    return function_id


def check_queue(queue: str) -> str:
    """Return *queue* where a queue may have that name.

    Raises:
        DefinitionError: it may not.

    """
    _check_pattern(queue, _QUEUE, "queue", "_ -")
    return queue


def _register(made: Function[Any, Any]) -> None:
    other = _registry.get(made.id)
    current = _current_import[-1] if _current_import else None
    if other is not None and not _replaces(made, other, current):
        msg = f"two functions have the id {made.id!r}: {_where(other)} and {_where(made)}; give each its own"
        raise DefinitionError(msg)
    _registry[made.id] = made
    _imports[made.id] = current


def _replaces(made: Function[Any, Any], other: Function[Any, Any], current: object) -> bool:
    """Tell whether it is the same function, of a file that is imported again: reloaded, or by path and as a module."""
    if _place(made) != _place(other):
        return False
    # What an import executes again is in a new module. In the same one it is a second function.
    return current is None or _imports.get(made.id) is not current or _globals(made) is not _globals(other)


def _place(made: Function[Any, Any]) -> tuple[str, str]:
    handler = inspect.unwrap(made.handler)
    code = getattr(handler, "__code__", None)
    return (code.co_filename if code else made.__module__, getattr(handler, "__qualname__", made.__name__))


def _globals(made: Function[Any, Any]) -> object:
    return getattr(inspect.unwrap(made.handler), "__globals__", None)


def _where(made: Function[Any, Any]) -> str:
    file, name = _place(made)
    code = getattr(inspect.unwrap(made.handler), "__code__", None)
    return f"{name} ({file}, line {code.co_firstlineno})" if code else f"{name} ({file})"


def _check_pattern(value: object, pattern: re.Pattern[str], what: str, extra: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        msg = (
            f"function {what} {value!r} is not allowed; start with a letter or digit, then up to 127 letters, "
            f"digits or {extra}"
        )
        raise DefinitionError(msg)


def _check_triggers(function_id: str, triggers: Iterable[str]) -> tuple[str, ...]:
    if isinstance(triggers, str):
        msg = f"function {function_id!r}: triggers must be a list of event names, got the text {triggers!r}"
        raise DefinitionError(msg)
    try:
        given = tuple(triggers)
    except TypeError as error:
        msg = f"function {function_id!r}: triggers must be a list of event names, got {triggers!r}"
        raise DefinitionError(msg) from error
    try:
        return tuple(dict.fromkeys(_check_trigger(trigger) for trigger in given))
    except (DefinitionError, LimitError) as error:
        msg = f"function {function_id!r}: {error}"
        raise DefinitionError(msg) from error


def _check_trigger(trigger: str) -> str:
    if check_trigger(trigger).startswith(RESERVED_PREFIX):
        msg = f"trigger {trigger!r} can match nothing: events that start with {RESERVED_PREFIX!r} are Ironflow's own"
        raise DefinitionError(msg)
    return trigger


def _check_retry(function_id: str, retry: object) -> Retry:
    if retry is None:
        return Retry()
    if not isinstance(retry, Retry):
        msg = f"function {function_id!r}: retry must be ironflow.Retry(…), got {retry!r}"
        raise DefinitionError(msg)
    return retry


def _check_timeout(function_id: str, timeout: Duration | None) -> int | None:
    if timeout is None:
        return None
    try:
        return parse_duration(timeout, "timeout")
    except ValueError as error:
        msg = f"function {function_id!r}: {error}"
        raise DefinitionError(msg) from error


def _check_handler(function_id: str, handler: object) -> None:
    name = getattr(handler, "__name__", repr(handler))
    if inspect.isasyncgenfunction(handler):
        msg = f"function {function_id!r}: {name} yields; a handler returns its result, once"
        raise DefinitionError(msg)
    is_named = hasattr(handler, "__qualname__")  # a partial is not, and two of them could not be told apart
    if not callable(handler) or not is_named or not inspect.iscoroutinefunction(inspect.unwrap(handler)):
        msg = f"function {function_id!r}: {name} must be declared with 'async def'"
        raise DefinitionError(msg)
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        msg = f"function {function_id!r}: {name} must take one argument, the context: async def {name}(ctx)"
        raise DefinitionError(msg) from error


def _types_of(handler: Callable[..., Any]) -> tuple[Any, Any, str | None]:
    """Return the types of the event's data and of the output, and what is wrong with the annotations.

    The types are ``Any`` where the annotations do not say, or say what JSON cannot be decoded into.
    """
    annotated = raw_annotations(handler)
    context = next((name for name in annotated if name != "return"), None)
    data = PLAIN if context is None else _read(handler, context, _data_of)
    output = PLAIN if "return" not in annotated else _read(handler, "return", lambda annotation: annotation)
    problems = dict.fromkeys(problem for problem in (data.problem, output.problem) if problem is not None)
    return data.type, output.type, "; ".join(problems) or None


def _read(handler: Callable[..., Any], name: str, wanted: Callable[[Any], Any]) -> Readable:
    try:
        annotation = annotation_of(handler, name)
    except Exception as error:  # noqa: BLE001 - a name that only the type checker knows must not stop the import
        return Readable(Any, str(error) or type(error).__name__)
    return readable(wanted(annotation))


def _data_of(context: Any) -> Any:
    return typing.get_args(context)[0] if typing.get_origin(context) is Context else Any
