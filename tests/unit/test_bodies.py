"""Step bodies: which kind they are, and what their results are decoded into."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import gc
import re
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Never, Self, TypeVar

import pytest
from structlog.testing import capture_logs

from ironflow_worker.bodies import Bodies, is_async_body, result_type
from ironflow_worker.signals import BodyFailure, PassEnded

T = TypeVar("T")


@dataclasses.dataclass
class Receipt:
    total: int


async def asynchronous() -> Receipt:
    return Receipt(1)


def plain() -> Receipt:
    return Receipt(1)


def plain_coroutine() -> Coroutine[Any, Any, Receipt]:
    return asynchronous()


def plain_awaitable() -> Awaitable[Receipt]:
    return asynchronous()


def unknown() -> Missing:  # type: ignore[name-defined]  # noqa: F821 - what only a type checker may know
    return Receipt(1)


def unknown_parameter(client: Missing | None = None) -> Receipt:  # type: ignore[name-defined]  # noqa: F821 - likewise
    return Receipt(1)


def of_a_type_variable(kind: type[T]) -> list[T]:
    return [kind()]


def raises() -> Never:
    raise ValueError


def undecodable() -> len:  # type: ignore[valid-type]  # nothing is a len, as nothing is a threading.Lock before 3.13
    return threading.Lock()


def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN201 - that is what it shows
    return 1


@dataclasses.dataclass
class Loaded:
    total: int

    @classmethod
    def load(cls) -> Self:
        return cls(1)

    async def reload(self) -> Self | None:
        return self


class LoadedOften(Loaded):
    pass


@functools.wraps(asynchronous)
def wrapper() -> Any:
    return asynchronous()


class Callable_:  # noqa: N801 - Callable is taken
    async def __call__(self) -> Receipt:
        return Receipt(1)

    def method(self) -> Receipt:
        return Receipt(1)

    async def async_method(self) -> Receipt:
        return Receipt(1)

    @staticmethod
    def static() -> Receipt:
        return Receipt(1)

    @classmethod
    async def class_method(cls) -> Receipt:
        return Receipt(1)


@pytest.mark.parametrize(
    ("body", "is_async", "decoded_into"),
    [
        pytest.param(asynchronous, True, Receipt, id="async"),
        pytest.param(plain, False, Receipt, id="plain"),
        pytest.param(plain_coroutine, False, Receipt, id="plain, a coroutine"),
        pytest.param(plain_awaitable, False, Receipt, id="plain, an awaitable"),
        pytest.param(wrapper, False, Receipt, id="plain wrapper of async"),
        pytest.param(lambda: Receipt(1), False, Any, id="lambda"),
        pytest.param(functools.partial(asynchronous), True, Any, id="partial of async"),
        pytest.param(functools.partial(functools.partial(asynchronous)), True, Any, id="partial of a partial"),
        pytest.param(functools.partial(plain), False, Any, id="partial of plain"),
        pytest.param(len, False, Any, id="builtin"),
        pytest.param(Receipt, False, Any, id="class"),
        pytest.param(Callable_(), True, Any, id="callable object"),
        pytest.param(Callable_().method, False, Receipt, id="method"),
        pytest.param(Callable_().async_method, True, Receipt, id="async method"),
        pytest.param(Callable_.static, False, Receipt, id="static method"),
        pytest.param(Callable_.class_method, True, Receipt, id="class method"),
        pytest.param(unknown, False, Any, id="unknown annotation"),
        pytest.param(unknown_parameter, False, Receipt, id="unknown annotation of a parameter"),
        pytest.param(Loaded.load, False, Loaded, id="Self of a class method"),
        pytest.param(LoadedOften.load, False, LoadedOften, id="Self of a subclass"),
        pytest.param(Loaded(1).reload, True, Loaded | None, id="Self of a method, or None"),
        pytest.param(of_a_type_variable, False, Any, id="type variable"),
        pytest.param(raises, False, Any, id="never"),
        pytest.param(undecodable, False, Any, id="undecodable annotation"),
        pytest.param(unannotated, False, Any, id="no annotation"),
    ],
)
def test_how_a_body_runs_and_what_its_result_becomes(
    body: Callable[..., Any],
    is_async: bool,  # noqa: FBT001 - an expectation
    decoded_into: Any,
) -> None:
    assert is_async_body(body) is is_async
    assert result_type(body) == decoded_into
    assert result_type(body) == decoded_into  # it is remembered


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ("Missing", "name 'Missing' is not defined"),
        ("Receipt | Loaded", "JSON cannot be decoded into .*: Type unions may not contain more than one dataclass"),
        ("T", "JSON cannot be decoded into ~T: nothing says what ~T is when the program runs"),
    ],
)
def test_a_body_whose_result_stays_plain_json_is_warned_of_once(annotation: str, reason: str) -> None:
    def body_of_a_pass() -> Callable[[], Any]:
        def body() -> Any:
            return Receipt(1)

        # Compiled anew for each case, as each body in a program is.
        body.__code__ = body.__code__.replace(co_name=f"body of {annotation}")
        body.__annotations__ = {"return": annotation}
        return body

    code = body_of_a_pass().__code__
    with capture_logs() as logs:
        for _ in range(2):
            body: Any = body_of_a_pass()
            body.__code__ = code
            assert result_type(body) is Any
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert warning["body"] == f"{__name__}.{body_of_a_pass().__qualname__}"
    assert re.match(reason, warning["reason"])
    assert "TYPE_CHECKING" in warning["advice"]


@pytest.mark.parametrize("body", [raises, unannotated, plain, lambda: 1, Loaded.load])
def test_nothing_is_said_of_a_body_whose_annotation_can_be_read_or_says_nothing(body: Callable[..., Any]) -> None:
    with capture_logs() as logs:
        result_type(body)
    assert logs == []


def test_a_body_that_is_defined_in_a_handler_is_forgotten_with_it() -> None:
    class Large:
        """What a handler may have at hand."""

    def handler() -> tuple[Any, weakref.ref[Large]]:
        large = Large()

        def body() -> Receipt:
            assert large is not None
            return Receipt(1)

        return result_type(body), weakref.ref(large)

    decoded_into, large = handler()
    gc.collect()
    assert decoded_into is Receipt
    assert large() is None


@pytest.fixture
def bodies() -> Iterator[Bodies]:
    with ThreadPoolExecutor(2) as threads:
        yield Bodies(threads)


async def test_a_plain_body_runs_in_a_thread_and_sees_the_context(bodies: Bodies) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    seen = await bodies.run("s", lambda: (variable.get(), threading.get_ident()), is_async=False, timeout_ms=None)
    assert seen[0] == "set"
    assert seen[1] != threading.get_ident()


async def test_an_exception_of_a_body_comes_out_as_it_is(bodies: Bodies) -> None:
    error = ValueError(3)

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="3") as raised:
        await bodies.run("s", fail, is_async=False, timeout_ms=1000)
    assert raised.value is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_would_end_the_worker_or_the_pass_is_a_failure_of_the_body(
    bodies: Bodies, error: BaseException, *, is_async: bool
) -> None:
    def leave() -> None:
        raise error

    async def leave_async() -> None:
        leave()

    with pytest.raises(BodyFailure) as raised:
        await bodies.run("s", leave_async if is_async else leave, is_async=is_async, timeout_ms=1000)
    assert raised.value.raised is error


async def test_a_stop_iteration_of_a_plain_body_arrives(bodies: Bodies) -> None:
    with pytest.raises(BodyFailure) as raised:
        await bodies.run("s", lambda: next(iter([])), is_async=False, timeout_ms=1000)
    assert isinstance(raised.value.raised, StopIteration)


async def test_a_body_that_is_closed_from_outside_is_no_failure(bodies: Bodies) -> None:
    running = bodies.run("s", asyncio.Event().wait, is_async=True, timeout_ms=None)

    async def begin() -> None:
        running.send(None)

    await asyncio.create_task(begin())
    running.close()  # a body that takes this for its own failure does not end here


async def test_the_end_of_the_pass_goes_through_a_body(bodies: Bodies) -> None:
    async def end() -> None:
        raise PassEnded

    with pytest.raises(PassEnded):
        await bodies.run("s", end, is_async=True, timeout_ms=None)


async def test_the_cancellation_of_a_pass_is_no_timeout(bodies: Bodies) -> None:
    running = asyncio.create_task(bodies.run("s", asyncio.Event().wait, is_async=True, timeout_ms=60_000))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
