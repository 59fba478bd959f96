"""What whoever examines was not allowed to see."""

from __future__ import annotations

from collections.abc import Mapping

from ironflow.doctor.finding import Finding


def check_access(refused: Mapping[str, str]) -> Finding:
    """Say whether all checks could be made.

    Args:
        refused: why each check was refused that was, by its name.

    """
    if not refused:
        return Finding(check="access", level="ok", text="this identity may look at all that was asked for")
    reasons = "; ".join(f"{check}: {reason}" for check, reason in refused.items())
    return Finding(
        check="access",
        level="warning",
        text=f"this identity may not look at {len(refused)} of the checks ({reasons})",
        advice="sign in with the operator's role, which 'ironflow nats-accounts' prints",
    )
