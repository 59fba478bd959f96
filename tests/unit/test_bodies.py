"""Step bodies: which kind they are, and what their results are decoded into."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ironflow_worker.bodies import Bodies, is_async_body, result_type


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


def undecodable() -> threading.Lock:
    return threading.Lock()


def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN201 - that is what it shows
    return 1


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
    assert result_type(body) is decoded_into


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


async def test_what_a_body_raises_comes_out_as_it_is(bodies: Bodies) -> None:
    error = SystemExit(3)

    def leave() -> None:
        raise error

    with pytest.raises(SystemExit) as raised:
        await bodies.run("s", leave, is_async=False, timeout_ms=1000)
    assert raised.value is error


async def test_the_cancellation_of_a_pass_is_no_timeout(bodies: Bodies) -> None:
    running = asyncio.create_task(bodies.run("s", asyncio.Event().wait, is_async=True, timeout_ms=60_000))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
