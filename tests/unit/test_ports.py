"""Ports that tests give to what they start: between the choice and the start nobody else may get them."""

from __future__ import annotations

import itertools
import socket

from tests.support.ports import FIRST, LAST, free_port, share


def test_no_port_is_given_out_twice_for_long() -> None:
    given = [free_port() for _ in range(1000)]
    assert len(set(given)) == len(given)


def test_a_port_that_somebody_listens_on_is_not_given_out() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        other = free_port()
        assert free_port(iter([taken.getsockname()[1], other])) == other


def test_processes_of_a_test_run_have_ports_of_their_own() -> None:
    shares = [share({"PYTEST_XDIST_WORKER": f"gw{n}", "PYTEST_XDIST_WORKER_COUNT": "5"}) for n in range(5)]
    assert all(set(one).isdisjoint(other) for one, other in itertools.combinations(shares, 2))
    assert set().union(*shares) <= set(share({})) == set(range(FIRST, LAST))
