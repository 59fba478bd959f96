"""What whoever examines was not allowed to see."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from ironflow.doctor.finding import Finding

_LONGEST_REASONS = 250


def check_access(refused: Mapping[str, str]) -> Finding:
    """Say whether all checks could be made.

    Args:
        refused: why each check was refused that was, by its name.

    """
    if not refused:
        return Finding(check="access", level="ok", text="this identity may look at all that was asked for")
    checks = ", ".join(refused)
    reasons = textwrap.shorten("; ".join(dict.fromkeys(refused.values())), _LONGEST_REASONS, placeholder=" …")
    return Finding(
        check="access",
        level="warning",
        text=f"this identity may not look at {checks} ({reasons})",
        advice="sign in with the operator's role, which 'ironflow nats-accounts' prints, and with the "
        "NATS_JS_API_PREFIX that goes with it",
    )
