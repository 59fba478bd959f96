"""What goes in and comes out: typed event data, results and outputs.

What JSON cannot carry, and every other awkward result, is in test_awkward_results.py.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest

import ironflow
from ironflow import Context, Function, Retry
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time


class ItemStruct(msgspec.Struct):
    price: int


class OrderStruct(msgspec.Struct):
    id: str
    items: list[ItemStruct]


@dataclasses.dataclass
class ItemDataclass:
    price: int


@dataclasses.dataclass
class OrderDataclass:
    id: str
    items: list[ItemDataclass]


class ItemDict(TypedDict):
    price: int


class OrderDict(TypedDict):
    id: str
    items: list[ItemDict]


@attrs.define
class ItemAttrs:
    price: int


@attrs.define
class OrderAttrs:
    id: str
    items: list[ItemAttrs]


class ItemModel(pydantic.BaseModel):
    price: int


class OrderModel(pydantic.BaseModel):
    id: str
    items: list[ItemModel]


@dataclasses.dataclass
class Countdown:
    """It can be written, and not be read."""

    left: int

    def __post_init__(self) -> None:
        self.left -= 1
        if self.left < 0:
            msg = "nothing is left"
            raise LookupError(msg)


@dataclasses.dataclass
class OrderOfModels:
    id: str
    items: list[ItemModel]


async def by_struct(ctx: Context[OrderStruct]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data.items[0].price]


async def by_dataclass(ctx: Context[OrderDataclass]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data.items[0].price]


async def by_typed_dict(ctx: Context[OrderDict]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data["items"][0]["price"]]


async def by_attrs(ctx: Context[OrderAttrs]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data.items[0].price]


async def by_model(ctx: Context[OrderModel]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data.items[0].price]


async def by_models_within(ctx: Context[OrderOfModels]) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data.items[0].price]


async def by_nothing(ctx: Context) -> list[Any]:
    return [type(ctx.event.data).__name__, ctx.event.data["items"][0]["price"]]


TYPED = [
    (by_struct, "OrderStruct"),
    (by_dataclass, "OrderDataclass"),
    (by_typed_dict, "dict"),
    (by_attrs, "OrderAttrs"),
    (by_model, "OrderModel"),
    (by_models_within, "OrderOfModels"),
]


@pytest.mark.parametrize(
    ("handler", "kind"), [*TYPED, (by_nothing, "dict")], ids=lambda each: getattr(each, "__name__", each)
)
async def test_event_data_is_what_the_annotation_says(handler: Any, kind: str) -> None:
    f: Function[Any, Any] = ironflow.function(id="f")(handler)
    async with running_system(f) as system:
        assert await system.output(f, {"id": "o-1", "items": [{"price": 5}]}) == [kind, 5]


@pytest.mark.parametrize(("handler", "kind"), TYPED, ids=lambda each: getattr(each, "__name__", each))
async def test_event_data_that_does_not_fit_fails_the_run_at_once_and_names_the_place(handler: Any, kind: str) -> None:
    f: Function[Any, Any] = ironflow.function(id="f", retry=Retry(max_attempts=3, initial_delay="1h", max_delay="1h"))(
        handler
    )
    async with running_system(f) as system:
        began = system.now_ms()
        run = await system.run(f, {"id": "o-1", "items": [{"price": 5}, {"price": "cheap"}]})
        assert run.error is not None
        assert run.error.type == "SerializationError"
        assert run.error.path == "data.items[1].price"
        assert system.now_ms() - began < 1_000


# Results


@dataclasses.dataclass
class Receipt:
    total: Decimal
    at: datetime


RECEIPT = Receipt(Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC))


async def test_a_result_is_decoded_into_the_bodys_annotation() -> None:
    async def charge() -> Receipt:
        return RECEIPT

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Receipt:
        receipt = await ctx.step.run("charge", charge)
        assert isinstance(receipt, Receipt)
        return receipt

    async with running_system(f) as system:
        assert await system.output(f) == RECEIPT
        run = await system.client.start("f")
        assert await run.result("1h") == {"total": "1.50", "at": "2026-01-01T00:00:00Z"}


async def test_without_a_usable_annotation_a_result_is_plain_json() -> None:
    def annotated() -> Receipt:
        return RECEIPT

    def unknown() -> Missing:  # type: ignore[name-defined]  # noqa: F821 - what only a type checker may know
        return RECEIPT

    plain = {"total": "1.50", "at": "2026-01-01T00:00:00Z"}

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[Any]:
        return [
            await ctx.step.run("lambda", lambda: RECEIPT),
            await ctx.step.run("partial", functools.partial(annotated)),
            await ctx.step.run("unknown annotation", unknown),
        ]

    async with running_system(f) as system:
        assert await system.output(f) == [plain] * 3


async def test_a_result_that_is_not_what_its_annotation_says_fails_the_run_with_the_place() -> None:
    bodies: Counter[str] = Counter()

    def wrong() -> list[int]:
        bodies["wrong"] += 1
        return [1, "two"]  # type: ignore[list-item]

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("wrong", wrong)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert (run.error.type, run.error.path) == ("SerializationError", "result of step 'wrong'[1]")
    assert bodies == {"wrong": 1}


async def test_a_body_is_not_repeated_whose_result_cannot_be_made_of_its_json() -> None:
    bodies: Counter[str] = Counter()

    def work() -> Countdown:
        bodies["work"] += 1
        return Countdown(1)

    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", work)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.type == "SerializationError"
        assert "LookupError: nothing is left" in run.error.message
    assert bodies == {"work": 1}


@pytest.mark.parametrize(
    ("output", "output_type", "place"),
    [
        ([1, "two"], list[int], "output[1]"),
        ("one", int, "output"),
        (None, OrderStruct, "output"),
        ({"id": "o-1", "items": [{"price": "x"}]}, OrderModel, "output.items[0].price"),
        (1, None, "output"),
    ],
)
async def test_an_output_that_is_not_what_its_annotation_says_fails_the_run_at_once_with_the_place(
    output: Any, output_type: Any, place: str
) -> None:
    passes: Counter[str] = Counter()
    undone: list[str] = []

    async def handler(ctx: Context) -> Any:
        passes["made"] += 1
        await ctx.step.run("work", int)
        ctx.step.compensate("work", undone.append, "work")
        return output

    handler.__annotations__["return"] = output_type
    f = ironflow.function(id="f", retry=Retry(max_attempts=3))(handler)

    @ironflow.function(id="parent", retry=Retry(max_attempts=3))
    async def parent(ctx: Context) -> Any:
        return await ctx.step.invoke(f)

    async with running_system(f, parent) as system:
        run = await system.run(f)
        of_parent = await system.run(parent)
    assert run.error is not None
    assert (run.status, run.error.type, run.error.path) == ("failed", "SerializationError", place)
    assert undone == ["work"] * 2
    assert passes["made"] == 4, "once, and once to undo it, for each of the two"
    assert of_parent.error is not None
    assert of_parent.error.type == "InvokeError"
    assert run.error.message in of_parent.error.message


async def test_an_output_that_comes_back_as_its_annotation_is_taken() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> OrderModel:
        return {"id": "o-1", "items": [{"price": 2}]}  # type: ignore[return-value]

    async with running_system(f) as system:
        assert await system.output(f) == OrderModel(id="o-1", items=[ItemModel(price=2)])


# What a handler gets beside the data


async def test_a_handler_sees_its_event_and_its_run() -> None:
    @ironflow.function(id="f", triggers=["order.*"])
    async def f(ctx: Context) -> dict[str, Any]:
        event, run = ctx.event, ctx.run
        return {
            "event": [event.id, event.name, event.source, dict(event.metadata), event.time.tzinfo is UTC],
            "run": [run.function_id, run.attempt, run.started_at.isoformat()],
        }

    async with running_system(f) as system:
        published = await system.client.publish_record(
            "order.placed", 1, id="o-1", source="shop", metadata={"tenant": "a"}
        )
        (run,), _ = await system.client.runs_of(published)
        assert await system.client.run(run).result("1h") == {
            "event": ["o-1", "order.placed", "shop", {"tenant": "a"}, True],
            "run": ["f", 1, "2026-01-01T00:00:00+00:00"],
        }


@pydantic.dataclasses.dataclass
class Weight:
    grams: int = pydantic.Field(gt=0)


async def test_event_data_is_checked_by_the_constraints_of_a_pydantic_dataclass() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context[Weight]) -> int:
        assert isinstance(ctx.event.data, Weight)
        return ctx.event.data.grams

    async with running_system(f) as system:
        assert await system.output(f, {"grams": 1}) == 1
        run = await system.run(f, {"grams": -1})
        assert run.error is not None
        assert (run.error.type, run.error.path) == ("SerializationError", "data.grams")


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


async def test_a_model_of_a_union_with_a_discriminator_comes_back_as_that_model() -> None:
    def adopt() -> Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]:
        return Dog(kind="dog")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        return type(await ctx.step.run("adopt", adopt)).__name__

    async with running_system(f) as system:
        assert await system.output(f) == "Dog"
