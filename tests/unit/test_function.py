"""The ``@function`` decorator."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.util
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from ironflow import Context, Retry, function
from ironflow.errors import DefinitionError
from ironflow.function import Function, forget_functions, one_import, registered_functions
from ironflow.records import FunctionRecord

ID_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ . -"
QUEUE_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ -"


class Placed(msgspec.Struct):
    price: float


@pytest.fixture(autouse=True)
def _no_functions_before_or_after() -> Iterator[None]:
    before = registered_functions()
    forget_functions()
    yield
    forget_functions()
    vars(importlib.import_module("ironflow.function"))["_registry"].update(before)


async def handle(ctx: Context[Placed]) -> list[int]:
    """Handle it."""
    return [1]


def _define(**options: Any) -> Function[Any, Any]:
    return function(**{"id": "f", **options})(handle)


def test_a_function_has_what_it_was_defined_with() -> None:
    made = _define(queue="orders", triggers=["a.*", "b", "a.*"], retry=Retry(max_attempts=1), timeout="1h")
    assert (made.id, made.queue, made.triggers, made.timeout_ms) == ("f", "orders", ("a.*", "b"), 3_600_000)
    assert made.record() == FunctionRecord(
        id="f", queue="orders", triggers=("a.*", "b"), retry=Retry(max_attempts=1).policy, timeout_ms=3_600_000
    )
    assert repr(made) == "Function(id='f', queue='orders', triggers=['a.*', 'b'])"


def test_the_defaults_are_the_documented_ones() -> None:
    made = _define()
    assert (made.queue, made.triggers, made.retry, made.timeout_ms) == ("default", (), Retry(), None)


def test_the_handler_stays_callable() -> None:
    async def double(ctx: Any) -> Any:
        return ctx * 2

    made: Any = function(id="f")(double)
    with pytest.raises(StopIteration, match="42"):
        made(21).send(None)
    assert made.__wrapped__ is double


def test_a_function_keeps_the_name_and_the_text_of_its_handler() -> None:
    made = _define()
    assert (made.__name__, made.__doc__, made.__module__) == ("handle", "Handle it.", __name__)


def test_types_are_read_from_the_annotations() -> None:
    made = _define()
    assert (made.input_type, made.output_type) == (Placed, list[int])


def test_what_the_annotations_do_not_say_is_plain_json() -> None:
    async def bare(ctx: Context) -> None: ...
    async def none(ctx): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    async def unknown(ctx: Context[OnlyTheTypeCheckerKnows]) -> int: ...  # type: ignore[name-defined,empty-body]  # noqa: F821

    assert function(id="bare")(bare).input_type is Any
    assert (function(id="none")(none).input_type, function(id="none2")(none).output_type) == (Any, Any)
    made = function(id="unknown")(unknown)
    assert (made.input_type, made.unreadable) == (Any, "name 'OnlyTheTypeCheckerKnows' is not defined")
    assert function(id="bare2")(bare).unreadable is None


@dataclasses.dataclass
class Card:
    number: str


@dataclasses.dataclass
class Iban:
    iban: str


@dataclasses.dataclass
class Paid:
    by: Card | Iban


class Shade(enum.Enum):
    LIGHT = (255, 255)


@dataclasses.dataclass
class Scaled:
    by: dataclasses.InitVar[int]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            Paid,
            "JSON cannot be decoded into Paid: Type unions may not contain more than one dataclass or attrs type - ",
        ),
        (Shade, "JSON cannot be decoded into Shade: Enums must contain either all str or all int values - "),
        (Scaled, "JSON cannot be decoded into Scaled: dataclasses with `InitVar` fields are not supported"),
        (str | datetime, "JSON cannot be decoded into str | datetime.datetime: Type unions may not contain more than "),
        (TypeVar("T"), "JSON cannot be decoded into ~T: nothing says what ~T is when the program runs"),
    ],
)
def test_what_json_cannot_be_decoded_into_is_said_with_the_reason(data: Any, reason: str) -> None:
    async def handle(ctx: Any) -> list[int]:
        return []

    handle.__annotations__["ctx"] = Context[data]
    made = function(id="f")(handle)
    assert (made.input_type, made.output_type) == (Any, list[int])
    assert str(made.unreadable).startswith(reason)


def test_a_return_annotation_that_cannot_be_read_leaves_the_data_typed_and_the_other_way_round() -> None:
    async def output(ctx: Context[Placed]) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821
    async def data(ctx: Context[Missing]) -> Placed: ...  # type: ignore[name-defined,empty-body]  # noqa: F821
    async def both(ctx: Context[Missing]) -> Missed: ...  # type: ignore[name-defined]  # noqa: F821

    one, other, neither = (function(id=each.__name__)(each) for each in (output, data, both))
    assert (one.input_type, one.output_type, one.unreadable) == (Placed, Any, "name 'Missing' is not defined")
    assert (other.input_type, other.output_type, other.unreadable) == (Any, Placed, "name 'Missing' is not defined")
    assert neither.unreadable == "name 'Missing' is not defined; name 'Missed' is not defined"


@pytest.mark.parametrize("id", ["f", "F-1", "a.b_c-d", "1", "x" * 128])
def test_an_id_may_have_letters_digits_and_some_signs(id: str) -> None:
    assert _define(id=id).id == id


@pytest.mark.parametrize("id", ["", "-a", ".a", "a b", "a/b", "ü", "a\n", "x" * 129, None, 5, b"f"])
def test_another_id_is_refused_with_the_rule(id: Any) -> None:
    with pytest.raises(DefinitionError) as caught:
        _define(id=id)
    assert str(caught.value) == f"function id {id!r} {ID_RULE}"


def test_an_id_of_our_own_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"function id 'ironflow\.x' is reserved"):
        _define(id="ironflow.x")


@pytest.mark.parametrize("queue", ["", "a.b", "a b", ">", "*", "-a", "x" * 129, None])
def test_another_queue_is_refused_with_the_rule(queue: Any) -> None:
    with pytest.raises(DefinitionError) as caught:
        _define(queue=queue)
    assert str(caught.value) == f"function queue {queue!r} {QUEUE_RULE}"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"triggers": "order.placed"}, "triggers must be a list of event names, got the text 'order.placed'"),
        ({"triggers": 5}, "triggers must be a list of event names, got 5"),
        ({"triggers": None}, "triggers must be a list of event names, got None"),
        ({"triggers": [5]}, "trigger must be a non-empty text without spaces around it, got 5"),
        ({"triggers": ["a", ""]}, "trigger must be a non-empty text without spaces around it, got ''"),
        ({"triggers": ["a..b"]}, "trigger 'a..b' has an empty part"),
        ({"triggers": ["a.>.b"]}, "trigger 'a.>.b' has \">\" before the end"),
        ({"triggers": ["ironflow.>"]}, "trigger 'ironflow.>' can match nothing: events that start with 'ironflow.'"),
        ({"triggers": ["x" * 257]}, "trigger is 257 bytes long; at most 256 are allowed"),
        ({"retry": 3}, "retry must be ironflow.Retry(…), got 3"),
        ({"timeout": "soon"}, "timeout must be a text like"),
        ({"timeout": 0}, "timeout must be longer than zero, got 0"),
        ({"timeout": timedelta(days=367)}, "timeout must be at most 366 days"),
    ],
)
def test_a_wrong_value_is_refused_at_the_definition(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        _define(**options)
    assert str(caught.value).startswith(f"function 'f': {complaint}")
    assert isinstance(caught.value, ValueError)


def _plain(ctx: object) -> None: ...


async def _generator(ctx: object):  # type: ignore[no-untyped-def]  # noqa: ANN202
    yield 1


class _Callable:
    async def __call__(self, ctx: object) -> None: ...

    def __repr__(self) -> str:
        return "an object"


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (_plain, "_plain"),
        (lambda ctx: ctx, "<lambda>"),
        (_Callable(), "an object"),
        (functools.partial(handle), "functools.partial("),
        (None, "None"),
        (5, "5"),
    ],
)
def test_a_handler_that_is_not_async_is_refused(handler: Any, named: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        function(id="f")(handler)
    assert str(caught.value).startswith(f"function 'f': {named}")
    assert str(caught.value).endswith(" must be declared with 'async def'")
    assert registered_functions() == {}


def test_a_handler_that_yields_is_refused() -> None:
    handler: Any = _generator
    with pytest.raises(DefinitionError, match="function 'f': _generator yields; a handler returns its result, once"):
        function(id="f")(handler)


async def _nothing() -> None: ...
async def _two(ctx: object, more: object) -> None: ...
async def _keyword(ctx: object, *, more: object) -> None: ...


@pytest.mark.parametrize("handler", [_nothing, _two, _keyword])
def test_a_handler_takes_the_context_and_nothing_more(handler: Any) -> None:
    name = handler.__name__
    with pytest.raises(DefinitionError) as caught:
        function(id="f")(handler)
    expected = f"function 'f': {name} must take one argument, the context: async def {name}(ctx)"
    assert str(caught.value) == expected


async def _optional(ctx: Context, more: int = 0) -> None: ...


class _Shop:
    async def handle(self, ctx: Context) -> None: ...


def test_defaults_methods_and_decorated_handlers_are_fine() -> None:
    def logged(fn: Callable[[Context], Coroutine[Any, Any, None]]) -> Callable[[Context], Coroutine[Any, Any, None]]:
        @functools.wraps(fn)
        def wrapper(ctx: Context) -> Coroutine[Any, Any, None]:
            return fn(ctx)

        return wrapper

    function(id="a")(_optional)
    function(id="b")(_Shop().handle)
    function(id="c")(logged(_optional))
    assert set(registered_functions()) == {"a", "b", "c"}


def test_two_functions_with_one_id_are_refused_with_both_places() -> None:
    function(id="f")(_optional)
    with pytest.raises(DefinitionError) as caught:
        function(id="f")(_keyword_free)
    first, second = (fn.__code__.co_firstlineno for fn in (_optional, _keyword_free))
    assert str(caught.value) == (
        f"two functions have the id 'f': _optional ({__file__}, line {first}) "
        f"and _keyword_free ({__file__}, line {second}); give each its own"
    )
    assert registered_functions()["f"].handler is _optional


async def _keyword_free(ctx: Context) -> None: ...


def test_an_id_that_a_module_defines_twice_in_one_import_is_refused() -> None:
    with one_import():
        function(id="f")(_optional)
        with pytest.raises(DefinitionError, match="two functions have the id 'f'"):
            function(id="f", queue="other")(_optional)
    function(id="f", queue="other")(_optional)
    assert registered_functions()["f"].queue == "other"


def test_importing_a_file_again_replaces_its_functions(tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    source = "from ironflow import function\n@function(id='f', queue='{}')\nasync def flow(ctx): ...\n"
    for queue in ("first", "second"):
        file.write_text("\n" * len(queue) + source.format(queue))
        spec = importlib.util.spec_from_file_location("flows", file)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert registered_functions()["f"].queue == "second"
