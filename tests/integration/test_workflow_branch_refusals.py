"""What ``step.parallel`` and ``step.map`` refuse, and which names their steps may have, on a virtual clock."""

from __future__ import annotations

import re
from typing import Any

import pytest

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step
from ironflow.limits import Limits
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)


async def refuse(reason: str = "no") -> int:
    raise NonRetryableError(reason)


async def one_item(item: object, step: Step, index: int) -> int:
    return 1


async def work_item(item: int, step: Step, index: int) -> int:
    return await step.run("work", lambda: item)


async def branch(step: Step) -> int:
    return 1


def plain(step: Step) -> int:
    return 1


def plain_item(item: int, step: Step, index: int) -> int:
    return 1


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((3,), {}, "takes a list or a tuple"),
        (({branch},), {}, "takes a list or a tuple"),
        (([3],), {}, "branch 0 .* must be an async function.*without calling it"),
        (([branch, plain],), {}, "must be async functions"),
        (([branch],), {"concurrency": 0}, "whole number from 1"),
        (([branch],), {"concurrency": True}, "whole number from 1"),
        (([branch],), {"concurrency": 1.5}, "whole number from 1"),
        (([branch],), {"on_error": "failfast"}, "'fail_fast' or 'all_settled', got 'failfast'"),
        (([branch],), {"on_error": None}, "'fail_fast' or 'all_settled'"),
    ],
)
async def test_parallel_refuses(arguments: tuple[Any], options: dict[str, Any], expected: str) -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("all", *arguments, **options)

    await assert_fails(f, "DefinitionError", expected)


async def test_parallel_refuses_a_coroutine_and_says_to_pass_the_function() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("all", [branch(ctx.step)])  # type: ignore[list-item]

    await assert_fails(f, "DefinitionError", "without calling it")


@pytest.mark.parametrize(
    ("items", "fn", "expected"),
    [
        ("text", branch, "takes a list of items, got str"),
        ({1, 2}, branch, "takes a list of items, got set"),
        (iter([1]), branch, "make a list of them"),
        ([1], None, "takes an async function.*without calling it"),
        ([1], plain_item, "must be async functions"),
    ],
)
async def test_map_refuses(items: Any, fn: Any, expected: str) -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        return await ctx.step.map("all", items, fn)

    await assert_fails(f, "DefinitionError", expected)


async def assert_fails(function: ironflow.Function[Any, Any], kind: str, expected: str) -> None:
    async with running_system(function) as system:
        view = await system.run(function)
        assert view.error is not None
        assert (view.error.type, view.error.attempts) == (kind, 1)
        assert re.search(expected, view.error.message)
        assert await system.subjects("step") == []


@pytest.mark.parametrize("order", [("parallel", "run"), ("run", "parallel"), ("map", "parallel"), ("map", "map")])
async def test_the_name_of_a_parallel_is_taken_like_a_steps(order: tuple[str, str]) -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        for kind in order:
            if kind == "parallel":
                await ctx.step.parallel("same", [branch])
            elif kind == "map":
                await ctx.step.map("same", [1], one_item)
            else:
                await ctx.step.run("same", lambda: None)

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert view.error.type == "DuplicateStepError"
    assert "'same'" in view.error.message


async def test_branches_may_use_the_same_names_and_one_branch_may_not_use_a_name_twice() -> None:
    async def twice(step: Step) -> None:
        await step.run("work", lambda: None)
        await step.run("work", lambda: None)

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("all", [twice])

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert view.error.type == "DuplicateStepError"


@pytest.mark.parametrize(
    "name", ["a.b", "*", ">", "a/0/b", "0", " ", "\n", "=pass", "zürich 😀", "x" * 10_240], ids=lambda name: name[:9]
)
async def test_a_name_may_be_any_text_and_is_shown_as_given(name: str) -> None:
    async def work(item: int, step: Step, index: int) -> int:
        await step.sleep("nap", 1)
        return await step.run(name, lambda: item)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return [await ctx.step.map(name, [1, 2], work), await ctx.step.run("outside", lambda: 3)]

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1h") == [[1, 2], 3]
        shown = {(step.scope, step.name) for step in await run.steps()}
    assert shown == {((), "outside")} | {((name, index), step) for index in (0, 1) for step in (name, "nap")}


async def test_more_items_than_the_maps_of_a_run_may_have_are_refused_before_anything_is_stored() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        await ctx.step.map("first", range(6), one_item)
        await ctx.step.map("second", range(5), work_item)

    async with running_system(f, limits=Limits(map_items_per_run=10)) as system:
        view = await system.run(f)
        assert view.error is not None
        assert view.error.type == "LimitError"
        assert "'second' has 5" in view.error.message
        assert await system.subjects("step") == []


async def test_steps_in_the_items_of_a_map_do_not_count_as_steps_of_the_run() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        await ctx.step.map("all", range(10), work_item)
        for number in range(4):
            await ctx.step.run(f"work {number}", lambda: None)

    async with running_system(f, limits=Limits(map_items_per_run=10, steps_per_run=3)) as system:
        view = await system.run(f)
        assert view.error is not None
        assert view.error.type == "LimitError"
        assert "'work 3'" in view.error.message


async def test_one_step_more_than_the_items_of_maps_may_have_is_refused() -> None:
    async def twice(item: int, step: Step, index: int) -> None:
        await step.run("one", lambda: None)
        await step.run("two", lambda: None)

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        await ctx.step.map("all", range(10), twice, concurrency=1)

    async with running_system(f, limits=Limits(map_items_per_run=10)) as system:
        view = await system.run(f)
        assert view.error is not None
        assert (view.error.type, len(await system.subjects("step"))) == ("LimitError", 10)


async def test_a_branch_that_uses_the_steps_around_it_is_told_of_its_own() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def each(item: int, step: Step, index: int) -> None:
            await ctx.step.run("work", lambda: item + index)

        await ctx.step.map("all", [1, 2], each)

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert view.error.message.startswith("step 'work' was used twice in one pass")
    assert "in a branch, use the step client that it is given" in view.error.message
