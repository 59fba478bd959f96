"""Subjects and filters, as NATS reads them: "*" stands for one token, a closing ">" for one or more."""

from __future__ import annotations

from collections.abc import Callable

SEPARATOR = "."
ONE = "*"
REST = ">"


def is_literal(subject: str) -> bool:
    """Say whether *subject* names one subject rather than filters several."""
    return not any(token in (ONE, REST) for token in subject.split(SEPARATOR))


def is_valid(subject: str) -> bool:
    """Say whether *subject* is a subject or filter: no empty token, no white space, ">" only at the end."""
    if len(subject.split()) != 1 or subject[0].isspace() or subject[-1].isspace():
        return False
    tokens = subject.split(SEPARATOR)
    return all(tokens) and REST not in tokens[:-1]


def matches(subject_filter: str, subject: str) -> bool:
    """Say whether a literal *subject* is one of those that *subject_filter* names."""
    return matcher(subject_filter)(subject)


def matcher(subject_filter: str) -> Callable[[str], bool]:
    """Return a function that tells for literal subjects whether *subject_filter* names them.

    Worth keeping where many subjects meet one filter: the common shapes need no tokens.
    """
    tokens = subject_filter.split(SEPARATOR)
    if ONE not in tokens:
        if tokens == [REST]:
            return bool
        if tokens[-1] == REST:
            prefix = subject_filter[: -len(REST)]
            return lambda subject: subject.startswith(prefix) and len(subject) > len(prefix)
        return subject_filter.__eq__
    return lambda subject: _tokens_match(tokens, subject.split(SEPARATOR))


def matcher_of_any(subject_filters: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a function that tells whether at least one of *subject_filters* names a subject."""
    matchers = [matcher(subject_filter) for subject_filter in subject_filters]
    if len(matchers) == 1:
        return matchers[0]
    return lambda subject: any(match(subject) for match in matchers)


def overlap(one: str, other: str) -> bool:
    """Say whether there is a subject that both filters name."""
    ours, theirs = one.split(SEPARATOR), other.split(SEPARATOR)
    for our, their in zip(ours, theirs, strict=False):
        if REST in (our, their):
            return True
        if our != their and ONE not in (our, their):
            return False
    return len(ours) == len(theirs)


def _tokens_match(wanted: list[str], tokens: list[str]) -> bool:
    if wanted[-1] == REST:
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(want in (ONE, token) for want, token in zip(wanted, tokens, strict=False))
