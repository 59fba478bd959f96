"""What whoever asks for a list is told while an engine still reads the runs that there are."""

from __future__ import annotations

import pytest

import ironflow
from ironflow import Context
from ironflow.errors import EngineUnavailableError
from ironflow_engine.read_model import ReadModel
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time


@ironflow.function(id="short", queue="q")
async def short(ctx: Context[None]) -> str:
    return ctx.run.id


async def test_a_list_that_is_not_there_yet_is_told_from_an_engine_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(short) as system:
        await system.output(short)

        async def not_in_time(model: ReadModel) -> None:
            raise TimeoutError

        monkeypatch.setattr(ReadModel, "catch_up", not_in_time)
        with pytest.raises(EngineUnavailableError, match=r"no lists yet.* has come to change 0 of \d+; ask again"):
            _ = [run async for run in system.client.runs()]
