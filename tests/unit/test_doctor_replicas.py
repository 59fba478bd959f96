"""What the doctor says of a cluster's copies of the streams."""

from __future__ import annotations

from ironflow.broker.nats.inspector import Placement, Replica
from ironflow.doctor.replicas import check_replicas

HERE = Replica("b", current=True)
THERE = Replica("c", current=True)
WHOLE = Placement(3, "a", (HERE, THERE), "mine")


def findings(**placements: Placement | None) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in check_replicas(placements)]


def test_a_server_by_itself_has_nothing_to_keep_up_with() -> None:
    assert findings(TASKS=Placement(1)) == [("ok", "the server is not part of a cluster")]


def test_streams_that_do_not_exist_are_another_checks_concern() -> None:
    assert findings(TASKS=None) == []


def test_three_servers_that_keep_up_are_fine() -> None:
    assert findings(TASKS=WHOLE, JOURNAL=WHOLE) == [("ok", "2 streams are on 3 servers each, which keep up")]


def test_one_copy_in_a_cluster_is_warned_about() -> None:
    [(level, text)] = findings(TASKS=Placement(1, "a", (), "mine"))
    assert (level, text) == ("warning", "1 streams are on one server of the cluster only")
    assert "--replicas 3" in check_replicas({"TASKS": Placement(1, "a", (), "mine")})[0].advice


def test_a_stream_on_fewer_servers_than_the_others_is_named() -> None:
    [finding] = findings(TASKS=WHOLE, JOURNAL=Placement(1, "a", (), "mine"))
    assert finding == ("warning", "kept on fewer servers than the 3 of others: JOURNAL")


def test_a_stream_on_fewer_servers_than_it_shall_be_is_named() -> None:
    [finding] = findings(TASKS=WHOLE, JOURNAL=Placement(3, "a", (HERE,), "mine"))
    assert finding == ("warning", "kept on fewer servers than they shall be: JOURNAL")


def test_a_server_that_is_down_or_silent_is_named_once_with_what_it_keeps() -> None:
    down, silent = Replica("c", offline=True), Replica("c", current=True, active=20 * 10**9)
    found = findings(A=Placement(3, "a", (HERE, down), "mine"), B=Placement(3, "a", (HERE, silent), "mine"))
    assert found == [("warning", "server c is not heard of, which keeps A, B")]


def test_a_server_that_lags_is_named_with_how_far() -> None:
    late, new = Replica("c", current=True, lag=2_000), Replica("c", current=False, lag=3)
    found = findings(A=Placement(3, "a", (HERE, late), "mine"), B=Placement(3, "a", (HERE, new), "mine"))
    assert found == [("warning", "server c does not keep up, by up to 2000 writes: A, B")]


def test_a_few_writes_behind_are_usual() -> None:
    busy = Replica("c", current=True, lag=40, active=900_000_000)
    assert findings(A=Placement(3, "a", (HERE, busy), "mine"))[0][0] == "ok"


def test_streams_without_a_leader_are_an_error_and_named_first() -> None:
    found = findings(A=WHOLE, B=Placement(0, cluster="?"), C=Placement(3, "", (HERE, Replica("c")), "mine"))
    assert found == [("error", "no leader answers, so that nothing is stored or read: B, C")]
