"""Many callers, one connection: who is sent alone, who together, and who learns what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from ironflow.broker.protocol import Broker, BrokerError, Publication, StorageFull, Stored, SubjectTaken
from ironflow.group_commit import GroupCommit

pytestmark = pytest.mark.virtual_time


class SlowBroker:
    """Takes a second for each call, and notes how much came at once."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.error: Exception | None = None
        self.most_groups_at_once = 0
        self._groups = 0

    async def publish(self, publication: Publication) -> Stored:
        (answer,) = await self.publish_all([publication])
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    async def publish_all(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        self.calls.append([publication.subject for publication in publications])
        is_group = len(publications) > 1
        self._groups += is_group
        self.most_groups_at_once = max(self.most_groups_at_once, self._groups)
        await asyncio.sleep(1)
        self._groups -= is_group
        if self.error is not None:
            raise self.error
        return [
            SubjectTaken(publication.subject) if publication.subject.startswith("taken") else Stored(1)
            for publication in publications
        ]


def publication(subject: str) -> Publication:
    return Publication(subject=subject, payload=b"")


def commit_on(broker: SlowBroker) -> GroupCommit:
    return GroupCommit(cast("Broker", broker))


async def test_a_lone_record_goes_out_at_once_and_alone() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    for subject in "ab":
        assert await commit.publish(publication(subject)) == Stored(1)
    assert broker.calls == [["a"], ["b"]]


async def test_what_gathers_while_enough_is_under_way_goes_out_together() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    subjects = [f"s{number}" for number in range(100)]
    await asyncio.gather(*(commit.publish(publication(subject)) for subject in subjects))
    sizes = [len(call) for call in broker.calls]
    assert sizes == [*[1] * 4, 96]
    assert sorted(subject for call in broker.calls for subject in call) == sorted(subjects)


async def test_callers_that_were_answered_together_go_out_together_again() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)

    async def caller(number: int) -> None:
        await commit.publish(publication(f"first {number}"))
        for _ in range(number % 10):  # rounds of the loop that it is busy for
            await asyncio.sleep(0)
        await commit.publish(publication(f"second {number}"))

    await asyncio.gather(*(caller(number) for number in range(60)))
    (answered_together,) = [call for call in broker.calls if len(call) == 56]
    (sent_together,) = [call for call in broker.calls if len(call) > 1 and call[0].startswith("second")]
    assert {name.replace("first", "second") for name in answered_together} <= set(sent_together)


async def test_of_many_callers_a_half_goes_on_while_the_server_has_what_the_others_came_to() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    at: dict[int, float] = {}

    async def caller(number: int) -> None:
        for _ in range(3):
            await commit.publish(publication(f"s{number}"))
        at[number] = asyncio.get_running_loop().time()

    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(caller(number) for number in range(104)))
    assert [len(call) for call in broker.calls if len(call) > 1][:3] == [100, 54, 50]
    # Nobody has waited longer for it: a second for the four that go first, and one for each of the three groups.
    assert max(at.values()) - began == pytest.approx(4.0)


@pytest.mark.parametrize(("late", "groups"), [(23, [96, 23]), (24, [96, 24]), (140, [96, 140])])
async def test_while_a_group_is_on_its_way_a_large_one_follows_at_once_and_a_small_one_waits(
    late: int, groups: list[int]
) -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    calls = [asyncio.create_task(commit.publish(publication(f"s{number}"))) for number in range(100)]
    await asyncio.sleep(1.5)
    assert [len(call) for call in broker.calls if len(call) > 1] == groups[:1]
    calls += [asyncio.create_task(commit.publish(publication(f"late {number}"))) for number in range(late)]
    await asyncio.sleep(0.1)
    assert [len(call) for call in broker.calls if len(call) > 1] == (groups if late >= 24 else groups[:1])
    await asyncio.gather(*calls)
    assert [len(call) for call in broker.calls if len(call) > 1] == groups


async def test_no_more_than_two_groups_are_on_their_way_and_none_is_very_large() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    await asyncio.gather(*(commit.publish(publication(f"s{number}")) for number in range(1_000)))
    sizes = [len(call) for call in broker.calls if len(call) > 1]
    assert max(sizes) == 150
    assert sum(sizes) == 996
    assert broker.most_groups_at_once == 2


async def test_while_many_records_wait_nothing_more_begins_that_will_have_some() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    recording = [asyncio.create_task(commit.publish(publication(f"s{number}"))) for number in range(200)]
    await asyncio.sleep(0)
    begun: list[int] = []

    async def begin(number: int) -> None:
        await commit.until_few_wait()
        begun.append(number)

    beginners = [asyncio.create_task(begin(number)) for number in range(10)]
    await asyncio.sleep(0.5)
    assert begun == []
    await asyncio.gather(*recording, *beginners)
    assert begun == list(range(10))


async def test_those_that_begin_and_have_nothing_to_record_hold_nobody_up() -> None:
    commit = commit_on(SlowBroker())
    recording = [asyncio.create_task(commit.publish(publication(f"s{number}"))) for number in range(200)]
    await asyncio.sleep(0)
    beginners = [asyncio.create_task(commit.until_few_wait()) for _ in range(1_000)]
    await asyncio.gather(*recording)
    # Nothing is recorded from here on, so nothing of that kind may be what they wait for.
    async with asyncio.timeout(0.1):
        await asyncio.gather(*beginners)


async def test_one_that_gives_up_before_it_begins_takes_nobody_along() -> None:
    commit = commit_on(SlowBroker())
    recording = [asyncio.create_task(commit.publish(publication(f"s{number}"))) for number in range(200)]
    await asyncio.sleep(0)
    beginners = [asyncio.create_task(commit.until_few_wait()) for _ in range(3)]
    await asyncio.sleep(0)
    beginners[0].cancel()
    await asyncio.gather(*recording, *beginners[1:])
    assert beginners[0].cancelled()


async def test_each_caller_learns_what_became_of_its_own_record() -> None:
    commit = commit_on(SlowBroker())
    subjects = [f"{'taken' if number % 3 else 'free'}{number}" for number in range(80)]
    answers = await asyncio.gather(
        *(commit.publish(publication(subject)) for subject in subjects), return_exceptions=True
    )
    for subject, answer in zip(subjects, answers, strict=True):
        assert str(answer) == subject if subject.startswith("taken") else answer == Stored(1)


async def test_a_caller_that_gives_up_takes_nobody_along() -> None:
    broker = SlowBroker()
    commit = commit_on(broker)
    calls = [asyncio.create_task(commit.publish(publication(f"s{number}"))) for number in range(60)]
    await asyncio.sleep(0.5)
    for call in calls[::7]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers[::7]] == [asyncio.CancelledError] * len(calls[::7])
    assert all(answer == Stored(1) for number, answer in enumerate(answers) if number % 7)
    assert await commit.publish(publication("later")) == Stored(1)


@pytest.mark.parametrize(
    "error", [StorageFull("full"), ValueError("no subject")], ids=lambda error: type(error).__name__
)
async def test_what_a_call_raises_reaches_everybody_who_waits_for_it(error: Exception) -> None:
    broker = SlowBroker()
    broker.error = error
    commit = commit_on(broker)
    answers = await asyncio.gather(
        *(commit.publish(publication(f"s{number}")) for number in range(60)), return_exceptions=True
    )
    assert answers == [error] * 60
    broker.error = None
    assert await commit.publish(publication("later")) == Stored(1)
