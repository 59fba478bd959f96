"""Which shard a run belongs to, and what a shard's streams and subjects are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ironflow.broker.nats.provisioner import consumer_config, differences, merge, shards_in, stream_config
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.errors import DefinitionError
from ironflow.names import Names, digest, parse_journal
from ironflow.permissions import Role, engine, operator, worker
from ironflow.shards import MOST_SHARDS, shard_number

WHOLE = Names()
DIVIDED = Names(shards=3)
RUNS = [digest(b"%d" % number) for number in range(3_000)]


@pytest.mark.parametrize(
    ("run", "of_3", "of_64"),
    [
        ("aaaaaaaaaaaaaaaaaaaaaaaaaa", 1, 56),
        ("run-1", 2, 35),
        ("ü>.*", 0, 20),
    ],
)
def test_a_run_stays_in_its_shard_in_all_versions(run: str, of_3: int, of_64: int) -> None:
    # Whoever changes the hash has to change these, and loses every run of every divided namespace.
    assert (shard_number(run, 3), shard_number(run, 64)) == (of_3, of_64)


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_shards_get_about_as_many_runs_each(count: int) -> None:
    found = Counter(shard_number(run, count) for run in RUNS)
    assert set(found) == set(range(count))
    assert max(found.values()) < 1.3 * len(RUNS) / count


def test_what_is_not_divided_is_called_as_ever() -> None:
    (shard,) = WHOLE.all_shards
    assert WHOLE.shard_streams == ("IRONFLOW_TASKS", "IRONFLOW_JOURNAL", "IRONFLOW_TIMERS")
    assert shard.tasks_of_queue("q") == "ironflow.tasks.q.>"
    assert shard.journal_kind("wait") == "ironflow.journal.*.*.wait.>"
    assert shard.journal_canary("q") == "ironflow.journal.q.=health.canary"
    assert WHOLE.task("q", "r", 0) == "ironflow.tasks.q.r.0"
    assert WHOLE.journal_step("q", "r", "s") == "ironflow.journal.q.r.step.s"
    assert WHOLE.timer(60_000, "r", 0, "t") == "ironflow.timers.r.0.2.t"
    assert WHOLE.fired("r", "t") == "ironflow.fired.r.t"
    assert WHOLE.task_number(WHOLE.task("q", "r", 0), 7) == 7
    assert not any("metadata" in stream_config(spec) for spec in streams(WHOLE))
    assert not any("metadata" in consumer_config(spec) for spec in engine_consumers(WHOLE))


def test_what_is_divided_has_the_number_of_its_shard_in_its_names() -> None:
    assert DIVIDED.all_shards[2].journal == "IRONFLOW_JOURNAL_2"
    assert DIVIDED.journal_step("q", "run-1", "s") == "ironflow.journal-2.q.run-1.step.s"
    assert DIVIDED.consumed_streams[:3] == ("IRONFLOW_EVENTS", "IRONFLOW_JOURNAL_0", "IRONFLOW_TIMERS_0")
    assert DIVIDED.run_key("run-1") == WHOLE.run_key("run-1")


@pytest.mark.parametrize("run", RUNS[:10])
def test_all_of_a_run_is_in_one_shard(run: str) -> None:
    shard = DIVIDED.shard_of(run)
    subjects = (
        DIVIDED.task("q", run, 0),
        DIVIDED.journal_outcome("q", run, 0),
        DIVIDED.timer(5, run, 0, "t"),
        DIVIDED.fired(run, "t"),
    )
    assert {DIVIDED.shard_behind(subject) for subject in subjects} == {shard}
    homes = {spec.name for spec in streams(DIVIDED) for subject in subjects if _takes(spec.subjects, subject)}
    assert homes == {shard.tasks, shard.journal, shard.timers}
    assert parse_journal(DIVIDED.journal_step("q", run, "s")) == parse_journal(WHOLE.journal_step("q", run, "s"))


def test_no_two_streams_take_the_same_subjects() -> None:
    subjects = [subject for names in (WHOLE, DIVIDED) for spec in streams(names)[1:-4] for subject in spec.subjects]
    prefixes = sorted(subject.removesuffix(">") for subject in subjects)
    assert len(prefixes) == 4 * (1 + 3)
    assert not any(prefixes[index + 1].startswith(prefix) for index, prefix in enumerate(prefixes[:-1]))


def test_no_two_tasks_of_a_queue_have_one_number() -> None:
    tasks = [(DIVIDED.task("q", run, 0), sequence) for run in RUNS[:20] for sequence in (1, 2, 3)]
    places = {(subject.split(".")[1], sequence) for subject, sequence in tasks}
    assert len({DIVIDED.task_number(*task) for task in tasks}) == len(places) == 9


@pytest.mark.parametrize("count", [0, -1, MOST_SHARDS + 1])
def test_a_number_of_shards_that_is_not_possible_is_refused(count: int) -> None:
    with pytest.raises(DefinitionError, match=f"a namespace has 1 to 64 shards, got {count}"):
        Names(shards=count)


# What is noted on streams and consumers


def test_the_number_is_noted_beside_what_the_server_notes() -> None:
    spec = streams(DIVIDED)[0]
    existing = stream_config(spec)
    existing["metadata"] = existing["metadata"] | {"_nats.ver": "2.15.1"}
    assert shards_in(existing) == 3
    assert differences(existing, merge(existing, spec)) == {}
    assert shards_in({}) == shards_in({"metadata": None}) == 1
    assert [shards_in(consumer_config(spec)) for spec in queue_consumers(DIVIDED, "q")] == [3, 3, 3]


# What each role may do


@pytest.mark.parametrize("make", [engine, operator, lambda names: worker(names, "orders", "mail")])
def test_a_role_may_do_in_each_shard_what_it_may_do_in_a_whole_namespace(make: Callable[[Names], Role]) -> None:
    whole, divided = make(WHOLE), make(DIVIDED)
    of_shards = [subject for subject in whole.asks if _is_of_shards(subject)]
    beside = set(whole.asks) - set(of_shards)
    assert of_shards
    assert set(divided.asks) == beside | {
        _in_shard(subject, number) for subject in of_shards for number in range(DIVIDED.shards)
    }
    assert len(divided.asks) == len(beside) + 3 * len(of_shards)


def _is_of_shards(subject: str) -> bool:
    tokens = subject.split(".")
    return any(token in WHOLE.shard_streams for token in tokens) or tokens[1] in ("tasks", "journal", "timers")


def _in_shard(subject: str, number: int) -> str:
    tokens = subject.split(".")
    for place, token in enumerate(tokens):
        if token in WHOLE.shard_streams:
            tokens[place] = f"{token}_{number}"
        elif place == 1 and token in ("tasks", "journal", "timers"):
            tokens[place] = f"{token}-{number}"
    return ".".join(tokens)


def _takes(filters: tuple[str, ...], subject: str) -> bool:
    return any(subject.startswith(each.removesuffix(">")) for each in filters)
