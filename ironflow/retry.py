"""When a failed step is tried again."""

from __future__ import annotations

import msgspec

from ironflow.durations import Duration, parse_duration
from ironflow.errors import DefinitionError, LimitError

MOST_ATTEMPTS = 100
LARGEST_BACKOFF = 100


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A retry policy as it is stored: plain numbers, milliseconds."""

    max_attempts: int = 3
    initial_delay_ms: int = 1_000
    backoff: float = 2.0
    max_delay_ms: int = 300_000
    jitter: float = 0.1

    def delay_ms(self, attempt: int, chance: float) -> int | None:
        """Return the delay before the attempt after *attempt*, or None where there is no further attempt.

        Args:
            attempt: the number of the attempt that failed, from 1.
            chance: a random number in [0, 1); it is handed in so that this stays a pure function.

        """
        if attempt >= self.max_attempts:
            return None
        plain = self.initial_delay_ms * self.backoff ** min(attempt - 1, 64)
        spread = 1.0 + self.jitter * (2.0 * chance - 1.0)
        return max(1, min(round(min(plain, self.max_delay_ms) * spread), self.max_delay_ms))


class Retry:
    """How often and how soon a failed step is tried again.

    Args:
        max_attempts: how many times the body is started at the most, the first included; 1 to 100.
        initial_delay: the delay after the first failure.
        backoff: what each further delay is multiplied with; at least 1.
        max_delay: no delay is longer than this.
        jitter: each delay is spread by up to this share in both directions; 0 to 1.

    Raises:
        DefinitionError: a value is out of its range.

    """

    def __init__(
        self,
        *,
        max_attempts: int = 3,
        initial_delay: Duration = "1s",
        backoff: float = 2.0,
        max_delay: Duration = "5m",
        jitter: float = 0.1,
    ) -> None:
        _require(
            _is_whole(max_attempts) and 1 <= max_attempts <= MOST_ATTEMPTS,
            f"max_attempts must be a whole number from 1 to {MOST_ATTEMPTS}, got {max_attempts!r}",
        )
        _require(
            _is_number(backoff) and 1 <= backoff <= LARGEST_BACKOFF,
            f"backoff must be a number from 1 to {LARGEST_BACKOFF}, got {backoff!r}",
        )
        _require(_is_number(jitter) and 0 <= jitter <= 1, f"jitter must be a number from 0 to 1, got {jitter!r}")
        try:
            initial_ms = parse_duration(initial_delay, "initial_delay")
            max_ms = parse_duration(max_delay, "max_delay")
        except (ValueError, LimitError) as error:
            raise DefinitionError(str(error)) from error
        _require(
            max_ms >= initial_ms,
            f"max_delay ({max_delay!r}) must not be shorter than initial_delay ({initial_delay!r})",
        )
        self.policy = RetryPolicy(
            max_attempts=max_attempts,
            initial_delay_ms=initial_ms,
            backoff=float(backoff),
            max_delay_ms=max_ms,
            jitter=float(jitter),
        )

    def __repr__(self) -> str:
        policy = self.policy
        return (
            f"Retry(max_attempts={policy.max_attempts}, initial_delay={policy.initial_delay_ms / 1000}, "
            f"backoff={policy.backoff}, max_delay={policy.max_delay_ms / 1000}, jitter={policy.jitter})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retry) and other.policy == self.policy

    def __hash__(self) -> int:
        return hash(self.policy)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(holds: bool, message: str) -> None:  # noqa: FBT001 - a guard reads best with the condition first
    if not holds:
        raise DefinitionError(message)
