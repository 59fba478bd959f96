"""Programs that nobody thought of come to what the model says, whatever goes wrong meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ironflow.broker.local import Interceptor, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, StorageFull, Unavailable
from tests.chaos.checker import Violation, check
from tests.chaos.in_process import simulate
from tests.chaos.programs import Expected, Order, Work, expect
from tests.chaos.random_programs import random_program
from tests.support.inprocess import System

SILENT = ("ack", "nak", "renew", "notify")
READS = ("last", "at", "read", "stream_state", "consumer_state", "server_time_ms")


def trouble(seed: int) -> Callable[[System], Interceptor]:
    """Return what lets a tenth of all calls go wrong, and now and then something die."""
    chance = random.Random(seed)

    def of(system: System) -> Interceptor:
        def intercept(stage: Stage, verb: str, _: str) -> BrokerError | None:
            roll = chance.random()
            if verb in SILENT or verb in READS:
                return Unavailable("trouble") if roll < 0.1 else None
            if verb == "publish" and roll < 0.1:
                errors = [Ambiguous, StorageFull, Unavailable] if stage == "before" else [Ambiguous]
                return chance.choice(errors)("trouble")
            if verb == "publish" and roll < 0.105:
                chance.choice([kill_worker, kill_engine])(system)
            return None

        return intercept

    return of


def kill_worker(system: System) -> None:
    for worker in list(system.workers)[:1]:
        system.cut_off(worker)
        system.soon(system.kill(worker), system.add_worker())


def kill_engine(system: System) -> None:
    for engine in list(system.engines)[:1]:
        system.cut_off(engine)
        system.soon(system.kill(engine), system.add_engine())


def quiet(_: System) -> Interceptor:
    return lambda *_: None


@pytest.mark.virtual_time
async def test_unharmed_they_come_to_what_the_model_says() -> None:
    simulated = await simulate([random_program(7, number) for number in range(60)], quiet)
    assert check(simulated.history) == []
    assert {state.status for state in simulated.history.states.values()} == {"completed", "failed"}


async def harmed(seed: int) -> list[Violation]:
    orders = [random_program(seed, number) for number in range(10)]
    return check((await simulate(orders, trouble(seed), engines=2, workers=2)).history)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(8))
async def test_harmed_they_come_to_the_same(seed: int) -> None:
    assert await harmed(seed) == []


def test_a_seed_always_makes_the_same_programs() -> None:
    assert [random_program(1, number) for number in range(20)] == [random_program(1, number) for number in range(20)]
    assert random_program(1, 1) != random_program(2, 1)


def test_programs_have_steps_of_all_kinds() -> None:
    expected = [expect(random_program(1, number)) for number in range(200)]
    kinds = {step.kind for each in expected for step in each.steps.values()}
    assert kinds == {"run", "sleep", "publish", "wait_for_event", "invoke", "compensate"}
    assert 0 < sum(each.status == "failed" for each in expected) < 40


def test_a_program_ends_where_a_step_fails_for_good() -> None:
    order = Order(1, (Work("a"), Work("doomed", fatal=True), Work("never")))
    expected: Expected = expect(order)
    assert expected.status == "failed"
    assert set(expected.steps) == {"a", "doomed"}
