"""What a check says."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "error", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one check.

    Attributes:
        check: what was looked at.
        level: how it stands; "unknown" where it could not be learned, which is never taken for "ok".
        text: what was found.
        advice: what to do; empty where nothing is to be done.

    """

    check: str
    level: Level
    text: str
    advice: str = ""
