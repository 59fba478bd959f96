"""Reads what documents contain that can be checked: code, and links."""

from __future__ import annotations

import re
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")


def fences(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    found = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [code for marked, code in found if marked == language]


def links(document: Path) -> list[tuple[str, str]]:
    """Return the file and the anchor of each link that is not to another site."""
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return _LINK.findall(prose)
