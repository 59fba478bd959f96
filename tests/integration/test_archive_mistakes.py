"""An archive's URL with something wrong in it: what is told says what it is, and never the URL."""

from __future__ import annotations

import pytest

from ironflow.broker.protocol import Unavailable
from ironflow.errors import DefinitionError
from ironflow.names import Names
from ironflow_engine.archive.archive import PostgresArchive

NAMES = Names("test")


async def problem(url: str) -> str:
    """Return what is told of an archive at this URL."""
    archive = PostgresArchive(url, NAMES)
    try:
        with pytest.raises(Unavailable) as caught:
            await archive.history.run("none")
    finally:
        await archive.close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("no-such-host.invalid:5432/shop", "the host that its URL names is not known"),
        ("127.0.0.1:1/shop", "nothing listens at the host and port that its URL names"),
    ],
)
async def test_a_wrong_place_is_told(place: str, says: str) -> None:
    told = await problem(f"postgresql://engine:canary-secret@{place}")
    assert told == f"the archive does not answer: {says}"


async def test_a_database_that_does_not_exist_is_told(archive_url: str) -> None:
    told = await problem(f"{archive_url}_typo")
    assert "database" in told
    assert "does not exist" in told
    assert "canary-secret" not in told


@pytest.mark.parametrize("url", ["postgress://u:canary@h/d", "postgresql//u:canary@h/d", "h:5432/d", "mysql://h", " "])
def test_what_is_no_url_is_told_with_what_one_looks_like(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"postgresql://user:password@host:5432/database") as caught:
        PostgresArchive(url, NAMES)
    assert "canary" not in str(caught.value)
