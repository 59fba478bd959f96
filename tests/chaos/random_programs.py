"""Programs that nobody thought of."""

from __future__ import annotations

import random
from itertools import count

from tests.chaos.programs import Child, Map, Node, Order, Parallel, Program, Publish, Saga, Sleep, Wait, Work

DEEPEST = 2
LONGEST = 6


class _Generator:
    """Makes one program.

    Args:
        chance: makes the choices.

    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._numbers = count()

    def program(self) -> Program:
        """Return a program; one of twenty fails in the end, and so does every fourth with a saga at its end."""
        nodes = [node for _ in range(self._chance.randint(1, LONGEST)) for node in self._any(0, in_map=False)]
        if self._chance.random() < 0.05:
            nodes.append(Work(self._name("doomed"), fatal=True))
        elif self._chance.random() < 0.3:
            nodes += self._saga(fatal=self._chance.random() < 0.25)
        return tuple(nodes)

    def _any(self, depth: int, *, in_map: bool) -> Program:
        """Return a node, or some that belong together."""
        kinds = [self._work, self._work, self._work, self._sleep, self._caught, self._noise, self._late]
        # One event ends one wait of a run, so items of a map would compete for it.
        kinds += [] if in_map else [self._told]
        kinds += [self._asked, self._saga] if depth == 0 else []
        kinds += [self._child] if depth < DEEPEST else []
        if depth < DEEPEST and self._chance.random() < 0.3:
            return (self._group(depth, in_map=in_map),)
        return self._chance.choice(kinds)()

    def _group(self, depth: int, *, in_map: bool) -> Node:
        if self._chance.random() < 0.5:
            return Map(self._name("map"), self._chance.randint(0, 6), self._branch(depth + 1, in_map=True))
        branches = [self._branch(depth + 1, in_map=in_map) for _ in range(self._chance.randint(0, 4))]
        return Parallel(self._name("parallel"), tuple(branches))

    def _branch(self, depth: int, *, in_map: bool) -> Program:
        return tuple(node for _ in range(self._chance.randint(0, 2)) for node in self._any(depth, in_map=in_map))

    def _work(self) -> Program:
        return (self._one_work(),)

    def _one_work(self) -> Work:
        failures = self._chance.choice((0, 0, 0, 1, 2))
        return Work(self._name("work"), milliseconds=self._chance.randrange(0, 60), failures=failures)

    def _caught(self) -> Program:
        return (Work(self._name("caught"), fatal=True, caught=True),)

    def _sleep(self) -> Program:
        return (Sleep(self._name("sleep"), milliseconds=self._chance.randrange(20, 900)),)

    def _saga(self, *, fatal: bool = False) -> Program:
        steps = [self._one_work() for _ in range(self._chance.randint(1, 3))]
        last = Work(self._name("broken"), fatal=True)
        undo_failures = self._chance.choice((0, 0, 1))
        return (Saga(self._name("saga"), (*steps, last) if fatal else tuple(steps), undo_failures),)

    def _child(self) -> Program:
        # It has nothing that waits for events.
        kinds = (self._work, self._caught, self._sleep, self._noise)
        nodes = [node for _ in range(self._chance.randint(1, 2)) for node in self._chance.choice(kinds)()]
        fails = self._chance.random() < 0.2
        nodes += [Work(self._name("doomed"), fatal=True)] if fails else []
        return (Child(self._name("child"), tuple(nodes), caught=fails),)

    def _noise(self) -> Program:
        return (Publish(self._name("noise")),)

    def _late(self) -> Program:
        timeout = self._chance.randrange(50, 900)
        return (Wait(self._name("unanswered"), answered=False, timeout_milliseconds=timeout),)

    def _told(self) -> Program:
        wait = self._name("told")
        return (Publish(self._name("tell"), answers=wait), *self._between(), Wait(wait, by_harness=False))

    def _between(self) -> Program:
        return self._sleep() if self._chance.random() < 0.5 else ()

    def _asked(self) -> Program:
        return (Wait(self._name("asked")),)

    def _name(self, what: str) -> str:
        return f"{what} {next(self._numbers)}"


def random_program(seed: int, number: int) -> Order:
    """Return the order with that number of a seed: always the same one."""
    chance = random.Random(f"{seed}/{number}")
    return Order(number, _Generator(chance).program(), answer_after=round(chance.uniform(0.0, 2.0), 2))
