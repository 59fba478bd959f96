"""Which waits nothing waits for any more once a group of branches has failed: pure."""

from __future__ import annotations

from collections.abc import Mapping

from ironflow.names import Scope
from ironflow.records import WaitRecord
from ironflow_worker.memo import Memo


def left_behind(memo: Memo, recorded: Mapping[str, WaitRecord], group: Scope) -> dict[str, WaitRecord]:
    """Return the open waits of the branches of a group, by key; but for sleeps, which end whoever waits for them.

    A run that is retried goes on with them.

    Args:
        memo: what was recorded before the pass.
        recorded: the waits that the pass has recorded, by key.
        group: the scope of the group, and its name.

    """
    new = {key: wait for key, wait in recorded.items() if wait.scope[: len(group)] == group}
    return {key: wait for key, wait in (memo.open_in(group) | new).items() if wait.kind != "sleep"}
