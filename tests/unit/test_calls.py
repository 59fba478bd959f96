"""When it is looked at what has become of the calls of steps."""

from __future__ import annotations

import asyncio

from ironflow_worker.calls import Calls, Unawaited


async def nothing() -> None:
    pass


def call_and_let_go(calls: Calls) -> None:
    calls.add(nothing(), "run", "forgotten")


async def hold_for_a_round(calls: Calls) -> Unawaited:
    held = nothing()
    calls.add(held, "run", "held")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del held
    return calls.end()


async def test_of_the_passes_that_call_steps_in_one_round_each_is_looked_at() -> None:
    forgetful, holding = Calls(), Calls()
    call_and_let_go(forgetful)
    assert await hold_for_a_round(holding) == Unawaited(let_go="step.run('held', …)")
    assert forgetful.end() == Unawaited(forgotten="step.run('forgotten', …)")


async def test_a_pass_is_looked_at_again_in_a_later_round() -> None:
    calls = Calls()
    call_and_let_go(calls)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await hold_for_a_round(calls) == Unawaited(
        forgotten="step.run('forgotten', …)", let_go="step.run('held', …)"
    )


def test_a_loop_that_was_closed_before_it_looked_keeps_no_later_one_from_it() -> None:
    calls, closed = Calls(), asyncio.new_event_loop()
    closed.call_soon(call_and_let_go, calls)
    closed.call_soon(closed.stop)
    closed.run_forever()
    closed.close()
    assert calls.end() == Unawaited(forgotten="step.run('forgotten', …)")
    with asyncio.Runner() as runner:
        assert runner.run(hold_for_a_round(Calls())) == Unawaited(let_go="step.run('held', …)")
